#include "ridgeline/model/declarations.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string_view>

#include "ridgeline/base/error.h"
#include "ridgeline/base/random.h"

namespace ridgeline::model {
namespace {

int64_t round_up(int64_t value, int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

Tensor matrix(std::string name, Shape shape, int split_axis, float deviation) {
  return {.name = std::move(name),
          .shape = std::move(shape),
          .split_axis = split_axis,
          .init = Init::normal,
          .deviation = deviation,
          .decay = true};
}

Tensor vector(std::string name, Shape shape, int split_axis, Init init) {
  return {.name = std::move(name), .shape = std::move(shape), .split_axis = split_axis, .init = init};
}

Unit make_unit(std::string name, UnitKind kind, int layer, std::vector<Tensor> tensors) {
  Unit unit{.name = std::move(name), .kind = kind, .layer = layer, .tensors = std::move(tensors)};
  std::stable_partition(unit.tensors.begin(), unit.tensors.end(), [](const Tensor& t) { return t.decay; });
  for (Tensor& tensor : unit.tensors) {
    tensor.offset = unit.count;
    unit.count += round_up(tensor.count(), kTensorAlignment);
    if (tensor.decay) unit.decayed = unit.count;
  }
  return unit;
}

Unit make_block(const TransformerConfig& config, int layer) {
  const int64_t c = config.width, h = config.heads, d = config.head_width(), f = config.ffn;
  const std::string prefix = fmt::format("block.{}.", layer);
  const float deviation = config.init_deviation;
  // Products that write into the residual stream start smaller, so that its variance does not grow with depth (GPT-2).
  const float residual_deviation = deviation / std::sqrt(2.0F * static_cast<float>(config.layers));
  return make_unit(
      fmt::format("block.{}", layer), UnitKind::block, layer,
      {vector(prefix + "norm1.weight", {c}, -1, Init::ones), vector(prefix + "norm1.bias", {c}, -1, Init::zeros),
       matrix(prefix + "attention.qkv.weight", {3, h, d, c}, 1, deviation),
       vector(prefix + "attention.qkv.bias", {3, h, d}, 1, Init::zeros),
       matrix(prefix + "attention.out.weight", {h, d, c}, 0, residual_deviation),
       vector(prefix + "attention.out.bias", {c}, -1, Init::zeros),
       vector(prefix + "norm2.weight", {c}, -1, Init::ones), vector(prefix + "norm2.bias", {c}, -1, Init::zeros),
       matrix(prefix + "mlp.up.weight", {f, c}, 0, deviation), vector(prefix + "mlp.up.bias", {f}, 0, Init::zeros),
       matrix(prefix + "mlp.down.weight", {f, c}, 0, residual_deviation),
       vector(prefix + "mlp.down.bias", {c}, -1, Init::zeros)});
}

}  // namespace

int64_t element_count(const Shape& shape) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}

const Tensor& Unit::tensor(std::string_view suffix) const {
  for (const Tensor& tensor : tensors) {
    if (std::string_view(tensor.name).ends_with(suffix)) return tensor;
  }
  RL_REQUIRE(false, "unit {} has no tensor {}", name, suffix);
  return tensors.front();
}

int64_t Unit::padded(int64_t shards) const {
  return round_up(count, shards * kNormBlock);
}

std::vector<Unit> declare(const TransformerConfig& config) {
  std::vector<Unit> units;
  const int64_t c = config.width;
  units.push_back(make_unit("vocabulary", UnitKind::vocabulary, -1,
                            {matrix("embedding.weight", {config.vocab, c}, 0, config.init_deviation)}));
  units.push_back(make_unit("positions", UnitKind::positions, -1,
                            {matrix("positions.weight", {config.context, c}, -1, config.init_deviation)}));
  for (int layer = 0; layer < config.layers; ++layer) units.push_back(make_block(config, layer));
  units.push_back(
      make_unit("final_norm", UnitKind::final_norm, -1,
                {vector("final_norm.weight", {c}, -1, Init::ones), vector("final_norm.bias", {c}, -1, Init::zeros)}));
  return units;
}

std::vector<int> units_of_element(const TransformerConfig& config, int element) {
  const int layers = static_cast<int>(config.layers);
  if (element < 0) return {0, 1};
  if (element < layers) return {2 + element};
  return {2 + layers, 0};
}

void initial_values(const Tensor& tensor, uint64_t seed, int64_t first, int64_t count, float* values) {
  switch (tensor.init) {
    case Init::zeros:
      std::memset(values, 0, static_cast<size_t>(count) * sizeof(float));
      return;
    case Init::ones:
      std::fill_n(values, count, 1.0F);
      return;
    case Init::normal:
      fill_normal(values, count, random_key(seed, hash_name(tensor.name), Purpose::init), static_cast<uint64_t>(first),
                  0.0F, tensor.deviation);
      return;
  }
}

Flops training_flops(const TransformerConfig& config, int64_t sequence) {
  const double c = static_cast<double>(config.width), f = static_cast<double>(config.ffn);
  const double layers = static_cast<double>(config.layers);
  const double weights = layers * (4 * c * c + 2 * c * f) + c * static_cast<double>(config.vocab);
  return {.products = 6 * weights, .attention = 3 * layers * 4 * c * (static_cast<double>(sequence) + 1) / 2};
}

}  // namespace ridgeline::model
