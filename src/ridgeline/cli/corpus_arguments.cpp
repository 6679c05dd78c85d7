#include "ridgeline/cli/corpus_arguments.h"

#include <algorithm>

namespace ridgeline::cli {

data::CorpusOptions CorpusArguments::with_filters() const {
  data::CorpusOptions result = options;
  for (size_t begin = 0; begin < drop_warnings.size();) {
    const size_t end = std::min(drop_warnings.find(',', begin), drop_warnings.size());
    if (end == begin)
      throw UsageError("--drop-quality-warnings: a name is missing in '" + drop_warnings + "'",
                       "As noisy,tiny, or all.");
    result.filters.drop_warnings.push_back(drop_warnings.substr(begin, end - begin));
    begin = end + 1;
  }
  if (min_harmful_pp >= 0) result.filters.min_harmful_pp = min_harmful_pp;
  if (min_language_probability >= 0) result.filters.min_language_probability = min_language_probability;
  return result;
}

void add_corpus_arguments(const Command& command, CorpusArguments& arguments) {
  command.list("INPUT", arguments.inputs, "Files, folders, patterns, or -").required().placeholder("INPUT");
  command
      .option("--key", arguments.options.key,
              "Where a JSON line has its text [text; content where a file's first line has only that]")
      .placeholder("NAME");
  command.flag("--strict", arguments.options.strict, "Stop at invalid UTF-8 or a bad JSON line instead of counting it");
  command.size("--max-document", arguments.options.longest_record, Range{1, int64_t{1} << 40},
               "Refuse documents and JSON lines of more bytes; several times as many are held in memory");
  command
      .option("--drop-quality-warnings", arguments.drop_warnings,
              "OSCAR: leave out records with one of these (noisy,tiny,...; all: with any)")
      .placeholder("NAMES");
  command
      .option("--min-harmful-pp", arguments.min_harmful_pp, RealRange{0, 1e12},
              "OSCAR 23.01: leave out records with less; low: like harmful text")
      .no_default();
  command
      .option("--min-language-probability", arguments.min_language_probability, RealRange{0, 1},
              "OSCAR: leave out records whose language is less certain")
      .no_default();
}

}  // namespace ridgeline::cli
