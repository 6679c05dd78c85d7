// Any bytes as a safetensors file: refused with an Error or sound, never anything else.
#include <cstring>

#include "fuzz_driver.h"
#include "ridgeline/base/error.h"
#include "ridgeline/checkpoint/safetensors.h"

using namespace ridgeline;
using namespace ridgeline::checkpoint;

namespace {

std::string with_length(const std::string& json, size_t data_bytes) {
  std::string text(8, '\0');
  const uint64_t length = json.size();
  std::memcpy(text.data(), &length, 8);
  return text + json + std::string(data_bytes, 'd');
}

void try_header(std::string_view text) {
  try {
    const Header header = parse_header(bytes_of(text), static_cast<int64_t>(text.size()), "input");
    int64_t position = header.data_begin;
    for (const FileTensor& tensor : header.tensors) {
      RL_CHECK(tensor.begin, ==, position);
      RL_CHECK(tensor.begin, <=, tensor.end);
      if (tensor.dtype.has_value()) {
        RL_CHECK(tensor.end - tensor.begin, ==, element_count(tensor.shape) * size_of(*tensor.dtype));
      }
      position = tensor.end;
    }
    RL_CHECK(position, ==, static_cast<int64_t>(text.size()));
  } catch (const Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try_header(text);
  // And with the length of the header put right, so that mutations reach what is behind it.
  const size_t end = text.rfind('}');
  if (size > 8 && end != std::string::npos && end >= 8) {
    try_header(with_length(text.substr(8, end - 7), size - end - 1));
  }
  return 0;
}

std::vector<std::string> seeds() {
  const FileLayout layout =
      plan_layout({{"weight", DType::f32, {3, 5}}, {"half", DType::bf16, {7}}, {"n", DType::i64, {}}});
  std::string written = layout.files[0].head;
  written.resize(static_cast<size_t>(layout.files[0].size), 'x');
  return {written,
          with_length(R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4),
          with_length(R"({"a":{"dtype":"U8","shape":[2,0],"data_offsets":[0,0]},)"
                      R"("b":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}})",
                      4)};
}
