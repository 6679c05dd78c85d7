#include "ridgeline/data/part_record.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "ridgeline/base/checksum.h"
#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/base/json.h"
#include "ridgeline/data/block_checksums.h"

namespace ridgeline::data {
namespace {

constexpr size_t kSumDigits = 8;
constexpr int64_t kMost = int64_t{1} << 56;  // bytes, and whatever is counted: two of them add up

nlohmann::json counts_to_json(const CorpusCounts& counts) {
  nlohmann::json problems = nlohmann::json::array();
  for (const CorpusProblem& problem : counts.problems)
    problems.push_back({{"file", problem.file}, {"line", problem.line}, {"what", problem.what}});
  return {{"documents", counts.documents},
          {"empty_documents", counts.empty_documents},
          {"text_bytes", counts.text_bytes},
          {"replaced", counts.replaced},
          {"skipped_lines", counts.skipped_lines},
          {"skipped", counts.skipped},
          {"filtered", counts.filtered},
          {"unjudged", counts.unjudged},
          {"other_keys", counts.other_keys},
          {"markers", counts.markers},
          {"problems", problems}};
}

// These throw std::exception where something is missing or of another kind.
int64_t count_of(const nlohmann::json& value) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > uint64_t{kMost}) throw std::out_of_range("no count");
  return value.get<int64_t>();
}

int64_t count_at(const nlohmann::json& object, const char* key) {
  return count_of(object.at(key));
}

std::vector<int64_t> counts_at(const nlohmann::json& object, const char* key) {
  std::vector<int64_t> counts;
  for (const auto& value : object.at(key)) counts.push_back(count_of(value));
  return counts;
}

CountByName names_at(const nlohmann::json& object, const char* key) {
  CountByName names;
  for (const auto& [name, value] : object.at(key).items()) names.emplace(name, count_of(value));
  return names;
}

CorpusCounts counts_from_json(const nlohmann::json& json) {
  CorpusCounts counts{.documents = count_at(json, "documents"),
                      .empty_documents = count_at(json, "empty_documents"),
                      .text_bytes = count_at(json, "text_bytes"),
                      .replaced = count_at(json, "replaced"),
                      .skipped_lines = count_at(json, "skipped_lines"),
                      .skipped = names_at(json, "skipped"),
                      .filtered = names_at(json, "filtered"),
                      .unjudged = names_at(json, "unjudged"),
                      .other_keys = names_at(json, "other_keys"),
                      .markers = counts_at(json, "markers"),
                      .problems = {}};
  for (const auto& problem : json.at("problems"))
    counts.problems.push_back(
        {problem.at("file").get<std::string>(), count_at(problem, "line"), problem.at("what").get<std::string>()});
  return counts;
}

nlohmann::json blocks_to_json(const BlockCounts& blocks) {
  return {{"documents", blocks.documents},
          {"short_documents", blocks.short_documents},
          {"dropped_tokens", blocks.dropped_tokens},
          {"text_bytes", blocks.text_bytes},
          {"longest", blocks.longest}};
}

BlockCounts blocks_from_json(const nlohmann::json& json) {
  return {.documents = count_at(json, "documents"),
          .short_documents = count_at(json, "short_documents"),
          .dropped_tokens = count_at(json, "dropped_tokens"),
          .text_bytes = count_at(json, "text_bytes"),
          .longest = count_at(json, "longest")};
}

PartRecord record_from_json(const nlohmann::json& json, int64_t token_bytes) {
  PartRecord record{.part = count_at(json, "part"),
                    .tokens_begin = count_at(json, "tokens_begin"),
                    .tokens = count_at(json, "tokens"),
                    .sums = {},
                    .lengths_begin = count_at(json, "lengths_begin"),
                    .documents = count_at(json, "documents"),
                    .lengths_sum = parse_checksum(json.at("lengths_sum").get<std::string>(), ""),
                    .lines = count_at(json, "lines"),
                    .lengths = counts_at(json, "lengths"),
                    .blocks = blocks_from_json(json.at("blocks")),
                    .counts = counts_from_json(json.at("counts"))};
  for (const auto& sum : json.at("sums")) record.sums.push_back(parse_checksum(sum.get<std::string>(), ""));
  if (record.tokens > kMost / token_bytes || record.documents > kMost / 4) throw std::out_of_range("tokens");
  const int64_t pieces = count_block_pieces({record.tokens_begin, record.tokens * token_bytes});
  if (std::ssize(record.sums) != pieces) throw std::out_of_range("sums");
  return record;
}

}  // namespace

void add_length(std::vector<int64_t>& lengths, int64_t tokens) {
  const auto power = static_cast<size_t>(std::bit_width(static_cast<uint64_t>(std::max<int64_t>(tokens, 1))) - 1);
  lengths.resize(std::max(lengths.size(), power + 1));
  ++lengths[power];
}

void BlockCounts::add(const BlockCounts& other) {
  documents += other.documents;
  short_documents += other.short_documents;
  dropped_tokens += other.dropped_tokens;
  text_bytes += other.text_bytes;
  longest = std::max(longest, other.longest);
}

std::string to_line(const PartRecord& record) {
  nlohmann::json sums = nlohmann::json::array();
  for (const uint32_t sum : record.sums) sums.push_back(checksum_text(sum));
  const nlohmann::json json = {{"part", record.part},
                               {"tokens_begin", record.tokens_begin},
                               {"tokens", record.tokens},
                               {"sums", sums},
                               {"lengths_begin", record.lengths_begin},
                               {"documents", record.documents},
                               {"lengths_sum", checksum_text(record.lengths_sum)},
                               {"lines", record.lines},
                               {"lengths", record.lengths},
                               {"blocks", blocks_to_json(record.blocks)},
                               {"counts", counts_to_json(record.counts)}};
  const std::string text = json_text(json, -1, NotUtf8::replace);
  return fmt::format("{} {}\n", checksum_text(crc32c(bytes_of(text))), text);
}

std::optional<PartRecord> record_of(std::string_view line, int64_t token_bytes) {
  if (line.size() <= kSumDigits || line[kSumDigits] != ' ') return std::nullopt;
  const std::string_view text = line.substr(kSumDigits + 1);
  try {
    if (parse_checksum(line.substr(0, kSumDigits), "") != crc32c(bytes_of(text))) return std::nullopt;
    return record_from_json(parse_json(text), token_bytes);
  } catch (const std::exception&) {  // whatever it is, it is no record
    return std::nullopt;
  }
}

}  // namespace ridgeline::data
