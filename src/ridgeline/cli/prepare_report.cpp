#include "ridgeline/cli/prepare_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "ridgeline/base/json.h"
#include "ridgeline/observe/format.h"

namespace ridgeline::cli {
namespace {

constexpr int64_t kPlotWidth = 40;

// One line for every power of two from the shortest to the longest documents; a document is never drawn as none.
std::string length_plot(const std::vector<int64_t>& lengths) {
  using observe::Table;
  const int64_t most = *std::max_element(lengths.begin(), lengths.end());
  const auto first = std::find_if(lengths.begin(), lengths.end(), [](int64_t count) { return count > 0; });
  Table table({{"tokens", Table::right}, {"documents", Table::right}, {"", Table::left}});
  for (auto k = static_cast<size_t>(first - lengths.begin()); k < lengths.size(); ++k) {
    const int64_t width = (lengths[k] * kPlotWidth + most - 1) / most;
    table.row({fmt::format("{} …", observe::format_integer(int64_t{1} << k)), observe::format_integer(lengths[k]),
               std::string(static_cast<size_t>(width), '#')});
  }
  return table.text();
}

double bytes_per_token(const data::DatasetNote& note) {
  return static_cast<double>(note.text_bytes) / static_cast<double>(note.tokens);
}

// Of what was prepared now.
double text_megabytes(const data::PrepareResult& result) {
  return 1e-6 * static_cast<double>(result.corpus.text_bytes - result.kept_text_bytes);
}

// "123 blocks of 128 tokens out of 45 documents; dropped: …".
std::string blocks_report(const data::DatasetNote& note) {
  const data::BlocksNote& blocks = note.blocks;
  if (blocks.tokens == 0) return {};
  using observe::format_counted;
  const double share =
      100.0 * static_cast<double>(blocks.dropped_tokens) / static_cast<double>(blocks.dropped_tokens + note.tokens);
  return fmt::format(
      "{} of {} tokens out of {}; dropped: {} ({:.1f} %) that filled no block, those of {} shorter than one among "
      "them\n",
      format_counted(note.documents, "block"), blocks.tokens, format_counted(blocks.corpus_documents, "document"),
      format_counted(blocks.dropped_tokens, "token"), share, format_counted(blocks.short_documents, "document"));
}

std::string kept_text(const data::PrepareResult& result) {
  if (result.kept_parts == 0) return "";
  return fmt::format("{} of {} ({}) {} done before\n", result.kept_parts, observe::format_counted(result.parts, "part"),
                     observe::format_counted(result.kept_documents, "document"),
                     result.kept_parts == 1 ? "was" : "were");
}

}  // namespace

std::string prepare_report(const data::PrepareResult& result, const std::filesystem::path& prefix, double seconds) {
  using observe::format_counted;
  const data::DatasetNote& note = result.note;
  return fmt::format(
      "{0}.bin, {0}.idx, {0}.json: {1}, {2}, {3} of text ({4:.2f} bytes per "
      "token)\n{5}{6:.1f} MB/s of text, {7}\n{8}{9}",
      prefix.string(), format_counted(note.documents, "document"), format_counted(note.tokens, "token"),
      format_counted(note.text_bytes, "byte"), bytes_per_token(note), blocks_report(note),
      text_megabytes(result) / seconds, observe::format_duration(seconds), kept_text(result),
      length_plot(result.lengths));
}

std::string prepare_report_json(const data::PrepareResult& result, double seconds) {
  const data::CorpusCounts& corpus = result.corpus;
  nlohmann::ordered_json problems = nlohmann::ordered_json::array(), lengths = nlohmann::ordered_json::array();
  for (const data::CorpusProblem& problem : corpus.problems)
    problems.push_back({{"file", problem.file}, {"line", problem.line}, {"what", problem.what}});
  for (size_t k = 0; k < result.lengths.size(); ++k)
    lengths.push_back({{"tokens", int64_t{1} << k}, {"documents", result.lengths[k]}});
  nlohmann::ordered_json json = {{"documents", result.note.documents},
                                 {"tokens", result.note.tokens},
                                 {"text_bytes", result.note.text_bytes},
                                 {"bytes_per_token", bytes_per_token(result.note)},
                                 {"seconds", seconds},
                                 {"text_megabytes_per_second", text_megabytes(result) / seconds},
                                 {"parts", result.parts},
                                 {"kept_parts", result.kept_parts},
                                 {"kept_documents", result.kept_documents},
                                 {"documents_by_tokens", lengths},
                                 {"dropped", corpus.filtered},
                                 {"kept_unjudged", corpus.unjudged},
                                 {"skipped", corpus.skipped},
                                 {"empty_documents", corpus.empty_documents},
                                 {"replaced_sequences", corpus.replaced},
                                 {"problems", problems},
                                 {"passed_over", result.passed_over},
                                 {"repeated", result.repeated}};
  if (const data::BlocksNote& blocks = result.note.blocks; blocks.tokens != 0) {
    json["blocks"] = {{"tokens", blocks.tokens},
                      {"corpus_documents", blocks.corpus_documents},
                      {"short_documents", blocks.short_documents},
                      {"dropped_tokens", blocks.dropped_tokens}};
  }
  return json_text(json, 2, NotUtf8::replace) + "\n";  // names of files are any bytes
}

bool is_prepare_report(std::string_view start) {
  const auto report = parse_json_if_any(start);
  return report.is_object() && report.contains("documents_by_tokens") && report.contains("bytes_per_token");
}

}  // namespace ridgeline::cli
