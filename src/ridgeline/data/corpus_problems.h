// What is wrong with a corpus: counted, or thrown when it must be clean. Internal to the room.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>

#include "ridgeline/base/error.h"
#include "ridgeline/data/corpus.h"

namespace ridgeline::data {

inline constexpr size_t kMostProblems = 10;

class CorpusProblems {
 public:
  CorpusProblems(std::string name, bool strict) : name_(std::move(name)), strict_(strict) {}

  void report(int64_t line, const std::string& what, CorpusCounts& counts) const {
    std::string text = fmt::format("{}:{}: {}", name_, line, what);
    if (strict_) {
      throw Error(std::move(text),
                  "Repair the file, or leave out --strict: then such places are counted and passed over.");
    }
    if (counts.problems.size() < kMostProblems) counts.problems.push_back(std::move(text));
  }

 private:
  std::string name_;
  bool strict_;
};

}  // namespace ridgeline::data
