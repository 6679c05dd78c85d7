// The order of a run's training samples as text, to compare with other trainers: which tokens, in which step.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "ridgeline/optim/batch_ramp.h"
#include "ridgeline/train/config.h"

namespace ridgeline::train {

// Where a sample is consumed. A rank takes `rows` of each of its micro-batches together.
struct SamplePlace {
  int64_t step = 0;         // from 1
  int64_t micro_batch = 0;  // of the step
  int64_t rank = 0;         // among the data ranks
  int64_t row = 0;          // of the rank's micro-batch
  bool operator==(const SamplePlace&) const = default;
};
// Of a run that has taken `steps` steps and `consumed` samples and goes on with this ramp; `sample` >= `consumed`.
SamplePlace place_of_sample(const optim::BatchRamp& ramp, int64_t micro_batch, const comm::Mesh& mesh, int64_t sample,
                            int64_t steps = 0, int64_t consumed = 0);

struct ListingOptions {
  std::filesystem::path path;              // a run's folder, a checkpoint, or a configuration
  std::span<const std::string> overrides;  // of a configuration
  int ranks = 1;
  int64_t first = 0, count = 0;  // samples [first, first + count), as far as the run has them
};
// Calls `line` for each sample, by number, with
//   {"sample": 3, "step": 1, "micro_batch": 0, "rank": 1, "row": 1, "place": 7, "parts": [[document, offset, tokens],
//   …]}
// and, of a blend, "dataset": which of data.train, counted from 0. `place` is the sample's number before samples were
// shuffled; the parts, of the documents of data.train, hold T+1 tokens together (the T of a block). Step and what
// belongs to it are null for samples that the run took with another batch than now. Error: the data is not the
// checkpoint's, samples of before --other-data, or no such sample.
void list_samples(const ListingOptions& options, const std::function<void(const std::string&)>& line);

}  // namespace ridgeline::train
