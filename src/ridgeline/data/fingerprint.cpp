#include "ridgeline/data/fingerprint.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <span>

#include "ridgeline/base/checksum.h"
#include "ridgeline/base/error.h"

namespace ridgeline::data {
namespace {

constexpr int64_t kBlocks = 256;
constexpr int64_t kBlockBytes = kWholeBytes / kBlocks;

}  // namespace

std::vector<ByteRange> sampled_blocks(int64_t file_bytes) {
  if (file_bytes <= 0) return {};
  if (file_bytes <= kWholeBytes) return {{0, file_bytes}};
  std::vector<ByteRange> blocks;
  // Block i begins at i / (kBlocks - 1) of the way to the last one; remainder and quotient apart, so that no product
  // overflows. The step is at least a block, since the file is longer than all blocks together.
  const int64_t way = file_bytes - kBlockBytes, step = way / (kBlocks - 1), rest = way % (kBlocks - 1);
  for (int64_t i = 0; i < kBlocks; ++i) blocks.push_back({i * step + i * rest / (kBlocks - 1), kBlockBytes});
  return blocks;
}

DatasetFingerprint fingerprint(const IndexedDataset& dataset) {
  const auto type = static_cast<std::byte>(dataset.token_type());
  uint32_t index = crc32c({&type, 1});
  index = crc32c(bytes_of(dataset.lengths()), index);
  uint32_t content = 0;
  dataset.read_bytes(sampled_blocks(dataset.bytes()),
                     [&](std::span<const std::byte> bytes) { content = crc32c(bytes, content); });
  return {.documents = dataset.documents(), .tokens = dataset.tokens(), .index = index, .content = content};
}

std::string to_text(const DatasetFingerprint& f) {
  return fmt::format("{} documents, {} tokens, index {}, content {}", f.documents, f.tokens, checksum_text(f.index),
                     checksum_text(f.content));
}

nlohmann::json to_json(const DatasetFingerprint& f) {
  return {{"documents", f.documents},
          {"tokens", f.tokens},
          {"index", checksum_text(f.index)},
          {"content", checksum_text(f.content)}};
}

DatasetFingerprint fingerprint_from_json(const nlohmann::json& json, std::string_view where) {
  try {
    return {.documents = json.at("documents").get<int64_t>(),
            .tokens = json.at("tokens").get<int64_t>(),
            .index = parse_checksum(json.at("index").get<std::string>(), where),
            .content = parse_checksum(json.at("content").get<std::string>(), where)};
  } catch (const nlohmann::json::exception& error) {
    throw Error(fmt::format("'{}' holds no fingerprint of a dataset: {}", where, error.what()));
  }
}

}  // namespace ridgeline::data
