// Which documents a run trains on and in which order of samples: decided when it begins, recorded in every checkpoint,
// and kept by whatever goes on from there.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ridgeline/data/fingerprint.h"
#include "ridgeline/data/sampler.h"
#include "ridgeline/train/config.h"

namespace ridgeline::train {

struct RunState;

// The datasets of a configuration, open, in its order, and what is known of them already.
struct RunData {
  struct Dataset {
    std::shared_ptr<const data::IndexedDataset> dataset;
    std::optional<data::DatasetFingerprint> fingerprint;
  };
  std::vector<Dataset> train, valid;
};
RunData open_data(const Config& config);

// The same with their documents for training and validation.
struct RunDocuments {
  std::vector<data::BlendPart> train;
  // The same datasets where data.split cuts them. Documents may be none.
  std::vector<data::BlendPart> valid;
  RunData opened;

  bool validates() const;
};
// Datasets without weights have those of their samples in an epoch of these documents, as Megatron weighs them.
// Error: a dataset of blocks and another train.sequence; the same dataset twice. `opened`: what is open already, if it
// is.
RunDocuments open_documents(const Config& config, RunData opened = {});

// What decides which tokens are sample i of a run.
struct SampleOrder {
  struct Part {
    double weight = 1;                                // of a sum of 1
    std::optional<data::DatasetFingerprint> dataset;  // none in checkpoints that did not record it
    data::DocumentRange documents;                    // of it
    int64_t block = 0;                                // IndexedDataset::block()

    bool operator==(const Part&) const = default;
  };
  std::vector<Part> train;
  int64_t sequence = 0;
  int64_t seed = 0;
  int64_t samples = 0;  // that the run was to take, beginning with `first`, when the order began
  int64_t first = 0;    // sample of the run with which it begins: later ones follow, earlier ones were of other data
  std::vector<Part> valid;  // held out; none: no validation data, or not recorded

  bool operator==(const SampleOrder&) const = default;
};
nlohmann::json to_json(const SampleOrder& order);
SampleOrder sample_order_from_json(const nlohmann::json& json, std::string_view where);

// Samples that all steps of a run take, and those of the steps that remain after a checkpoint.
int64_t samples_of_run(const Config& config);
int64_t samples_to_go(const Config& config, const RunState& state);

// The order of a run that begins now. Reads the samples of data whose fingerprints are not known.
SampleOrder new_order(const Config& config, const RunDocuments& documents);

// What a new run should know that does not say by which rule data.split cuts: where the rule of before gives other
// documents.
std::optional<std::string> split_rule_message(const Config& config, const RunDocuments& documents);
// What becomes of the datasets of a blend in an order: "'data/web' 70 % (0.4 epochs), …"; none for one dataset.
std::optional<std::string> blend_message(const Config& config, const RunDocuments& documents, int64_t samples);

// The order of a run that goes on from a checkpoint.
struct ContinuedOrder {
  SampleOrder order;
  int64_t wanted = 0;                 // samples that the order must have by now
  bool validation_differs = false;    // losses before and after do not compare
  std::vector<std::string> messages;  // what becomes of the order, for people
};
// `config` is the run's by now. The checkpoint's order is kept, whatever train.steps and the batch are by now. Error,
// naming --other-data, when the data is not the checkpoint's: another dataset, other documents of it (data.split), or
// another train.sequence or train.seed. With `other_data` the new order then begins at the checkpoint's position.
ContinuedOrder continued_order(const Config& config, const RunDocuments& documents, const RunState& state,
                               bool other_data);

// The configuration that a checkpoint records. In those that did not know data.split_rule it is the rule of then.
Config config_of(const RunState& state);
// `config` with the checkpoint's split rule, unless it gives one.
Config with_split_rule(Config config, const RunState& state);

// How large an order is, in every process.
struct OrderSize {
  std::vector<data::SampleIndexSize> datasets;  // of each
  std::vector<double> weights;                  // of each, of a sum of 1
  int64_t samples = 0;                          // that the run can take from it
  int64_t bytes = 0;                            // of memory, all together
};
OrderSize order_size(const RunDocuments& documents, const SampleOrder& order, int64_t wanted);
// Of a new run of this configuration. Without data.train (not given, or one of several is not there) the length of its
// list of documents is unknown: `datasets` is empty, and bytes the least.
OrderSize planned_order(const Config& config);
// Error naming train.steps when an index of `bytes` does not fit into `available` bytes of the `of`.
void require_index_fits(const Config& config, int64_t bytes, int64_t available, std::string_view of);
// The samples themselves. Error naming train.steps when memory does not suffice, and a dataset without tokens for it.
std::shared_ptr<const data::TrainingSamples> make_samples(const Config& config, const RunDocuments& documents,
                                                          const SampleOrder& order, int64_t wanted);

}  // namespace ridgeline::train
