// Progress of something long: one bar that is redrawn on a terminal, plain lines now and then everywhere else (log
// files, Slurm output).
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <string_view>

namespace ridgeline::observe {

struct ProgressOptions {
  std::string label;  // "prepare", "train"
  int64_t total = 0;  // <= 0: unknown; then count and rate are shown, no bar, no time left
  // "bytes" is shown as MB and MB/s; anything else is a count ("steps", "documents") shown with its rate.
  std::string unit = "items";
  int64_t start = 0;  // where a resumed job begins: its share is not counted in the rate

  std::FILE* output = nullptr;                                          // null: silent
  enum class Style { automatic, bar, lines } style = Style::automatic;  // automatic: bar when output is a terminal
  double line_seconds = 10;                                             // lines: at most one in this many seconds ...
  double line_percent = 5;        // ... and then only when this much of the total has passed, or 6 times as long
  std::function<double()> clock;  // seconds; empty: the steady clock
};

// update() costs an atomic store and a clock read; it draws at most ten times a second and allocates nothing. All
// members may be called from several threads.
class Progress {
 public:
  explicit Progress(ProgressOptions options);
  // Finishes, if finish() was not called.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // `done` so far, in units (absolute).
  void update(int64_t done);
  // A few words behind the bar: "loss 3.21". Kept until replaced; cut at 95 bytes.
  void note(std::string_view text);
  // Prints a whole line (newline added) without disturbing the bar.
  void print_line(std::string_view text);
  // One last line, in place of the bar: "label: 123,456 units in 1 min 02 s (1.99 k units/s)"; of a job that went
  // on "label: 1,200 units, 400 of them in …". Only the first call counts.
  void finish();

 private:
  double now() const;
  bool due(double time) const;
  void draw(double time);
  std::string_view compose(std::span<char> buffer, double time) const;
  std::string_view compose_last(std::span<char> buffer, double time) const;
  void put(std::string_view text) const;

  ProgressOptions options_;
  bool bar_ = false;
  double begin_ = 0;
  std::atomic<double> drawn_{0};
  std::atomic<int64_t> drawn_done_{0};
  std::atomic<int64_t> done_{0};
  std::mutex mutex_;  // of everything below, and of the output
  bool finished_ = false;
  char note_[96] = {};
};

}  // namespace ridgeline::observe
