// What keys make together must fit into the numbers that count it: bytes and tokens in 64 bits, operations of a step in
// memory. Estimated in floating point, where nothing overflows, before anything is computed in whole numbers.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "ridgeline/base/error.h"
#include "ridgeline/train/config.h"
#include "ridgeline/train/config_keys.h"

namespace ridgeline::train {
namespace {

// Elements of all buffers of a kind: of them bytes, and sums over kinds and ranks, still fit 63 bits.
constexpr double kMostElements = 0x1p54;
constexpr double kMostTokensAtOnce = 0x1p31 - 1;
// Of one start: every operation of every program takes some 200 bytes and, in the plan, some microseconds.
constexpr double kMostOperations = 0x1p22;

[[noreturn]] void refuse(const Config& config, std::initializer_list<std::string_view> names, std::string_view what,
                         double count, double most, std::string_view next) {
  std::string values, where;
  for (const std::string_view name : names) {
    values += fmt::format("{}{} = {}", values.empty() ? "" : ", ", name, value_text(slot_of(*find_key(name), config)));
    const auto origin = config.origins.find(name);
    if (where.empty() && origin != config.origins.end()) where = origin->second + ": ";
  }
  throw Error(
      fmt::format("{}{}: together {:.3g} {}, and at most {:.3g} can be counted", where, values, count, what, most),
      std::string(next));
}

void check_model_size(const Config& config) {
  const ridgeline::model::TransformerConfig& t = config.model.transformer;
  const auto width = static_cast<double>(t.width), layers = static_cast<double>(t.layers);
  const double attention = static_cast<double>(t.heads + 2 * t.kv_heads) * static_cast<double>(t.head_width());
  const double feed_forward = 3 * static_cast<double>(t.ffn);
  const double blocks = layers * width * (2 * attention + feed_forward + 8);
  const double tables = width * (2 * static_cast<double>(t.vocab) + static_cast<double>(t.context));
  if (blocks + tables > kMostElements) {
    refuse(config, {"model.layers", "model.width", "model.heads", "model.ffn", "model.vocab", "model.context"},
           "weights", blocks + tables, kMostElements, "Choose a smaller model.");
  }
  const double tokens = static_cast<double>(config.train.micro_batch) * static_cast<double>(config.train.sequence);
  if (tokens > kMostTokensAtOnce) {
    refuse(config, {"train.micro_batch", "train.sequence"}, "tokens at once", tokens, kMostTokensAtOnce,
           "A smaller train.micro_batch gives the same result.");
  }
  const double values = tokens * (layers + 1) * (8 * width + 4 * attention + 2 * feed_forward);
  if (values > kMostElements) {
    refuse(config, {"train.micro_batch", "train.sequence", "model.layers", "model.width", "model.ffn"}, "activations",
           values, kMostElements, "A smaller train.micro_batch gives the same result.");
  }
}

void check_steps(const Config& config, const comm::Mesh& mesh) {
  const Config::Train& t = config.train;
  const double unit = static_cast<double>(t.micro_batch) * mesh.size(comm::kDataAxes);
  double micro_batches = std::max(1.0, static_cast<double>(t.global_batch) / unit);
  const bool ramp = t.batch_ramp_start > 0 && t.batch_ramp_increment > 0;
  if (ramp) {  // a program for every batch of the ramp
    const auto start = static_cast<double>(t.batch_ramp_start), last = static_cast<double>(t.global_batch);
    micro_batches =
        (std::floor((last - start) / static_cast<double>(t.batch_ramp_increment)) + 1) * (start + last) / 2 / unit;
  }
  // Forward and backward of every block; what sharding adds is at most twice as much.
  const double operations = micro_batches * (2 * static_cast<double>(config.model.transformer.layers) + 4);
  if (operations <= kMostOperations) return;
  if (ramp) {
    refuse(config,
           {"train.global_batch", "train.micro_batch", "train.batch_ramp_start", "train.batch_ramp_increment",
            "model.layers"},
           "operations of steps", operations, kMostOperations,
           "A larger train.micro_batch or train.batch_ramp_increment, or more ranks, make fewer.");
  }
  refuse(config, {"train.global_batch", "train.micro_batch", "model.layers"}, "operations of a step", operations,
         kMostOperations, "A larger train.micro_batch or more ranks make fewer.");
}

}  // namespace

void check_sizes(const Config& config, const comm::Mesh& mesh) {
  check_steps(config, mesh);
  if (config.has_model()) check_model_size(config);
}

}  // namespace ridgeline::train
