#include "ridgeline/observe/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "ridgeline/observe/format.h"

namespace ridgeline::observe {
namespace {

constexpr double kBarSeconds = 0.1;
constexpr size_t kLineBytes = 512;

// Text in a fixed buffer; what does not fit is cut.
class Writer {
 public:
  explicit Writer(std::span<char> buffer) : buffer_(buffer) {}
  template <typename... Values>
  void add(fmt::format_string<Values...> format, Values&&... values) {
    const auto result =
        fmt::format_to_n(buffer_.data() + size_, buffer_.size() - size_, format, std::forward<Values>(values)...);
    size_ = std::min(buffer_.size(), size_ + result.size);
  }
  std::string_view text() const { return {buffer_.data(), size_}; }

 private:
  std::span<char> buffer_;
  size_t size_ = 0;
};

int columns_of(std::FILE* output) {
  winsize size{};
  if (::ioctl(::fileno(output), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

bool counts_bytes(const ProgressOptions& options) {
  return options.unit == "bytes";
}

void add_amount(Writer& out, const ProgressOptions& options, int64_t amount) {
  if (counts_bytes(options)) {
    // Two digits of what is little: 0.26 MB and not 0 MB.
    const double megabytes = static_cast<double>(amount) / 1e6;
    if (amount >= 1000 && megabytes < 9.95) {
      out.add("{:.2g}", megabytes);
    } else {
      out.add("{}", format_integer((amount + 500'000) / 1'000'000));
    }
  } else {
    out.add("{}", format_integer(amount));
  }
}

// "420/1,000 steps" or "420 steps".
void add_amounts(Writer& out, const ProgressOptions& options, int64_t done, std::string_view between) {
  add_amount(out, options, done);
  if (options.total > 0) {
    out.add("{}", between);
    add_amount(out, options, options.total);
  }
  out.add(" {}", counts_bytes(options) ? std::string_view("MB") : std::string_view(options.unit));
}

void add_rate(Writer& out, const ProgressOptions& options, double rate) {
  if (counts_bytes(options)) {
    out.add("{:.{}f} MB/s", rate / 1e6, rate < 1e8 ? 1 : 0);
  } else if (rate > 0 && rate < 1) {
    out.add("{:.3g} {}/s", rate, options.unit);
  } else {
    out.add("{} {}/s", format_count(rate), options.unit);
  }
}

// What of `text` fits into `columns`: whole parts of its list, so that no number is cut; of a single one what fits,
// never half a UTF-8 character.
std::string_view fitted(std::string_view text, int columns) {
  if (display_width(text) <= columns) return text;
  size_t end = 0;
  for (int seen = 0; end < text.size(); ++end) {
    const bool begins = (static_cast<unsigned char>(text[end]) & 0xC0U) != 0x80U;
    if (begins && seen++ == columns) break;
  }
  return text.substr(0, std::min(end, text.rfind(", ", end)));
}

}  // namespace

Progress::Progress(ProgressOptions options) : options_(std::move(options)) {
  using Style = ProgressOptions::Style;
  if (options_.output != nullptr) {
    bar_ = options_.style == Style::bar ||
           (options_.style == Style::automatic && ::isatty(::fileno(options_.output)) == 1);
  }
  done_ = options_.start;
  drawn_done_ = options_.start;
  begin_ = now();
  drawn_ = bar_ ? begin_ - 2 * kBarSeconds : begin_;  // the bar shows at the first update
}

Progress::~Progress() {
  finish();
}

double Progress::now() const {
  using std::chrono::steady_clock;
  if (options_.clock) return options_.clock();
  return std::chrono::duration<double>(steady_clock::now().time_since_epoch()).count();
}

bool Progress::due(double time) const {
  const double since = time - drawn_.load(std::memory_order_relaxed);
  if (bar_) return since >= kBarSeconds;
  if (since < options_.line_seconds) return false;
  const auto more = static_cast<double>(done_.load(std::memory_order_relaxed) - drawn_done_);
  return options_.total <= 0 || since >= 6 * options_.line_seconds ||
         more * 100 >= options_.line_percent * static_cast<double>(options_.total);
}

void Progress::update(int64_t done) {
  done_.store(done, std::memory_order_relaxed);
  if (options_.output == nullptr) return;
  const double time = now();
  if (!due(time)) return;
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (lock.owns_lock() && due(time) && !finished_) draw(time);
}

void Progress::note(std::string_view text) {
  const std::lock_guard lock(mutex_);
  size_t size = std::min(text.size(), sizeof note_ - 1);
  while (size < text.size() && size > 0 && (static_cast<unsigned char>(text[size]) & 0xC0U) == 0x80U) --size;
  std::copy_n(text.data(), size, note_);
  note_[size] = '\0';
}

void Progress::print_line(std::string_view text) {
  if (options_.output == nullptr) return;
  const std::lock_guard lock(mutex_);
  if (bar_ && !finished_) put("\r\x1b[K");
  put(text);
  put("\n");
  if (bar_ && !finished_) {
    draw(now());
  } else {
    std::fflush(options_.output);
  }
}

void Progress::finish() {
  const std::lock_guard lock(mutex_);
  if (finished_) return;
  finished_ = true;
  if (options_.output == nullptr) return;
  char buffer[kLineBytes];
  if (bar_) put("\r\x1b[K");
  put(compose_last(buffer, now()));
  put("\n");
  std::fflush(options_.output);
}

void Progress::put(std::string_view text) const {
  std::fwrite(text.data(), 1, text.size(), options_.output);
}

void Progress::draw(double time) {
  char buffer[kLineBytes];
  const std::string_view line = compose(buffer, time);
  if (bar_) {
    put("\r");
    put(line);
    put("\x1b[K");
  } else {
    put(line);
    put("\n");
  }
  std::fflush(options_.output);
  drawn_.store(time, std::memory_order_relaxed);
  drawn_done_.store(done_.load(std::memory_order_relaxed), std::memory_order_relaxed);
}

// "train  42% |=====>      | 420/1,000 steps, 3.20 steps/s, 3:01 left, loss 3.21", without the bar on plain lines.
std::string_view Progress::compose(std::span<char> buffer, double time) const {
  const int64_t done = done_.load(std::memory_order_relaxed);
  const double elapsed = time - begin_;
  // Of the first drawing's moment a rate would be any number.
  const double rate = elapsed >= kBarSeconds ? static_cast<double>(done - options_.start) / elapsed : 0;
  char tail_buffer[kLineBytes];
  Writer tail(tail_buffer);
  add_amounts(tail, options_, done, "/");
  tail.add(", ");
  add_rate(tail, options_, rate);
  const bool known = options_.total > 0;
  const double fraction =
      known ? std::clamp(static_cast<double>(done) / static_cast<double>(options_.total), 0.0, 1.0) : 0;
  if (known) {
    const double left = rate > 0 ? static_cast<double>(std::max<int64_t>(0, options_.total - done)) / rate
                                 : std::numeric_limits<double>::quiet_NaN();
    tail.add(", {} left", format_clock(left));
  } else {
    tail.add(", {}", format_clock(elapsed));
  }
  if (note_[0] != '\0') tail.add(", {}", std::string_view(note_));

  Writer line(buffer);
  if (!bar_) {
    line.add("{}: ", options_.label);
    if (known) line.add("{:.0f}% ", std::floor(fraction * 100));
    line.add("{}", tail.text());
    return line.text();
  }
  const int columns = std::min(columns_of(options_.output), 240) - 1;
  line.add("{} ", options_.label);
  if (known) {
    line.add("{:3.0f}% ", std::floor(fraction * 100));
    const int space = std::min(40, columns - display_width(line.text()) - display_width(tail.text()) - 3);
    if (space >= 4) {
      const int filled = static_cast<int>(std::floor(fraction * space));
      line.add("|{:=>{}}{:{}}| ", "", filled, "", space - filled);
    }
  }
  line.add("{}", tail.text());
  return fitted(line.text(), columns);
}

std::string_view Progress::compose_last(std::span<char> buffer, double time) const {
  const int64_t done = done_.load(std::memory_order_relaxed);
  const double elapsed = std::max(0.0, time - begin_);
  Writer line(buffer);
  line.add("{}: ", options_.label);
  if (options_.total > 0 && done != options_.total) {
    add_amounts(line, options_, done, " of ");
  } else {
    add_amount(line, options_, done);
    line.add(" {}", counts_bytes(options_) ? std::string_view("MB") : std::string_view(options_.unit));
  }
  if (options_.start > 0) {
    line.add(", ");
    add_amount(line, options_, done - options_.start);
    line.add(" of them");
  }
  line.add(" in {} (", format_duration(elapsed));
  add_rate(line, options_, elapsed > 0 ? static_cast<double>(done - options_.start) / elapsed : 0);
  line.add(")");
  if (note_[0] != '\0') line.add(", {}", std::string_view(note_));
  return line.text();
}

}  // namespace ridgeline::observe
