// NumPy's .npy arrays (format versions 1 to 3): small dumps exchanged with other programs.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

#include "ridgeline/base/dtype.h"
#include "ridgeline/base/error.h"
#include "ridgeline/checkpoint/safetensors.h"

namespace ridgeline::checkpoint {

struct NpyHeader {
  DType dtype = DType::f32;
  Shape shape;
  int64_t data_begin = 0;  // bytes from the start of the file
};

// Little-endian (or one-byte) f2, f4, f8, i4, i8, u1, u2 in C order; anything else, a header that is cut or odd, or
// data that does not end with the file is an Error that names `file`.
NpyHeader parse_npy_header(std::span<const std::byte> bytes, std::string_view file);

// An array in memory.
class NpyArray {
 public:
  explicit NpyArray(const std::filesystem::path& path);

  DType dtype() const { return header_.dtype; }
  const Shape& shape() const { return header_.shape; }
  int64_t count() const { return element_count(header_.shape); }
  ConstRef data() const { return {bytes_.data(), header_.dtype}; }
  // The values; another type than the file's is an Error.
  template <typename T>
  std::span<const T> values() const {
    expect(DTypeOf<T>::value);
    return {reinterpret_cast<const T*>(bytes_.data()), static_cast<size_t>(count())};
  }

 private:
  void expect(DType dtype) const;
  std::filesystem::path path_;
  NpyHeader header_;
  std::vector<std::byte> bytes_;
};

}  // namespace ridgeline::checkpoint
