// Any bytes as a .npy file.
#include "fuzz_driver.h"
#include "ridgeline/base/file.h"
#include "ridgeline/checkpoint/npy.h"

using namespace ridgeline;
using namespace ridgeline::checkpoint;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const NpyHeader header = parse_npy_header(bytes_of(text), "input");
    RL_CHECK(header.data_begin + element_count(header.shape) * size_of(header.dtype), ==, static_cast<int64_t>(size));
  } catch (const Error&) {
  }
  return 0;
}

std::vector<std::string> seeds() {
  using namespace std::string_literals;
  const auto npy = [](std::string start, const std::string& dictionary, size_t data_bytes) {
    return start + dictionary + std::string(data_bytes, 'd');
  };
  return {npy("\x93NUMPY\x01\x00\x3c\x00"s, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n", 24),
          npy("\x93NUMPY\x02\x00\x3a\x00\x00\x00"s, "{'descr': '|u1', 'fortran_order': False, 'shape': (5,), }\n", 5),
          npy("\x93NUMPY\x03\x00\x38\x00\x00\x00"s, "{'descr': '<i8', 'fortran_order': False, 'shape': (), }\n", 8)};
}
