// TensorBoard event files, without TensorFlow: TFRecord framing (u64 length, masked CRC-32C of it, data, masked CRC-32C
// of the data) around hand-encoded protocol buffers (tensorflow/core/util/event.proto, framework/summary.proto).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "ridgeline/base/file.h"

namespace ridgeline::observe {

class TensorBoardLog {
 public:
  // Opens a new file `events.out.tfevents.<seconds>.<host>.<pid>.<n>` in `folder` (made when missing); files are never
  // continued. `resumed_at`: the step that the run continues from; TensorBoard then hides what earlier files say of
  // later steps.
  explicit TensorBoardLog(const std::filesystem::path& folder, std::optional<int64_t> resumed_at = {});
  ~TensorBoardLog();
  TensorBoardLog(TensorBoardLog&&) = delete;
  TensorBoardLog& operator=(TensorBoardLog&&) = delete;

  // Not finite values are written as they are (TensorBoard marks them).
  void scalar(std::string_view tag, int64_t step, double value);
  // Markdown, in the text tab.
  void text(std::string_view tag, int64_t step, std::string_view markdown);
  // Events are collected (64 KiB at most) until this writes them; once per step is right. Nothing is allocated in
  // between.
  void flush();
  // On return what was written is on the device.
  void sync();

  const std::filesystem::path& path() const { return file_->path(); }

 private:
  void append(std::string_view event);
  std::optional<File> file_;
  int64_t end_ = 0;
  std::string pending_, event_;
};

// The records as bytes, for tests and for the writer above; `event` is appended to. Times are seconds since 1970.
namespace events {
void version(std::string& event, double wall_time);
void session_start(std::string& event, double wall_time, int64_t step);
void scalar(std::string& event, double wall_time, int64_t step, std::string_view tag, float value);
void text(std::string& event, double wall_time, int64_t step, std::string_view tag, std::string_view markdown);
// `record` += frame around `event`.
void frame(std::string& record, std::string_view event);
}  // namespace events

}  // namespace ridgeline::observe
