#include "ridgeline/train/sample_order.h"

#include <fmt/format.h>

#include <algorithm>
#include <new>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "ridgeline/base/error.h"
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

// Why samples of the two orders are not the same ones. A checkpoint that did not record its data is believed.
std::vector<std::string> data_differences(const SampleOrder& before, const SampleOrder& now) {
  std::vector<std::string> list;
  if (before.dataset && before.dataset != now.dataset)
    compare(list, "data.train", data::to_text(*before.dataset), data::to_text(*now.dataset));
  compare(list, "documents that train (data.split)", range_text(before.documents), range_text(now.documents));
  compare(list, "train.sequence", before.sequence, now.sequence);
  compare(list, "train.seed", before.seed, now.seed);
  return list;
}

// A run may get validation data or lose it; other data under the same name is what nobody must overlook.
std::vector<std::string> validation_differences(const SampleOrder& before, const SampleOrder& now) {
  std::vector<std::string> list;
  if (!before.valid || !now.valid) return list;
  if (before.valid != now.valid)
    compare(list, "validation data", data::to_text(*before.valid), data::to_text(*now.valid));
  compare(list, "documents that validate (data.split)", range_text(before.valid_documents),
          range_text(now.valid_documents));
  return list;
}

// Of a checkpoint that did not record its order: what its configuration meant, on the documents that are there now.
SampleOrder order_before_records(const RunState& state, const RunDocuments& documents) {
  const Config then = config_of(state);
  SampleOrder order{.documents = {0, documents.train->documents()},
                    .sequence = then.train.sequence,
                    .seed = then.train.seed,
                    .samples = samples_of_run(then)};
  if (then.data.valid.empty())
    order.documents = data::split_documents(then.data.split, then.data.split_rule, documents.train->documents())[0];
  return order;
}

// Says what becomes of an order in a run that takes another number of samples than when it began.
std::string length_message(const SampleOrder& order, const data::SampleIndexSize& size, int64_t wanted) {
  const auto number = [](int64_t n) { return observe::format_integer(n); };
  const std::string kept = fmt::format("the order of samples was begun for {} and is kept", number(order.samples));
  if (wanted <= size.first_samples)
    return fmt::format("{}: the run takes {} now, and it holds {}", kept, number(wanted), number(size.first_samples));
  return fmt::format("{}: after sample {} (end of epoch {}) follow epochs {} to {}, each in an order of its own", kept,
                     number(order.first + size.first_samples), size.epochs, size.epochs + 1,
                     size.epochs + size.appended_epochs);
}

}  // namespace

RunDocuments open_documents(const Config& config) {
  RunDocuments documents;
  documents.train = documents.valid = data::IndexedDataset::open(config.data.train);
  documents.train_documents = {0, documents.train->documents()};
  if (!config.data.valid.empty()) {
    documents.valid = data::IndexedDataset::open(config.data.valid);
    documents.valid_documents = {0, documents.valid->documents()};
  } else {
    const auto parts = data::split_documents(config.data.split, config.data.split_rule, documents.train->documents());
    documents.train_documents = parts[0];
    documents.valid_documents = parts[1];
  }
  return documents;
}

nlohmann::json to_json(const SampleOrder& order) {
  nlohmann::json json = {{"documents", range_json(order.documents)},
                         {"sequence", order.sequence},
                         {"seed", order.seed},
                         {"samples", order.samples},
                         {"first", order.first}};
  if (order.dataset) json["dataset"] = data::to_json(*order.dataset);
  if (order.valid)
    json["validation"] = {{"dataset", data::to_json(*order.valid)}, {"documents", range_json(order.valid_documents)}};
  return json;
}

