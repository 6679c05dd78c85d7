#include "ridgeline/data/byte_source.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"

namespace ridgeline::data {
namespace {

class DescriptorBytes final : public ByteSource {
 public:
  explicit DescriptorBytes(File file) : file_(std::move(file)) {}

  size_t read(std::span<char> out) override {
    size_t done = 0;
    while (done < out.size()) {
      const ssize_t got = ::read(file_.descriptor(), out.data() + done, out.size() - done);
      if (got == 0) break;
      if (got < 0) {
        if (errno == EINTR) continue;
        throw system_error(fmt::format("cannot read '{}' at byte {}", file_.path().string(), position_), errno);
      }
      done += static_cast<size_t>(got);
      position_ += got;
    }
    return done;
  }

  int64_t position() const override { return position_; }

 private:
  File file_;
  int64_t position_ = 0;
};

class BytesAgain final : public ByteSource {
 public:
  BytesAgain(std::string start, std::unique_ptr<ByteSource> rest) : start_(std::move(start)), rest_(std::move(rest)) {}

  size_t read(std::span<char> out) override {
    const size_t again = std::min(out.size(), start_.size() - done_);
    std::memcpy(out.data(), start_.data() + done_, again);
    done_ += again;
    if (again == out.size()) return again;
    return again + rest_->read(out.subspan(again));
  }

  // Of compressed bytes nobody knows how many the start needed: then this is a guess until it is read again.
  int64_t position() const override {
    const int64_t all = rest_->position();
    return done_ < start_.size() ? std::min(all, static_cast<int64_t>(done_)) : all;
  }

 private:
  std::string start_;
  std::unique_ptr<ByteSource> rest_;
  size_t done_ = 0;
};

}  // namespace

std::unique_ptr<ByteSource> read_file(const std::filesystem::path& path) {
  return std::make_unique<DescriptorBytes>(File(path, File::Mode::read));
}

std::unique_ptr<ByteSource> read_standard_input() {
  const int descriptor = ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0);
  if (descriptor < 0) throw system_error("cannot read standard input", errno);
  return std::make_unique<DescriptorBytes>(File("standard input", descriptor));
}

std::string look_ahead(std::unique_ptr<ByteSource>& source, size_t most) {
  std::string start(most, '\0');
  start.resize(source->read(start));
  source = std::make_unique<BytesAgain>(start, std::move(source));
  return start;
}

}  // namespace ridgeline::data
