// NAME.documents: any bytes give nothing, or what is written as the same bytes and fits into its file.
#include <algorithm>
#include <cstring>

#include "fuzz_driver.h"
#include "ridgeline/base/checksum.h"
#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/data/block_checksums.h"
#include "ridgeline/data/kept_starts.h"

using namespace ridgeline;        // NOLINT
using namespace ridgeline::data;  // NOLINT

namespace {

void read(const std::string& bytes) {
  const std::optional<KeptStarts> kept = kept_starts_of(bytes_of(bytes));
  if (!kept) return;
  RL_CHECK(to_bytes(*kept) == bytes, ==, true);
  RL_CHECK(std::ssize(kept->found.checksums), ==, checksum_blocks(kept->of.bytes));
  const std::vector<uint32_t>& starts = kept->found.starts;
  RL_CHECK(std::is_sorted(starts.begin(), starts.end()), ==, true);
  RL_CHECK(std::adjacent_find(starts.begin(), starts.end()) == starts.end(), ==, true);
  if (!starts.empty()) RL_CHECK(1024 + 2 * (int64_t{starts.back()} + 1), <=, kept->of.bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string bytes(reinterpret_cast<const char*>(data), size);
  read(bytes);
  // With its checksum, which no mutation would find.
  const uint32_t sum = crc32c(bytes_of(bytes));
  bytes.append(reinterpret_cast<const char*>(&sum), sizeof sum);
  read(bytes);
  return 0;
}

std::vector<std::string> seeds() {
  std::vector<std::string> all;
  for (const KeptStarts& kept :
       {KeptStarts{{.bytes = 1024}, {.starts = {}, .checksums = {1}}},
        KeptStarts{{.bytes = 1124, .modified = 5, .header = 7}, {{0, 3, 49}, {9}}},
        KeptStarts{{.bytes = 2 * kChecksumBlock, .modified = -1}, {{1, 40'000'000}, {9, 8}}}}) {
    all.push_back(to_bytes(kept));
    all.push_back(all.back().substr(0, all.back().size() - 4));
  }
  return all;
}