SampleOrder sample_order_from_json(const nlohmann::json& json, std::string_view where) {
  const auto range = [](const nlohmann::json& pair) {
    return data::DocumentRange{pair.at(0).get<int64_t>(), pair.at(1).get<int64_t>()};
  };
  try {
    SampleOrder order{.documents = range(json.at("documents")),
                      .sequence = json.at("sequence").get<int64_t>(),
                      .seed = json.at("seed").get<int64_t>(),
                      .samples = json.at("samples").get<int64_t>(),
                      .first = json.at("first").get<int64_t>()};
    if (json.contains("dataset")) order.dataset = data::fingerprint_from_json(json.at("dataset"), where);
    if (json.contains("validation")) {
      order.valid = data::fingerprint_from_json(json.at("validation").at("dataset"), where);
      order.valid_documents = range(json.at("validation").at("documents"));
    }
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
  SampleOrder order{.dataset = data::fingerprint(*documents.train),
                    .documents = documents.train_documents,
                    .sequence = config.train.sequence,
                    .seed = config.train.seed,
                    .samples = samples_of_run(config)};
  if (!documents.valid_documents.empty()) {
    order.valid = documents.valid == documents.train ? order.dataset : data::fingerprint(*documents.valid);
    order.valid_documents = documents.valid_documents;
  }
  return order;
}

std::optional<std::string> split_rule_message(const Config& config, const RunDocuments& documents) {
  if (!config.data.valid.empty() || config.origins.contains("data.split_rule")) return std::nullopt;
  const int64_t all = documents.train->documents();
  const auto parts = data::split_documents(config.data.split, data::SplitRule::cumulative, all);
  const auto before = data::split_documents(config.data.split, data::SplitRule::per_share, all);
  if (parts == before) return std::nullopt;
  return fmt::format(
      "data.split = {}: {} documents train, validate and test; by data.split_rule = per_share, the rule "
      "of Megatron-LM before November 2023, it would be {}",
      config.data.split, data::counts_text(parts), data::counts_text(before));
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
  result.order.dataset = now.dataset;
  result.order.valid = now.valid;
  result.order.valid_documents = now.valid_documents;
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
    const data::SampleIndexSize size = index_size(documents, result.order, result.wanted);
    result.messages.push_back(length_message(result.order, size, result.wanted));
  }
  return result;
}

data::SampleIndexSize index_size(const RunDocuments& documents, const SampleOrder& order, int64_t wanted) {
  const data::IndexedDataset& dataset = *documents.train;
  const data::DocumentRange range = order.documents;
  const int64_t tokens = range.empty() ? 0 : dataset.begin(range.last) - dataset.begin(range.first);
  // Building it says what is wrong with a part that holds nothing.
  if (tokens == 0) return {};
  return data::sample_index_size(tokens, range.last - range.first, order.sequence, order.samples, wanted);
}

data::SampleIndexSize planned_index(const Config& config) {
  fs::path index = config.data.train;
  if (index.extension() == ".bin" || index.extension() == ".idx") index.replace_extension();
  index += ".idx";
  SampleOrder order{.sequence = config.train.sequence, .samples = samples_of_run(config)};
  if (config.data.train.empty() || !fs::exists(index)) {
    // One document of as many tokens as the run takes.
    data::SampleIndexSize least =
        data::sample_index_size(order.samples * order.sequence + 1, 1, order.sequence, order.samples);
    least.epochs = 0;
    return least;
  }
  const RunDocuments documents = open_documents(config);
  order.documents = documents.train_documents;
  return index_size(documents, order, order.samples);
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

std::shared_ptr<const data::GptDataset> make_samples(const Config& config, const RunDocuments& documents,
                                                     const SampleOrder& order, int64_t wanted) {
  const data::GptDataset::Settings settings{.documents = order.documents,
                                            .sequence = order.sequence,
                                            .samples = order.samples,
                                            .seed = static_cast<uint32_t>(order.seed),
                                            .vocabulary = config.model.transformer.vocab,
                                            .wanted = wanted,
                                            .first = order.first,
                                            .rules = config.data.rules};
  const auto too_much = [&] {
    refuse_index(config,
                 fmt::format("there is not enough memory for the order of its samples, {}",
                             observe::format_bytes(static_cast<double>(index_size(documents, order, wanted).bytes))),
                 0);
  };
  try {
    return std::make_shared<data::GptDataset>(documents.train, settings);
  } catch (const std::bad_alloc&) {
    too_much();
  } catch (const std::length_error&) {
    too_much();
  }
  return nullptr;
}

}  // namespace ridgeline::train
