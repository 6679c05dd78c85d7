#include "ridgeline/train/sample_listing.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "ridgeline/base/error.h"
#include "ridgeline/base/json.h"
#include "ridgeline/train/model_source.h"
#include "ridgeline/train/sample_order.h"
#include "ridgeline/train/state.h"

namespace ridgeline::train {
namespace {

namespace fs = std::filesystem;

// What is listed: a configuration, and where a checkpoint of it stands.
struct Listed {
  Config config;
  std::optional<RunState> state;
};

Listed open(const ListingOptions& options) {
  const bool begun = fs::is_directory(options.path) && !fs::exists(options.path / "checkpoints") &&
                     fs::exists(options.path / "config.toml");  // a run without a checkpoint yet
  if (fs::is_regular_file(options.path) || begun)
    return {parse_config(begun ? options.path / "config.toml" : options.path, options.overrides), std::nullopt};
  if (!options.overrides.empty())
    throw Error("--set changes a configuration, and this is a run", "Name a FILE.toml, or leave --set out.");
  const ModelSource source = ModelSource::open(options.path, false);
  if (!source.is_checkpoint())
    throw Error(fmt::format("'{}': no order of samples belongs to a Hugging Face folder", options.path.string()),
                "Name a run's folder, a checkpoint, or a configuration.");
  RunState state = run_state_from_json(source.reader()->extra(), source.folder().string());
  state.step = source.step();
  Config config = config_of(state);
  return {std::move(config), std::move(state)};
}

}  // namespace

SamplePlace place_of_sample(const optim::BatchRamp& ramp, int64_t micro_batch, const comm::Mesh& mesh, int64_t sample,
                            int64_t steps, int64_t consumed) {
  RL_CHECK(sample, >=, consumed);
  int64_t batch = optim::batch_at(ramp, consumed);
  // One by one while the batch grows, then at once.
  for (; batch != ramp.global && sample >= consumed + batch; batch = optim::batch_at(ramp, consumed)) {
    consumed += batch;
    ++steps;
  }
  if (batch == ramp.global) {
    steps += (sample - consumed) / batch;
    consumed += (sample - consumed) / batch * batch;
  }
  const int64_t within = sample - consumed, slice = within / micro_batch, ranks = mesh.size(comm::kDataAxes);
  return {.step = steps + 1, .micro_batch = slice / ranks, .rank = slice % ranks, .row = within % micro_batch};
}

void list_samples(const ListingOptions& options, const std::function<void(const std::string&)>& line) {
  const Listed listed = open(options);
  const Config& config = listed.config;
  check(config, options.ranks);
  const comm::Mesh mesh = mesh_of(config, options.ranks);
  require_data(config);
  const RunDocuments documents = open_documents(config);
  SampleOrder order;
  int64_t steps = 0, consumed = 0, end = 0;
  const optim::BatchRamp ramp = batch_ramp_of(config);
  if (listed.state) {
    order = continued_order(config, documents, *listed.state, false).order;
    end = listed.state->consumed_samples + samples_to_go(config, *listed.state);
    // Where the run took another batch on its way, only what is to come is known.
    if (optim::samples_of_steps(ramp, listed.state->step) != listed.state->consumed_samples) {
      steps = listed.state->step;
      consumed = listed.state->consumed_samples;
    }
  } else {
    order = new_order(config, documents);
    end = order.samples;
  }
  if (options.first < order.first || options.first >= end) {
    throw Error(fmt::format("--first-sample {}: this run has samples {} to {}{}", options.first, order.first, end - 1,
                            order.first > 0 ? " of its present data" : ""),
                "Samples are counted from 0 over the whole run.");
  }
  const std::shared_ptr<const data::TrainingSamples> samples =
      make_samples(config, documents, order, end - order.first);
  for (int64_t i = options.first; i < end && i - options.first < options.count; ++i) {
    nlohmann::ordered_json json = {{"sample", i}};
    const SamplePlace place =
        i < consumed ? SamplePlace{} : place_of_sample(ramp, config.train.micro_batch, mesh, i, steps, consumed);
    for (const auto& [name, value] : {std::pair{"step", place.step},
                                      {"micro_batch", place.micro_batch},
                                      {"rank", place.rank},
                                      {"row", place.row}}) {
      json[name] = i < consumed ? nlohmann::ordered_json() : nlohmann::ordered_json(value);
    }
    if (samples->datasets() > 1) json["dataset"] = samples->dataset_of(i);
    json["place"] = samples->place(i);
    json["parts"] = nlohmann::ordered_json::array();
    for (const data::GptDataset::Part& part : samples->parts(i))
      json["parts"].push_back({part.document, part.offset, part.tokens});
    line(json_text(json));
  }
}

}  // namespace ridgeline::train
