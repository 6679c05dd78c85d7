#include "ridgeline/plan/schedule_picture.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <limits>
#include <string_view>
#include <utility>
#include <vector>

#include "ridgeline/base/words.h"

namespace ridgeline::plan {
namespace {

using parallel::Period;
using parallel::PipelineShape;
using parallel::ScheduleEntry;
using parallel::Work;

struct Colour {
  int red, green, blue;
};
struct Look {
  Work work;
  char letter;
  std::string_view name;
  Colour colour;
};
constexpr std::array kLooks = {
    Look{Work::forward, 'F', "forward", {122, 172, 236}},
    Look{Work::loss, 'L', "loss", {229, 139, 139}},
    Look{Work::backward, 'B', "backward", {118, 204, 150}},
    Look{Work::backward_input, 'B', "backward, input", {118, 204, 150}},
    Look{Work::backward_weight, 'W', "backward, weights", {240, 190, 100}},
};

// What a picture shows.
struct Box {
  int stage, micro, chunk;  // `chunk`: among those of its stage
  Work work;
  Period time;
};
struct Scene {
  PipelineShape shape;
  parallel::Timeline timeline;
  std::vector<Box> boxes;  // computations that take time, by stage
  double shortest = std::numeric_limits<double>::infinity();

  Scene(const PipelineShape& of, std::span<const parallel::Cost> costs) : shape(of) {
    const std::vector<std::vector<ScheduleEntry>> lists = parallel::schedule(shape);
    timeline = parallel::timeline(lists, costs);
    for (size_t stage = 0; stage < lists.size(); ++stage) {
      for (size_t i = 0; i < lists[stage].size(); ++i) {
        const ScheduleEntry& entry = lists[stage][i];
        const Period& time = timeline.entries[stage][i];
        if (entry.work == Work::exchange || time.end <= time.begin) continue;
        boxes.push_back({static_cast<int>(stage), entry.micro, entry.chunk / shape.stages, entry.work, time});
        if (entry.work != Work::loss) shortest = std::min(shortest, time.end - time.begin);
      }
    }
  }
  bool shows(Work work) const {
    return std::any_of(boxes.begin(), boxes.end(), [&](const Box& box) { return box.work == work; });
  }
  std::string title() const {
    const auto plural = [](int number, std::string_view ending) { return number == 1 ? "" : ending; };
    return fmt::format("{}: {} stage{}, {} micro-batch{}, {} chunk{} per stage, bubble {:.1f} %", word_of(shape.kind),
                       shape.stages, plural(shape.stages, "s"), shape.micro_batches, plural(shape.micro_batches, "es"),
                       shape.chunks, plural(shape.chunks, "s"), 100 * timeline.idle_share);
  }
};

// ------------------------------------------------------------------------------------------------------------- text

// The boxes of one stage in columns of `1 / scale` time.
class TextRow {
 public:
  TextRow(int columns, double scale, bool numbered)
      : scale_(scale), numbered_(numbered), columns_(static_cast<size_t>(columns)) {}

  void add(const Box& box) {
    const double begin = box.time.begin * scale_, end = box.time.end * scale_;
    const auto last = std::min(static_cast<size_t>(std::ceil(end)), columns_.size());
    for (auto i = static_cast<size_t>(begin); i < last; ++i) {
      const auto left = static_cast<double>(i);
      const double covered = std::min(end, left + 1) - std::max(begin, left);
      Share& share = columns_[i].shares.at(static_cast<size_t>(box.work));
      share.covered += covered;
      columns_[i].idle -= covered;
      if (covered > share.most) share = {share.covered, covered, &box};
    }
  }

  std::string text() const {
    std::string row(columns_.size(), '.');
    for (size_t column = 0; column < row.size();) {
      const Box* box = columns_[column].shown();
      size_t end = column + 1;
      while (end < row.size() && columns_[end].shown() == box) ++end;
      if (box != nullptr) draw(*box, std::span(row).subspan(column, end - column));
      column = end;
    }
    return row;
  }

