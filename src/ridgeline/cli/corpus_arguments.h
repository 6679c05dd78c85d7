// What the commands that read a corpus take on their command line.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "ridgeline/cli/command.h"
#include "ridgeline/data/corpus.h"

namespace ridgeline::cli {

struct CorpusArguments {
  std::vector<std::filesystem::path> inputs;
  data::CorpusOptions options;                                // without its filters
  std::string drop_warnings;                                  // names, separated by commas
  double min_harmful_pp = -1, min_language_probability = -1;  // below 0: not given

  data::CorpusOptions with_filters() const;
};

// INPUT and its options; `arguments` must live until the command line has run.
void add_corpus_arguments(const Command& command, CorpusArguments& arguments);

// What --help says of all inputs.
inline constexpr const char* kInputHelp =
    "Input: files, folders (all corpora in them), quoted patterns ('part_*.gz'), - for standard input; .txt (blank\n"
    "lines between documents, as in OSCAR 2019 and 21.09) and .jsonl (one object per line, as in OSCAR 22.01 and\n"
    "23.01), also in gzip, Zstandard or xz (.txt.gz, .jsonl.zst).\n";

}  // namespace ridgeline::cli
