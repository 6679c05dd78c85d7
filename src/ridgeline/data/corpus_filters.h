// Which records of OSCAR 22.01 and 23.01 are kept, by what their member `metadata` says of them. Source: the OSCAR
// schemas 2 and later.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ridgeline::data {

struct CorpusFilters {
  // Names in `quality_warnings` (in 22.01: `annotation`) that drop a record: tiny, short_sentences, header, footer,
  // noisy, …; "all": any of them.
  std::vector<std::string> drop_warnings;
  // `harmful_pp` is the perplexity under a model of harmful text: the lower, the more a text resembles that. Source:
  // Jansen et al., "Perplexed by Quality", 2022.
  std::optional<double> min_harmful_pp;
  std::optional<double> min_language_probability;  // `identification.prob`

  bool any() const { return !drop_warnings.empty() || min_harmful_pp || min_language_probability; }
  bool operator==(const CorpusFilters&) const = default;
};

// Empty: not known.
struct RecordMetadata {
  std::optional<std::vector<std::string>> warnings;  // null in the corpus: none
  std::optional<double> harmful_pp, language_probability;
};
// `metadata` of a record. What is missing or of another type is not known.
RecordMetadata metadata_of(const nlohmann::json& metadata);

// Every name that judge() may count under, in their order.
std::vector<std::string> names_of(const CorpusFilters& filters);
// As a command line asks for them.
std::vector<std::string> options_of(const CorpusFilters& filters);

struct Judgement {
  std::string dropped_by;            // the first filter that drops the record, "" when it is kept
  std::vector<std::string> unknown;  // of a record that is kept: filters whose value it does not have
};
Judgement judge(const CorpusFilters& filters, const RecordMetadata& metadata);

}  // namespace ridgeline::data
