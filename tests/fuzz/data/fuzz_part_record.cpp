// Lines of PREFIX.partial: any bytes give no record, or one whose line is read as the same.
#include <fmt/format.h>

#include "fuzz_driver.h"
#include "ridgeline/base/checksum.h"
#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/data/block_checksums.h"
#include "ridgeline/data/part_record.h"

using namespace ridgeline;        // NOLINT
using namespace ridgeline::data;  // NOLINT

namespace {

void read(std::string_view line) {
  const auto record = record_of(line, 2);
  if (!record) return;
  RL_CHECK(record->sums.size(), ==, block_pieces({record->tokens_begin, record->tokens * 2}).size());
  RL_CHECK(record->part, >=, 0);
  const std::string again = to_line(*record);
  const auto same = record_of(std::string_view(again).substr(0, again.size() - 1), 2);
  RL_REQUIRE(same && *same == *record, "read as another one: {}", again);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  read(text);
  // With its checksum, which no mutation would find.
  read(fmt::format("{} {}", checksum_text(crc32c(bytes_of(text))), text));
  return 0;
}

std::vector<std::string> seeds() {
  PartRecord record{.part = 1, .tokens_begin = 100, .tokens = 5, .sums = {7}, .documents = 2, .lengths = {1, 1}};
  record.counts.skipped = {{"not valid JSON", 3}};
  record.counts.markers = {0, 1};
  record.counts.problems = {{"a.txt", 2, "what"}};
  const std::string line = to_line(record);
  return {line.substr(9, line.size() - 10), line};
}