 private:
  // Of one column and work.
  struct Share {
    double covered = 0, most = 0;
    const Box* box = nullptr;  // the one that covers most
  };
  struct Column {
    std::array<Share, kLooks.size()> shares;
    double idle = 1;
    const Box* shown() const {
      const Share& most = *std::max_element(shares.begin(), shares.end(),
                                            [](const Share& a, const Share& b) { return a.covered < b.covered; });
      return most.covered >= idle ? most.box : nullptr;
    }
  };
  void draw(const Box& box, std::span<char> columns) const {
    const char letter = kLooks.at(static_cast<size_t>(box.work)).letter;
    std::fill(columns.begin(), columns.end(), numbered_ ? static_cast<char>(letter - 'A' + 'a') : letter);
    if (!numbered_) return;
    columns[0] = letter;
    const std::string number = std::to_string(box.micro);
    if (number.size() < columns.size()) std::copy(number.begin(), number.end(), columns.begin() + 1);
  }

  double scale_;
  bool numbered_;
  std::vector<Column> columns_;
};

// -------------------------------------------------------------------------------------------------------------- svg

constexpr double kLeft = 70, kTop = 64, kRight = 76, kRowHeight = 28, kBoxHeight = 22, kBoxWidth = 24;
constexpr double kMaxPlot = 1500, kTitleLetter = 9.5;

class Svg {
 public:
  explicit Svg(const Scene& scene)
      : scene_(scene),
        scale_(std::min(kBoxWidth / scene.shortest, kMaxPlot / scene.timeline.makespan)),
        plot_(scene.timeline.makespan * scale_) {}

