// What is wrong with records: counted, or the end when they must be clean. Internal to the room.
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>

#include "ridgeline/data/corpus.h"

namespace ridgeline::data {

inline constexpr size_t kMostProblems = 10, kMostKeys = 32;  // that are remembered

// `line` counts within the bytes that are read.
inline void report_problem(const CorpusOptions& options, int64_t line, std::string what, CorpusCounts& counts) {
  if (options.strict) {
    throw CorpusRefusal{line, std::move(what),
                        "Repair the file, or leave out --strict: then such places are counted and passed over."};
  }
  if (counts.problems.size() < kMostProblems) counts.problems.push_back({"", line, std::move(what)});
}

inline CorpusRefusal too_long(int64_t line, const CorpusOptions& options) {
  return {line, fmt::format("a document or JSON line of more than {} bytes begins here", options.longest_record),
          "Are blank lines or line ends missing? A record that is really so long needs --max-document, and memory of "
          "several times its size."};
}

}  // namespace ridgeline::data
