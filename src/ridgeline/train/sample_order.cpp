#include "ridgeline/train/sample_order.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <new>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "ridgeline/base/error.h"
#include "ridgeline/base/output.h"
#include "ridgeline/data/blend.h"
#include "ridgeline/observe/format.h"
#include "ridgeline/train/state.h"

namespace ridgeline::train {
namespace {

namespace fs = std::filesystem;

nlohmann::json range_json(const data::DocumentRange& range) {
  return {range.first, range.last};
}

std::string range_text(const data::DocumentRange& range) {
  return range.empty() ? "none" : fmt::format("{} to {}", range.first, range.last - 1);
}

[[noreturn]] void refuse_index(const Config& config, const std::string& what, int64_t steps_that_fit) {
  throw Error(fmt::format("train.steps = {}: {}", config.train.steps, what),
              steps_that_fit > 0 ? fmt::format("About {} steps fit (train.steps); or use a smaller train.global_batch.",
                                               steps_that_fit)
                                 : "Train for fewer steps (train.steps), or use a smaller train.global_batch.");
}

// "a: x -> y" where the two differ.
template <typename T>
void compare(std::vector<std::string>& list, std::string_view what, const T& before, const T& now) {
  if (before != now) list.push_back(fmt::format("{}: {} -> {}", what, before, now));
}

std::string cut_text(int64_t block) {
  return block == 0 ? "whole documents" : fmt::format("blocks of {}", block);
}

// How two lists of datasets differ; `which` is what they are for, "train" or "validate". One that a checkpoint did not
// record is believed.
void compare_parts(std::vector<std::string>& list, std::string_view key, std::string_view which,
                   const std::vector<SampleOrder::Part>& before, const std::vector<SampleOrder::Part>& now) {
  compare(list, fmt::format("datasets in {}", key), before.size(), now.size());
  if (before.size() != now.size()) return;
  for (size_t i = 0; i < now.size(); ++i) {
    const SampleOrder::Part &then = before[i], &part = now[i];
    const std::string number = now.size() == 1 ? "" : fmt::format("[{}]", i + 1);
    if (then.dataset && part.dataset && then.dataset != part.dataset)
      compare(list, fmt::format("{}{}", key, number), data::to_text(*then.dataset), data::to_text(*part.dataset));
    compare(list, fmt::format("documents that {} (data.split){}", which, number), range_text(then.documents),
            range_text(part.documents));
    compare(list, fmt::format("{}{}", key, number), cut_text(then.block), cut_text(part.block));
    compare(list, fmt::format("weight of {}{}", key, number), then.weight, part.weight);
  }
}

// Why samples of the two orders are not the same ones.
std::vector<std::string> data_differences(const SampleOrder& before, const SampleOrder& now) {
  std::vector<std::string> list;
  compare_parts(list, "data.train", "train", before.train, now.train);
  compare(list, "train.sequence", before.sequence, now.sequence);
  compare(list, "train.seed", before.seed, now.seed);
  return list;
}

// A run may get validation data or lose it; other data under the same name is what nobody must overlook.
std::vector<std::string> validation_differences(const SampleOrder& before, const SampleOrder& now) {
  std::vector<std::string> list;
  if (!before.valid.empty() && !now.valid.empty())
    compare_parts(list, "validation data", "validate", before.valid, now.valid);
  return list;
}

// Of a checkpoint that did not record its order: what its configuration meant, on the documents that are there now.
SampleOrder order_before_records(const RunState& state, const RunDocuments& documents) {
  const Config then = config_of(state);
  SampleOrder order{.train = {{.documents = {0, documents.train.front().dataset->documents()}}},
                    .sequence = then.train.sequence,
                    .seed = then.train.seed,
                    .samples = samples_of_run(then)};
  data::DocumentRange& range = order.train.front().documents;
  if (then.data.valid.empty()) range = data::split_documents(then.data.split, then.data.split_rule, range.last)[0];
  return order;
}

// Says what becomes of an order in a run that takes another number of samples than when it began.
std::string length_message(const SampleOrder& order, const OrderSize& all, int64_t wanted) {
  const auto number = [](int64_t n) { return observe::format_integer(n); };
  const std::string kept = fmt::format("the order of samples was begun for {} and is kept", number(order.samples));
  if (all.datasets.size() > 1) {
    std::string appended;
    for (size_t i = 0; i < all.datasets.size(); ++i) {
      const data::SampleIndexSize& size = all.datasets[i];
      if (size.appended_epochs == 0) continue;
      appended +=
          fmt::format("{}data.train[{}] from epoch {} on", appended.empty() ? "" : ", ", i + 1, size.epochs + 1);
    }
    return fmt::format("{}: the run takes {} now{}", kept, number(wanted),
                       appended.empty() ? "" : "; epochs follow in orders of their own: " + appended);
  }
  const data::SampleIndexSize size = all.datasets.empty() ? data::SampleIndexSize{} : all.datasets.front();
  if (wanted <= size.first_samples)
    return fmt::format("{}: the run takes {} now, and it holds {}", kept, number(wanted), number(size.first_samples));
  return fmt::format("{}: after sample {} (end of epoch {}) follow epochs {} to {}, each in an order of its own", kept,
                     number(order.first + size.first_samples), size.epochs, size.epochs + 1,
                     size.epochs + size.appended_epochs);
}

nlohmann::json part_json(const SampleOrder::Part& part) {
  nlohmann::json json = {{"documents", range_json(part.documents)}};
  if (part.dataset) json["dataset"] = data::to_json(*part.dataset);
  if (part.block != 0) json["block"] = part.block;
  return json;
}

nlohmann::json parts_json(const std::vector<SampleOrder::Part>& parts) {
  nlohmann::json list = nlohmann::json::array();
  for (const SampleOrder::Part& part : parts) {
    list.push_back(part_json(part));
    list.back()["weight"] = part.weight;
  }
  return list;
}

SampleOrder::Part part_of(const nlohmann::json& json, std::string_view where) {
  const nlohmann::json& range = json.at("documents");
  SampleOrder::Part part{.weight = json.value("weight", 1.0),
                         .documents = {range.at(0).get<int64_t>(), range.at(1).get<int64_t>()},
                         .block = json.value("block", int64_t{0})};
  if (json.contains("dataset")) part.dataset = data::fingerprint_from_json(json.at("dataset"), where);
  return part;
}

// A list, or one alone.
std::vector<SampleOrder::Part> parts_of(const nlohmann::json& json, std::string_view where) {
  if (!json.is_array()) return {part_of(json, where)};
  std::vector<SampleOrder::Part> parts;
  for (const nlohmann::json& each : json) parts.push_back(part_of(each, where));
  return parts;
}

std::vector<SampleOrder::Part> recorded(const std::vector<data::BlendPart>& parts,
                                        const std::vector<RunData::Dataset>& known) {
  RL_CHECK(parts.size(), ==, known.size());
  std::vector<SampleOrder::Part> result;
  for (size_t i = 0; i < parts.size(); ++i) {
    const data::IndexedDataset& dataset = *parts[i].dataset;
    const data::DatasetFingerprint own = known[i].fingerprint ? *known[i].fingerprint : data::fingerprint(dataset);
    result.push_back({parts[i].weight, own, parts[i].documents, dataset.block()});
  }
  return result;
}

std::vector<RunData::Dataset> open_list(const DatasetList& list) {
  std::vector<RunData::Dataset> datasets;
  for (const DatasetList::Entry& entry : list.entries)
    datasets.push_back({data::IndexedDataset::open(entry.prefix), std::nullopt});
  return datasets;
}

// A file of tokens of `one` that is one of `other` too, whatever the names; "" when there is none.
std::string file_of_both(const data::IndexedDataset& one, const data::IndexedDataset& other) {
  for (const fs::path& mine : one.files()) {
    for (const fs::path& theirs : other.files()) {
      if (same_file(mine, theirs)) return mine.string();
    }
  }
  return "";
}

std::vector<data::BlendPart> whole_datasets(std::string_view key, const DatasetList& list,
                                            const std::vector<RunData::Dataset>& datasets, int64_t sequence) {
  const std::vector<double> weights = list.weights();
  std::vector<data::BlendPart> parts;
  for (size_t i = 0; i < list.entries.size(); ++i) {
    const std::shared_ptr<const data::IndexedDataset>& dataset = datasets[i].dataset;
    const int64_t block = dataset->block();
    if (block > 0 && sequence > 0 && block != sequence) {
      throw Error(fmt::format("{} = '{}': its samples are blocks of {} tokens, but train.sequence = {}",
                              entry_name(key, list, i), dataset->prefix().string(), block, sequence),
                  fmt::format("Set train.sequence={}, or prepare the data again: ridgeline prepare --blocks {}, or "
                              "without --blocks.",
                              block, sequence));
    }
    for (size_t other = 0; other < i; ++other) {
      const std::string same = file_of_both(*parts[other].dataset, *dataset);
      if (same.empty()) continue;
      throw Error(fmt::format("{} and {} are the same dataset: both hold '{}'", entry_name(key, list, other),
                              entry_name(key, list, i), same),
                  "Its samples would come twice: give it once, with the sum of the weights.");
    }
    parts.push_back({dataset, {0, dataset->documents()}, weights[i]});
  }
  return parts;
}

// Samples of an epoch; one at least, as nothing can have no weight.
void weigh_by_size(std::vector<data::BlendPart>& parts, int64_t sequence) {
  std::vector<double> samples;
  for (const data::BlendPart& part : parts) {
    const int64_t block = part.dataset->block(), length = block > 0 ? block - 1 : std::max<int64_t>(sequence, 1);
    const int64_t predictions = data::EvaluationWindows::predictions_of(*part.dataset, part.documents);
    samples.push_back(static_cast<double>(std::max<int64_t>(predictions / length, 1)));
  }
  samples = data::normalized(samples);
  for (size_t i = 0; i < parts.size(); ++i) parts[i].weight = samples[i];
}

int64_t tokens_of(const data::IndexedDataset& dataset, data::DocumentRange range) {
  return range.empty() ? 0 : dataset.begin(range.last) - dataset.begin(range.first);
}

}  // namespace

bool RunDocuments::validates() const {
  return std::any_of(valid.begin(), valid.end(), [](const data::BlendPart& part) { return !part.documents.empty(); });
}

RunData open_data(const Config& config) {
  return {open_list(config.data.train), open_list(config.data.valid)};
}

RunDocuments open_documents(const Config& config, RunData opened) {
  RunDocuments documents;
  documents.opened = opened.train.empty() ? open_data(config) : std::move(opened);
  const bool apart = !config.data.valid.empty();
  documents.train = whole_datasets("data.train", config.data.train, documents.opened.train, config.train.sequence);
  documents.valid = apart
                        ? whole_datasets("data.valid", config.data.valid, documents.opened.valid, config.train.sequence)
                        : documents.train;
  for (size_t i = 0; i < documents.train.size() && !apart; ++i) {
    const auto parts =
        data::split_documents(config.data.split, config.data.split_rule, documents.train[i].dataset->documents());
    documents.train[i].documents = parts[0];
    documents.valid[i].documents = parts[1];
  }
  if (config.data.train.by_size) weigh_by_size(documents.train, config.train.sequence);
  if ((apart ? config.data.valid : config.data.train).by_size) weigh_by_size(documents.valid, config.train.sequence);
  return documents;
}

nlohmann::json to_json(const SampleOrder& order) {
  // One dataset stands as before there were blends.
  nlohmann::json json = order.train.size() == 1 ? part_json(order.train.front()) : nlohmann::json::object();
  if (order.train.size() != 1) json["blend"] = parts_json(order.train);
  json["sequence"] = order.sequence;
  json["seed"] = order.seed;
  json["samples"] = order.samples;
  json["first"] = order.first;
  if (order.valid.size() == 1) json["validation"] = part_json(order.valid.front());
  if (order.valid.size() > 1) json["validation"] = parts_json(order.valid);
  return json;
}

SampleOrder sample_order_from_json(const nlohmann::json& json, std::string_view where) {
  try {
    SampleOrder order{.train = parts_of(json.contains("blend") ? json.at("blend") : json, where),
                      .sequence = json.at("sequence").get<int64_t>(),
                      .seed = json.at("seed").get<int64_t>(),
                      .samples = json.at("samples").get<int64_t>(),
                      .first = json.at("first").get<int64_t>()};
    if (order.train.empty()) throw Error(fmt::format("'{}' holds an order of samples of no dataset", where));
    if (json.contains("validation")) order.valid = parts_of(json.at("validation"), where);
    return order;
  } catch (const nlohmann::json::exception& error) {
    throw Error(fmt::format("'{}' holds no order of samples: {}", where, error.what()));
  }
}

int64_t samples_of_run(const Config& config) {
  return optim::samples_of_steps(batch_ramp_of(config), config.train.steps);
}

int64_t samples_to_go(const Config& config, const RunState& state) {
  const int64_t steps = std::max<int64_t>(config.train.steps - state.step, 0);
  return optim::samples_of_steps(batch_ramp_of(config), steps, state.consumed_samples);
}

SampleOrder new_order(const Config& config, const RunDocuments& documents) {
  SampleOrder order{.train = recorded(documents.train, documents.opened.train),
                    .sequence = config.train.sequence,
                    .seed = config.train.seed,
                    .samples = samples_of_run(config)};
  if (!documents.validates()) return order;
  if (!config.data.valid.empty()) {
    order.valid = recorded(documents.valid, documents.opened.valid);
  } else {
    order.valid = order.train;
    for (size_t i = 0; i < order.valid.size(); ++i) {
      order.valid[i].documents = documents.valid[i].documents;
      order.valid[i].weight = documents.valid[i].weight;
    }
  }
  return order;
}

std::optional<std::string> split_rule_message(const Config& config, const RunDocuments& documents) {
  if (!config.data.valid.empty() || config.origins.contains("data.split_rule")) return std::nullopt;
  for (size_t i = 0; i < documents.train.size(); ++i) {
    const int64_t all = documents.train[i].dataset->documents();
    const auto parts = data::split_documents(config.data.split, data::SplitRule::cumulative, all);
    const auto before = data::split_documents(config.data.split, data::SplitRule::per_share, all);
    if (parts == before) continue;
    const std::string of = config.data.train.is_blend() ? " of " + entry_name("data.train", config.data.train, i) : "";
    return fmt::format(
        "data.split = {}: {} documents{} train, validate and test; by data.split_rule = per_share, the rule "
        "of Megatron-LM before November 2023, it would be {}",
        config.data.split, data::counts_text(parts), of, data::counts_text(before));
  }
  return std::nullopt;
}

std::optional<std::string> blend_message(const Config& config, const RunDocuments& documents, int64_t samples) {
  if (documents.train.size() == 1) return std::nullopt;
  std::string list;
  for (size_t i = 0; i < documents.train.size(); ++i) {
    const data::BlendPart& part = documents.train[i];
    const double taken = part.weight * static_cast<double>(samples) * static_cast<double>(config.train.sequence);
    const auto tokens = static_cast<double>(std::max<int64_t>(1, tokens_of(*part.dataset, part.documents)));
    list += fmt::format("{}{:.1f} % '{}' ({:.2f} epochs)", i == 0 ? "" : ", ", 100 * part.weight,
                        config.data.train.entries[i].prefix, taken / tokens);
  }
  return "data.train is a blend: " + list;
}

Config config_of(const RunState& state) {
  Config config = parse_config_text(state.config, "the checkpoint's configuration");
  if (!config.origins.contains("data.split_rule")) config.data.split_rule = data::SplitRule::per_share;
  return config;
}

Config with_split_rule(Config config, const RunState& state) {
  if (!config.origins.contains("data.split_rule")) config.data.split_rule = config_of(state).data.split_rule;
  return config;
}

ContinuedOrder continued_order(const Config& config, const RunDocuments& documents, const RunState& state,
                               bool other_data) {
  const SampleOrder now = new_order(config, documents);
  const SampleOrder before = state.order ? *state.order : order_before_records(state, documents);
  const int64_t to_go = samples_to_go(config, state);
  std::vector<std::string> differences = data_differences(before, now);
  const bool begins_anew = !differences.empty();
  const std::vector<std::string> validation = validation_differences(before, now);
  differences.insert(differences.end(), validation.begin(), validation.end());
  if (!differences.empty() && !other_data) {
    throw Error(
        fmt::format("--resume: this is not the data of the checkpoint at step {}: {}", state.step,
                    fmt::join(differences, "; ")),
        "Name the data and the keys of the run's own config.toml. Or go on with other data: --other-data begins "
        "its order of samples anew, with its first one.");
  }
  ContinuedOrder result{.order = before, .validation_differs = !validation.empty()};
  // Also what the checkpoint did not record, or no longer has.
  if (!begins_anew) {
    for (size_t i = 0; i < now.train.size(); ++i) result.order.train[i].dataset = now.train[i].dataset;
  }
  result.order.valid = now.valid;
  for (const std::string& difference : differences) result.messages.push_back("other data: " + difference);
  if (begins_anew) {
    result.order = now;
    result.order.first = state.consumed_samples;
    result.order.samples = to_go;
    result.messages.push_back(
        fmt::format("the order of samples begins anew: sample {} of the run is the first one of this data",
                    observe::format_integer(state.consumed_samples)));
  }
  if (result.validation_differs)
    result.messages.emplace_back("validation losses before and after do not compare: the best one is sought anew");
  result.wanted = state.consumed_samples + to_go - result.order.first;
  if (!state.order) result.messages.emplace_back("the checkpoint does not record which data it is of: not compared");
  if (result.wanted != result.order.samples) {
    const OrderSize size = order_size(documents, result.order, result.wanted);
    result.messages.push_back(length_message(result.order, size, result.wanted));
  }
  return result;
}

OrderSize order_size(const RunDocuments& documents, const SampleOrder& order, int64_t wanted) {
  const std::vector<data::BlendPart>& parts = documents.train;
  RL_CHECK(parts.size(), ==, order.train.size());
  OrderSize all;
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  const auto add = [&](int64_t bytes) { all.bytes = bytes < kMost - all.bytes ? all.bytes + bytes : kMost; };
  for (size_t i = 0; i < parts.size(); ++i) {
    all.weights.push_back(parts[i].weight);
    const data::DocumentRange range = order.train[i].documents;
    // Making the samples says what is wrong with a part that holds nothing.
    if (tokens_of(*parts[i].dataset, range) == 0) {
      all.datasets.emplace_back();
      continue;
    }
    all.datasets.push_back(data::sample_index_size(*parts[i].dataset, range, order.sequence,
                                                   data::samples_of_part(parts, i, order.samples),
                                                   data::samples_of_part(parts, i, wanted)));
    add(all.datasets.back().bytes);
  }
  all.samples = parts.size() == 1 ? all.datasets.front().samples : std::max(order.samples, wanted);
  if (parts.size() > 1) add(all.samples < kMost / 8 ? all.samples * static_cast<int64_t>(sizeof(data::Draw)) : kMost);
  return all;
}

OrderSize planned_order(const Config& config) {
  const auto is_there = [](const DatasetList::Entry& entry) { return data::IndexedDataset::is_there(entry.prefix); };
  const std::vector<DatasetList::Entry>& entries = config.data.train.entries;
  SampleOrder order{.sequence = config.train.sequence, .samples = samples_of_run(config)};
  if (entries.empty() || !std::all_of(entries.begin(), entries.end(), is_there)) {
    // One document of as many tokens as the run takes.
    const data::SampleIndexSize least =
        data::sample_index_size(order.samples * order.sequence + 1, 1, order.sequence, order.samples);
    return {.datasets = {}, .weights = {}, .samples = least.samples, .bytes = least.bytes};
  }
  const RunDocuments documents = open_documents(config);
  for (const data::BlendPart& part : documents.train) order.train.push_back({.documents = part.documents});
  return order_size(documents, order, order.samples);
}

void require_index_fits(const Config& config, int64_t bytes, int64_t available, std::string_view of) {
  if (bytes <= available) return;
  const double share = static_cast<double>(std::max<int64_t>(available, 0)) / static_cast<double>(bytes);
  refuse_index(config,
               fmt::format("the order of its samples takes {} of memory in every process, but only {} of the {}'s are "
                           "free",
                           observe::format_bytes(static_cast<double>(bytes)),
                           observe::format_bytes(static_cast<double>(std::max<int64_t>(available, 0))), of),
               static_cast<int64_t>(share * static_cast<double>(config.train.steps)));
}

std::shared_ptr<const data::TrainingSamples> make_samples(const Config& config, const RunDocuments& documents,
                                                          const SampleOrder& order, int64_t wanted) {
  std::vector<data::BlendPart> parts = documents.train;
  for (size_t i = 0; i < parts.size(); ++i) {
    parts[i].documents = order.train[i].documents;
    parts[i].weight = order.train[i].weight;
    if (tokens_of(*parts[i].dataset, parts[i].documents) > 0) continue;
    throw Error(fmt::format("{} = '{}': its documents for training ({}) hold no tokens",
                            entry_name("data.train", config.data.train, i), config.data.train.entries[i].prefix,
                            range_text(parts[i].documents)),
                "Give training a larger share (data.split), or prepare more text.");
  }
  const data::TrainingSamples::Settings settings{.sequence = order.sequence,
                                                 .samples = order.samples,
                                                 .seed = static_cast<uint32_t>(order.seed),
                                                 .vocabulary = config.model.transformer.vocab,
                                                 .wanted = wanted,
                                                 .first = order.first,
                                                 .rules = config.data.rules};
  const auto too_much = [&] {
    refuse_index(config,
                 fmt::format("there is not enough memory for the order of its samples, {}",
                             observe::format_bytes(static_cast<double>(order_size(documents, order, wanted).bytes))),
                 0);
  };
  try {
    return std::make_shared<data::TrainingSamples>(parts, settings);
  } catch (const std::bad_alloc&) {
    too_much();
  } catch (const std::length_error&) {
    too_much();
  }
  return nullptr;
}

}  // namespace ridgeline::train
