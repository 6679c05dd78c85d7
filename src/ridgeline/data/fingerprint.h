// What makes a dataset the same one wherever it lies: for runs that go on, and for ranks that must read equal data.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "ridgeline/data/block_checksums.h"
#include "ridgeline/data/indexed_dataset.h"

namespace ridgeline::data {

struct DatasetFingerprint {
  int64_t documents = 0;
  int64_t tokens = 0;
  uint32_t index = 0;    // CRC-32C of the type of tokens and of all lengths
  uint32_t content = 0;  // CRC-32C of all tokens' bytes up to kWholeBytes, else of sampled_blocks()

  bool operator==(const DatasetFingerprint&) const = default;
};

// A larger .bin is not read whole: a start must not take minutes.
constexpr int64_t kWholeBytes = int64_t{64} << 20;

// Depends on nothing but the tokens and how documents cut them: not on the path, nor on times. Reads at most
// kWholeBytes of .bin. Files of llm.c have that of the dataset that `prepare` makes of them.
DatasetFingerprint fingerprint(const IndexedDataset& dataset);

// Parts of a file, ascending and apart: the whole file up to kWholeBytes, else 256 blocks, the first and the last bytes
// among them, the others evenly between.
std::vector<ByteRange> sampled_blocks(int64_t file_bytes);

// "400 documents, 61234 tokens, index 0a1b2c3d, content 89abcdef".
std::string to_text(const DatasetFingerprint& fingerprint);

// {"documents", "tokens", "index", "content"}, the sums as text of to_text.
nlohmann::json to_json(const DatasetFingerprint& fingerprint);
// Error naming `where` when a member is missing or no such thing.
DatasetFingerprint fingerprint_from_json(const nlohmann::json& json, std::string_view where);

}  // namespace ridgeline::data
