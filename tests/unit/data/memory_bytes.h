// What tests and fuzz targets read instead of files.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "ridgeline/data/byte_source.h"

namespace ridgeline::data::test {

// Bytes of a test as a file's.
class MemoryBytes final : public ByteSource {
 public:
  explicit MemoryBytes(std::string bytes) : bytes_(std::move(bytes)) {}
  size_t read(std::span<char> out) override {
    const size_t got = bytes_.copy(out.data(), out.size(), done_);
    done_ += got;
    return got;
  }
  int64_t position() const override { return static_cast<int64_t>(done_); }

 private:
  std::string bytes_;
  size_t done_ = 0;
};

}  // namespace ridgeline::data::test
