#include "ridgeline/base/mapped_at.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <string_view>

namespace ridgeline {
namespace {

// The lines of a file, without memory of their own; what is longer than the buffer is cut.
class Lines {
 public:
  explicit Lines(const char* file) : descriptor_(::open(file, O_RDONLY | O_CLOEXEC)) {}
  ~Lines() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  Lines(const Lines&) = delete;
  Lines& operator=(const Lines&) = delete;

  bool next(std::string_view& line) {
    size_t length = 0;
    for (char one = 0; get(one) && one != '\n';) {
      if (length < line_.size()) line_[length++] = one;
    }
    line = {line_.data(), length};
    return length > 0;
  }

 private:
  bool get(char& one) {
    if (at_ == end_) {
      ssize_t count = 0;
      do count = descriptor_ < 0 ? 0 : ::read(descriptor_, bytes_.data(), bytes_.size());
      while (count < 0 && errno == EINTR);
      at_ = 0;
      end_ = static_cast<size_t>(std::max<ssize_t>(count, 0));
    }
    if (at_ == end_) return false;
    one = bytes_[at_++];
    return true;
  }

  int descriptor_;
  size_t at_ = 0, end_ = 0;
  std::array<char, 1024> bytes_;
  std::array<char, 4096 + 128> line_;
};

// Takes digits of base 16, and one sign behind them, off the text.
uint64_t take_hexadecimal(std::string_view& text) {
  uint64_t value = 0;
  for (; !text.empty(); text.remove_prefix(1)) {
    const char digit = text.front();
    if (digit >= '0' && digit <= '9') {
      value = 16 * value + static_cast<uint64_t>(digit - '0');
    } else if (digit >= 'a' && digit <= 'f') {
      value = 16 * value + static_cast<uint64_t>(digit - 'a' + 10);
    } else {
      break;
    }
  }
  text.remove_prefix(std::min<size_t>(1, text.size()));
  return value;
}

void skip_field(std::string_view& text) {
  text.remove_prefix(std::min(text.find(' '), text.size()));
  text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
}

MappedAt::Kind kind_of(const char* name, uint64_t place_in_file) {
  // First, since a corpus may lie in /dev/shm, too.
  struct stat now {};
  if (::stat(name, &now) == 0 && static_cast<uint64_t>(now.st_size) <= place_in_file) return MappedAt::Kind::cut_file;
  const std::string_view text = name;
  for (const std::string_view place : {"/memfd:", "/dev/shm/", "/SYSV", "/dev/zero (deleted)"})
    if (text.starts_with(place)) return MappedAt::Kind::shared_memory;
  return text.starts_with('/') ? MappedAt::Kind::file : MappedAt::Kind::other;
}

}  // namespace

// A line: "BEGIN-END rw-s OFFSET DEVICE INODE    NAME".
MappedAt mapped_at(const void* address) noexcept {
  const auto place = reinterpret_cast<uintptr_t>(address);
  MappedAt result;
  Lines lines("/proc/self/maps");
  for (std::string_view line; lines.next(line);) {
    const uint64_t begin = take_hexadecimal(line), end = take_hexadecimal(line);
    if (place < begin || place >= end) continue;
    skip_field(line);
    const uint64_t offset = take_hexadecimal(line);
    skip_field(line);
    skip_field(line);
    std::copy_n(line.begin(), std::min(line.size(), result.name.size() - 1), result.name.begin());
    result.kind = kind_of(result.name.data(), offset + (place - begin));
    if (result.kind == MappedAt::Kind::other) result.name.fill('\0');
    break;
  }
  return result;
}

}  // namespace ridgeline
