#include "ridgeline/cli/corpus_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "ridgeline/base/count.h"
#include "ridgeline/cli/incomplete.h"

namespace ridgeline::cli {
namespace {

// At most this many markers are named: a chat corpus may hold a dozen.
constexpr size_t kMostMarkers = 5;
constexpr size_t kMostFiles = 10;  // that are listed

void print_markers(const data::CorpusOptions& options, const data::CorpusCounts& counts) {
  size_t named = 0;
  for (size_t i = 0; i < counts.markers.size(); ++i) {
    if (counts.markers[i] == 0 || ++named > kMostMarkers) continue;
    fmt::print("'{}' stands {} in the text, and was read as text, not as a special token\n", options.markers[i],
               format_counted(counts.markers[i], "time"));
    if (named > 1) continue;
    fmt::print(
        "  Where it ends documents, make JSON lines of the file, and prepare those:\n"
        "  python3 -c \"import json, sys; [print(json.dumps({{'text': t.strip()}})) for t in "
        "sys.stdin.read().split('{}') if t.strip()]\" < IN.txt > OUT.jsonl\n",
        options.markers[i]);
  }
  if (named <= kMostMarkers) return;
  fmt::print("  (and {} of special tokens)\n",
             format_counted(static_cast<int64_t>(named - kMostMarkers), "more name", "more names"));
}

void print_files(const std::vector<std::string>& files, const char* one, const char* many) {
  if (files.empty()) return;
  fmt::print("{}:\n", format_counted(std::ssize(files), one, many));
  for (size_t i = 0; i < std::min(files.size(), kMostFiles); ++i) fmt::print("  {}\n", files[i]);
  if (files.size() > kMostFiles) fmt::print("  (and {} more)\n", files.size() - kMostFiles);
}

}  // namespace

void report_corpus(const data::CorpusOptions& options, const data::CorpusCounts& counts, const InputRemarks& inputs) {
  print_files(inputs.passed_over, "file of the input folders is no corpus and was passed over",
              "files of the input folders are no corpus and were passed over");
  print_files(inputs.repeated, "of the input files is the same as another one before it, and was read once more",
              "of the input files are the same as another one before them, and were read once more");
  for (const auto& [name, count] : counts.filtered)
    fmt::print("{} dropped: {}\n", format_counted(count, "document was", "documents were"), name);
  for (const auto& [name, count] : counts.unjudged) {
    fmt::print("{} metadata cannot tell: {}\n",
               format_counted(count, "document was kept although its", "documents were kept although their"), name);
  }
  if (counts.replaced > 0) {
    fmt::print("{} replaced by U+FFFD\n",
               format_counted(counts.replaced, "invalid UTF-8 sequence was", "invalid UTF-8 sequences were"));
  }
  if (counts.empty_documents > 0)
    fmt::print("{} left out\n", format_counted(counts.empty_documents, "empty document was", "empty documents were"));
  print_markers(options, counts);
  for (const auto& [reason, count] : counts.skipped)
    fmt::print("{} skipped: {}\n", format_counted(count, "line was", "lines were"), reason);
  for (const data::CorpusProblem& problem : counts.problems) fmt::print("  {}\n", problem.text());
  if (!counts.problems.empty()) fmt::print("  (at most ten are shown; --strict refuses such input)\n");
  std::fflush(stdout);
  if (counts.skipped_lines == 0) return;
  throw Incomplete(fmt::format("{} skipped; the result is made of the other {}",
                               format_counted(counts.skipped_lines, "JSON line gave no document and was",
                                              "JSON lines gave no document and were"),
                               format_counted(counts.documents, "document")),
                   data::other_keys(options, counts) +
                       "Look at the lines named above, or let --strict stop at the first. (exit code 3)");
}

}  // namespace ridgeline::cli
