#include "ridgeline/train/held_out.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "ridgeline/base/error.h"
#include "ridgeline/train/config.h"

namespace ridgeline::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kAsk = "Say which documents: --split A,B,C, or --whole for all of them.";

// The documents of `dataset` that the run trained on; empty when it was other data.
data::DocumentRange trained_on(const data::IndexedDataset& dataset, const RunState& state, const Config& config) {
  if (state.order && state.order->train.front().dataset) {
    const data::DatasetFingerprint own = data::fingerprint(dataset);
    for (const SampleOrder::Part& part : state.order->train) {
      if (part.dataset == own) return part.documents;
    }
    return {};
  }
  // A checkpoint that does not say: by the name.
  fs::path index = dataset.prefix();
  index += ".idx";
  for (const DatasetList::Entry& entry : config.data.train.entries) {
    std::error_code ignored;
    fs::path theirs = entry.prefix;
    if (theirs.extension() == ".bin" || theirs.extension() == ".idx") theirs.replace_extension();
    if (!fs::equivalent(index, theirs += ".idx", ignored)) continue;
    if (!config.data.valid.empty()) return {0, dataset.documents()};
    return data::split_documents(config.data.split, config.data.split_rule, dataset.documents())[0];
  }
  return {};
}

std::string range_text(const data::DocumentRange& range, int64_t all) {
  if (range.last - range.first == all) return fmt::format("all {} documents", all);
  return fmt::format("documents {} to {} of {}", range.first, range.last - 1, all);
}

}  // namespace

DocumentsChosen choose_documents(const data::IndexedDataset& dataset, const std::optional<RunState>& state,
                                 const DocumentsAsked& asked) {
  const int64_t all = dataset.documents();
  const Config config = state ? config_of(*state) : Config{};
  const data::DocumentRange trained = state ? trained_on(dataset, *state, config) : data::DocumentRange{};
  DocumentsChosen chosen{.documents = {0, all}};
  if (asked.whole) {
    chosen.text = range_text(chosen.documents, all);
  } else if (asked.split.empty() && !config.data.valid.empty()) {
    if (!asked.split_rule.empty())
      throw Error("--split-rule: the run was validated on data.valid, and there is no split that it could be of",
                  "Add --split A,B,C, or leave it out.");
    if (!trained.empty()) {
      const std::string& valid = config.data.valid.entries.front().prefix;
      throw Error(fmt::format("'{}': the run trained on all {} documents; it was validated on data.valid = '{}'",
                              dataset.prefix().string(), all, valid),
                  fmt::format("--data {}; or --split A,B,C or --whole for documents that it trained on.", valid));
    }
    chosen.text = range_text(chosen.documents, all) + ": the run trained on none of this data";
  } else {
    const std::string& split = asked.split.empty() ? config.data.split : asked.split;
    const data::SplitRule rule =
        asked.split_rule.empty() ? config.data.split_rule : data::split_rule_of_name(asked.split_rule, "--split-rule");
    const auto parts = data::split_documents(split, rule, all);
    const std::string of = fmt::format("{} {} ({})",
                                       !asked.split.empty() ? "--split"
                                       : state              ? "the run's split"
                                                            : "the default split",
                                       split, data::words_of(rule)[static_cast<size_t>(rule)]);
    if (parts[1].empty())
      throw Error(fmt::format("no validation documents: {} leaves none of the {} for it", of, all), kAsk);
    chosen.train = parts[0];
    chosen.documents = parts[1];
    chosen.text = fmt::format("{}: the validation part of {}", range_text(chosen.documents, all), of);
  }
  const data::DocumentRange& documents = chosen.documents;
  chosen.trained =
      std::max<int64_t>(0, std::min(documents.last, trained.last) - std::max(documents.first, trained.first));
  return chosen;
}

}  // namespace ridgeline::train
