#include "ridgeline/data/corpus_filters.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace ridgeline::data {
namespace {

constexpr const char* kHarmful = "low harmful_pp";
constexpr const char* kLanguage = "low language probability";

std::string warning_name(const std::string& warning) {
  return warning == "all" ? "any quality warning" : "quality warning " + warning;
}

std::optional<double> number_of(const nlohmann::json& object, const char* key) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  if (!object.is_object() || found == object.end() || !found->is_number()) return std::nullopt;
  return found->get<double>();
}

}  // namespace

RecordMetadata metadata_of(const nlohmann::json& metadata) {
  RecordMetadata result;
  if (!metadata.is_object()) return result;
  for (const char* key : {"quality_warnings", "annotation"}) {
    const auto found = metadata.find(key);
    if (found == metadata.end() || !(found->is_array() || found->is_null())) continue;
    std::vector<std::string>& warnings = result.warnings ? *result.warnings : result.warnings.emplace();
    for (const nlohmann::json& warning : *found) {
      if (warning.is_string()) warnings.push_back(warning.get<std::string>());
    }
  }
  result.harmful_pp = number_of(metadata, "harmful_pp");
  if (const auto found = metadata.find("identification"); found != metadata.end())
    result.language_probability = number_of(*found, "prob");
  return result;
}

std::vector<std::string> names_of(const CorpusFilters& filters) {
  std::vector<std::string> names;
  for (const std::string& warning : filters.drop_warnings) names.push_back(warning_name(warning));
  if (filters.min_harmful_pp) names.emplace_back(kHarmful);
  if (filters.min_language_probability) names.emplace_back(kLanguage);
  return names;
}

std::vector<std::string> options_of(const CorpusFilters& filters) {
  std::vector<std::string> options;
  if (!filters.drop_warnings.empty()) options.emplace_back("--drop-quality-warnings");
  if (filters.min_harmful_pp) options.emplace_back("--min-harmful-pp");
  if (filters.min_language_probability) options.emplace_back("--min-language-probability");
  return options;
}

Judgement judge(const CorpusFilters& filters, const RecordMetadata& metadata) {
  Judgement result;
  const auto apply = [&](std::string name, bool known, bool drops) {
    if (!result.dropped_by.empty()) return;
    if (known && drops) {
      result = {std::move(name), {}};
    } else if (!known) {
      result.unknown.push_back(std::move(name));
    }
  };
  for (const std::string& drop : filters.drop_warnings) {
    const auto is_it = [&](const std::string& warning) { return drop == "all" || warning == drop; };
    const bool known = metadata.warnings.has_value();
    apply(warning_name(drop), known, known && std::any_of(metadata.warnings->begin(), metadata.warnings->end(), is_it));
  }
  const auto at_least = [&](std::string name, std::optional<double> least, std::optional<double> value) {
    if (least) apply(std::move(name), value.has_value(), value < least);
  };
  at_least(kHarmful, filters.min_harmful_pp, metadata.harmful_pp);
  at_least(kLanguage, filters.min_language_probability, metadata.language_probability);
  return result;
}

}  // namespace ridgeline::data