  std::string draw() {
    const std::string title = scene_.title();
    const double width = kLeft + std::max(plot_ + kRight, kTitleLetter * static_cast<double>(title.size()));
    const double height = kTop + kRowHeight * scene_.shape.stages + 12;
    put(R"(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0:.6g} {1:.6g}" width="{0:.6g}" height="{1:.6g}" )"
        R"(font-family="Helvetica, Arial, sans-serif" font-size="12">)",
        width, height);
    put(R"(<title>{}</title>)", title);
    put(R"(<rect width="{:.6g}" height="{:.6g}" fill="#ffffff"/>)", width, height);
    put(R"(<text x="{}" y="26" font-size="15" font-weight="bold" fill="#24292f">{}</text>)", kLeft, title);
    legend();
    rows();
    boxes();
    numbers();
    put("</svg>");
    return std::move(text_);
  }

 private:
  template <typename... Values>
  void put(fmt::format_string<Values...> format, Values&&... values) {
    fmt::format_to(std::back_inserter(text_), format, std::forward<Values>(values)...);
    text_ += '\n';
  }

  void legend() {
    put(R"(<g id="legend" fill="#57606a">)");
    double x = kLeft;
    const auto entry = [&](std::string_view name, const std::string& colour) {
      put(R"(<rect x="{:.6g}" y="40" width="14" height="14" fill="{}"/>)", x, colour);
      put(R"(<text x="{:.6g}" y="51">{}</text>)", x + 20, name);
      x += 44 + 6.2 * static_cast<double>(name.size());
    };
    for (const Look& look : kLooks) {
      if (scene_.shows(look.work)) entry(look.name, hex(look.colour, 0));
    }
    entry("idle", kIdle);
    put("</g>");
  }

  void rows() {
    put(R"(<g id="stages" fill="#57606a">)");
    for (int stage = 0; stage < scene_.shape.stages; ++stage) {
      put(R"(<text x="{}" y="{:.6g}" text-anchor="end">stage {}</text>)", kLeft - 8, baseline(stage), stage);
      put(R"(<rect x="{}" y="{:.6g}" width="{:.6g}" height="{}" fill="{}"/>)", kLeft, top(stage), plot_, kBoxHeight,
          kIdle);
      put(R"(<text x="{:.6g}" y="{:.6g}">{} alive</text>)", kLeft + plot_ + 8, baseline(stage),
          scene_.timeline.peak_live[static_cast<size_t>(stage)]);
    }
    put("</g>");
  }

  // By colour, which is then said once.
  void boxes() {
    const bool framed = scene_.shortest * scale_ >= 4;
    put(R"(<g id="boxes"{}>)", framed ? R"( stroke="#ffffff")" : "");
    for (const Look& look : kLooks) {
      for (int chunk = 0; chunk < scene_.shape.chunks && scene_.shows(look.work); ++chunk) {
        put(R"(<g fill="{}">)", hex(look.colour, 0.55 * chunk / std::max(1, scene_.shape.chunks - 1)));
        for (const Box& box : scene_.boxes) {
          if (box.work == look.work && box.chunk == chunk)
            put(R"(<rect x="{:.6g}" y="{:.6g}" width="{:.6g}" height="{}"/>)", x_of(box.time.begin), top(box.stage),
                width_of(box), kBoxHeight);
        }
        put("</g>");
      }
    }
    put("</g>");
  }

  void numbers() {
    put(R"(<g id="numbers" fill="#24292f" font-size="11" text-anchor="middle">)");
    for (const Box& box : scene_.boxes) {
      const std::string number = std::to_string(box.micro);
      if (width_of(box) >= 4 + 6.5 * static_cast<double>(number.size()))
        put(R"(<text x="{:.6g}" y="{:.6g}">{}</text>)", x_of(box.time.begin) + width_of(box) / 2, baseline(box.stage),
            number);
    }
    put("</g>");
  }

  static std::string hex(const Colour& colour, double paleness) {
    const auto mix = [&](int part) { return static_cast<int>(std::lround(part + (255 - part) * paleness)); };
    return fmt::format("#{:02x}{:02x}{:02x}", mix(colour.red), mix(colour.green), mix(colour.blue));
  }
  double x_of(double time) const { return kLeft + time * scale_; }
  double width_of(const Box& box) const { return (box.time.end - box.time.begin) * scale_; }
  static double top(int stage) { return kTop + kRowHeight * stage; }
  static double baseline(int stage) { return top(stage) + 15; }

  static constexpr const char* kIdle = "#e9ecef";
  const Scene& scene_;
  const double scale_, plot_;
  std::string text_;
};

}  // namespace

std::string schedule_text(const PipelineShape& shape, std::span<const parallel::Cost> costs, int width) {
  const Scene scene(shape, costs);
  const size_t label = fmt::format("stage {}  ", shape.stages - 1).size();
  const double available = std::max(1.0, width - static_cast<double>(label));
  double scale = available / scene.timeline.makespan;
  // Whole columns for the shortest box; no more than its number needs.
  const double shortest = std::floor(scale * scene.shortest);
  const bool numbered = shortest >= 1;
  if (numbered) {
    const size_t wanted = 1 + std::to_string(shape.micro_batches - 1).size();
    scale = std::min(shortest, static_cast<double>(wanted)) / scene.shortest;
  }
  // Rounding must not add a column.
  const int columns = static_cast<int>(std::ceil(scene.timeline.makespan * scale - 1e-6));
  std::vector<TextRow> rows(static_cast<size_t>(shape.stages), TextRow(columns, scale, numbered));
  for (const Box& box : scene.boxes) rows[static_cast<size_t>(box.stage)].add(box);
  std::string text = scene.title() + "\n";
  for (int stage = 0; stage < shape.stages; ++stage)
    text += fmt::format("{:<{}}{}\n", fmt::format("stage {}", stage), label, rows[static_cast<size_t>(stage)].text());
  for (const Look& look : kLooks) {
    if (scene.shows(look.work)) text += fmt::format("{} {}  ", look.letter, look.name);
  }
  return text + ". idle\n";
}

std::string schedule_svg(const PipelineShape& shape, std::span<const parallel::Cost> costs) {
  const Scene scene(shape, costs);
  return Svg(scene).draw();
}

}  // namespace ridgeline::plan
