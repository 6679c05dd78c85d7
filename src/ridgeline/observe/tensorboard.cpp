#include "ridgeline/observe/tensorboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <bit>
#include <chrono>

#include "ridgeline/base/checksum.h"

namespace ridgeline::observe {
namespace {

constexpr size_t kPendingLimit = 1 << 16;

template <typename T>
void append_raw(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

// Protocol-buffer encoding: varints of 7 bits, lowest first; a field's key is (number << 3 | wire type).
void append_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}
enum Wire : uint8_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };
void append_key(std::string& out, int field, Wire wire) {
  append_varint(out, static_cast<uint64_t>(field) << 3 | wire);
}
void append_bytes(std::string& out, int field, std::string_view content) {
  append_key(out, field, bytes);
  append_varint(out, content.size());
  out += content;
}

void append_times(std::string& event, double wall_time, int64_t step) {
  append_key(event, 1, fixed64);
  append_raw(event, wall_time);
  if (step == 0) return;  // the default is not written
  append_key(event, 2, varint);
  append_varint(event, static_cast<uint64_t>(step));
}

size_t varint_size(uint64_t value) {
  size_t size = 1;
  for (; value >= 0x80; value >>= 7) ++size;
  return size;
}

uint32_t masked(uint32_t crc) {
  return std::rotr(crc, 15) + 0xA282EAD8U;
}

double seconds_since_1970() {
  using std::chrono::system_clock;
  return std::chrono::duration<double>(system_clock::now().time_since_epoch()).count();
}

std::string host_name() {
  char name[256] = {};
  if (::gethostname(name, sizeof name - 1) != 0 || name[0] == '\0') return "localhost";
  return name;
}

}  // namespace

void events::version(std::string& event, double wall_time) {
  append_times(event, wall_time, 0);
  append_bytes(event, 3, "brain.Event:2");
}

void events::session_start(std::string& event, double wall_time, int64_t step) {
  append_times(event, wall_time, step);
  append_bytes(event, 7, "\x08\x01");  // SessionLog{status = START}
}

void events::scalar(std::string& event, double wall_time, int64_t step, std::string_view tag, float value) {
  append_times(event, wall_time, step);
  const size_t value_size = 1 + varint_size(tag.size()) + tag.size() + 5;
  append_key(event, 5, bytes);  // Event.summary
  append_varint(event, 1 + varint_size(value_size) + value_size);
  append_key(event, 1, bytes);  // Summary.value
  append_varint(event, value_size);
  append_bytes(event, 1, tag);
  append_key(event, 2, fixed32);
  append_raw(event, value);
}

void events::text(std::string& event, double wall_time, int64_t step, std::string_view tag, std::string_view markdown) {
  std::string tensor;  // TensorProto{dtype = DT_STRING, tensor_shape = [1], string_val}
  append_key(tensor, 1, varint);
  append_varint(tensor, 7);
  append_bytes(tensor, 2, std::string_view("\x12\x02\x08\x01", 4));  // TensorShapeProto{dim {size: 1}}
  append_bytes(tensor, 8, markdown);
  std::string plugin, metadata, value, summary;
  append_bytes(plugin, 1, "text");
  append_bytes(metadata, 1, plugin);
  append_bytes(value, 1, tag);
  append_bytes(value, 8, tensor);
  append_bytes(value, 9, metadata);
  append_bytes(summary, 1, value);
  append_times(event, wall_time, step);
  append_bytes(event, 5, summary);
}

void events::frame(std::string& record, std::string_view event) {
  const uint64_t length = event.size();
  append_raw(record, length);
  append_raw(record, masked(crc32c(std::as_bytes(std::span(&length, 1)))));
  record += event;
  append_raw(record, masked(crc32c(bytes_of(event))));
}

TensorBoardLog::TensorBoardLog(const std::filesystem::path& folder, std::optional<int64_t> resumed_at) {
  static std::atomic<int> number{0};
  make_folder(folder);
  const double now = seconds_since_1970();
  // Readers sort the files of a folder by name: the time comes first.
  file_.emplace(folder / fmt::format("events.out.tfevents.{:010}.{}.{}.{}", static_cast<int64_t>(now), host_name(),
                                     ::getpid(), number++),
                File::Mode::create);
  pending_.reserve(kPendingLimit + 4096);
  event_.reserve(4096);
  events::version(event_, now);
  append(event_);
  if (resumed_at.has_value()) {
    event_.clear();
    events::session_start(event_, now, *resumed_at + 1);
    append(event_);
  }
  flush();
}

TensorBoardLog::~TensorBoardLog() {
  try {
    if (file_.has_value()) flush();
  } catch (...) {  // NOLINT(bugprone-empty-catch): nobody is left to tell; flush() reports when called
  }
}

void TensorBoardLog::append(std::string_view event) {
  events::frame(pending_, event);
  if (pending_.size() >= kPendingLimit) flush();
}

void TensorBoardLog::scalar(std::string_view tag, int64_t step, double value) {
  event_.clear();
  events::scalar(event_, seconds_since_1970(), step, tag, static_cast<float>(value));
  append(event_);
}

void TensorBoardLog::text(std::string_view tag, int64_t step, std::string_view markdown) {
  event_.clear();
  events::text(event_, seconds_since_1970(), step, tag, markdown);
  append(event_);
}

void TensorBoardLog::flush() {
  if (pending_.empty()) return;
  file_->write_at(end_, bytes_of(std::string_view(pending_)));
  end_ += static_cast<int64_t>(pending_.size());
  pending_.clear();
}

void TensorBoardLog::sync() {
  flush();
  file_->sync();
}

}  // namespace ridgeline::observe
