#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "ridgeline/base/checksum.h"
#include "ridgeline/base/error.h"
#include "ridgeline/base/json.h"
#include "ridgeline/checkpoint/convert.h"
#include "ridgeline/checkpoint/safetensors.h"

namespace ridgeline::checkpoint {
namespace {

std::string in_quotes(std::string_view text) {
  return json_string(text, NotUtf8::replace);
}

int64_t byte_count(const FileLayout::TensorPlan& tensor) {
  return tensor.count * size_of(tensor.spec.dtype);
}

// Length, JSON and padding for one file whose tensors stand in `file.tensors`; sets their offsets.
void place(FileLayout& layout, FileLayout::FilePlan& file, const LayoutOptions& options) {
  std::stable_sort(file.tensors.begin(), file.tensors.end(), [&](int a, int b) {
    return size_of(layout.tensors[a].spec.dtype) > size_of(layout.tensors[b].spec.dtype);
  });
  std::string header = "{";
  if (!options.metadata.empty()) {
    header += "\"__metadata__\":{";
    for (const auto& [key, value] : options.metadata) {
      if (header.back() != '{') header += ',';
      header += in_quotes(key) + ":" + in_quotes(value);
    }
    header += '}';
  }
  int64_t position = 0;
  for (const int index : file.tensors) {
    FileLayout::TensorPlan& tensor = layout.tensors[index];
    const int64_t end = position + byte_count(tensor);
    if (header.size() > 1) header += ',';
    header +=
        fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", in_quotes(tensor.spec.name),
                    safetensors_name(tensor.spec.dtype), fmt::join(tensor.spec.shape, ","), position, end);
    tensor.offset = position;
    position = end;
  }
  header += '}';
  const auto alignment = static_cast<size_t>(options.header_alignment);
  const size_t head = (8 + header.size() + alignment - 1) / alignment * alignment;
  header.resize(head - 8, ' ');
  RL_CHECK(static_cast<int64_t>(header.size()), <=, kMaxHeaderBytes);
  const uint64_t length = header.size();
  file.head.resize(8);
  std::memcpy(file.head.data(), &length, 8);
  file.head += header;
  file.size = static_cast<int64_t>(head) + position;
  for (const int index : file.tensors) layout.tensors[index].offset += static_cast<int64_t>(head);
}

}  // namespace

int FileLayout::find(std::string_view name) const {
  const auto found = by_name.find(std::string(name));
  return found == by_name.end() ? -1 : found->second;
}

int64_t FileLayout::data_bytes() const {
  int64_t bytes = 0;
  for (const TensorPlan& tensor : tensors) bytes += byte_count(tensor);
  return bytes;
}

FileLayout plan_layout(std::vector<TensorSpec> tensors, const LayoutOptions& options) {
  RL_REQUIRE(options.header_alignment > 0 && options.header_alignment % 8 == 0, "header alignment {}",
             options.header_alignment);
  FileLayout layout;
  layout.files.emplace_back();
  int64_t bytes = 0;
  for (TensorSpec& spec : tensors) {
    RL_REQUIRE(!spec.name.empty() && spec.name != "__metadata__", "a tensor cannot be called '{}'", spec.name);
    const auto index = static_cast<int>(layout.tensors.size());
    RL_REQUIRE(layout.by_name.emplace(spec.name, index).second, "two tensors are called '{}'", spec.name);
    FileLayout::TensorPlan plan;
    plan.count = element_count(spec.shape);
    plan.spec = std::move(spec);
    if (bytes > 0 && bytes + byte_count(plan) > options.max_file_bytes) {
      layout.files.emplace_back();
      bytes = 0;
    }
    bytes += byte_count(plan);
    plan.file = static_cast<int>(layout.files.size()) - 1;
    layout.files.back().tensors.push_back(index);
    layout.tensors.push_back(std::move(plan));
  }
  for (size_t i = 0; i < layout.files.size(); ++i) {
    FileLayout::FilePlan& file = layout.files[i];
    file.name = layout.files.size() == 1
                    ? fmt::format("{}.safetensors", options.stem)
                    : fmt::format("{}-{:05}-of-{:05}.safetensors", options.stem, i + 1, layout.files.size());
    place(layout, file, options);
  }
  return layout;
}

std::string index_json(const FileLayout& layout) {
  nlohmann::json index;
  index["metadata"]["total_size"] = layout.data_bytes();
  index["weight_map"] = nlohmann::json::object();
  for (const FileLayout::TensorPlan& tensor : layout.tensors) {
    index["weight_map"][tensor.spec.name] = layout.files[tensor.file].name;
  }
  return json_text(index, 2) + "\n";
}

uint32_t write_range(const FileLayout& layout, File& file, int index, int64_t first, int64_t count, ConstRef values) {
  RL_REQUIRE(index >= 0 && index < static_cast<int>(layout.tensors.size()), "no tensor {}", index);
  const FileLayout::TensorPlan& tensor = layout.tensors[index];
  RL_REQUIRE(first >= 0 && count >= 0 && first <= tensor.count && count <= tensor.count - first,
             "{} elements from {} on of '{}' {}", count, first, tensor.spec.name, to_string(tensor.spec.shape));
  const int64_t size = size_of(tensor.spec.dtype);
  // Small enough that what was converted or written is still in the cache when it is summed.
  constexpr int64_t kChunkBytes = 1 << 16;
  alignas(64) std::byte converted[kChunkBytes];
  const bool same = values.dtype == tensor.spec.dtype;
  const int64_t chunk = (same ? 16 * kChunkBytes : kChunkBytes) / size;
  uint32_t crc = 0;
  for (int64_t done = 0; done < count;) {
    const int64_t part = std::min(chunk, count - done);
    const auto* bytes = static_cast<const std::byte*>(values.at(done).data);
    if (!same) {
      convert(values.at(done), Ref(converted, tensor.spec.dtype), part);
      bytes = converted;
    }
    const std::span<const std::byte> span(bytes, static_cast<size_t>(part * size));
    crc = crc32c(span, crc);
    file.write_at(tensor.offset + (first + done) * size, span);
    done += part;
  }
  return crc;
}

}  // namespace ridgeline::checkpoint
