#include "ridgeline/model/declarations.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <string_view>
#include <type_traits>

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

// Tensors of a norm; RMS norm has no bias.
void add_norm(std::vector<Tensor>& tensors, const TransformerConfig& config, const std::string& name) {
  tensors.push_back(vector(name + ".weight", {config.width}, -1, Init::ones));
  if (has_mean(config.norm)) tensors.push_back(vector(name + ".bias", {config.width}, -1, Init::zeros));
}

// A matrix and, where it has one, the bias of its output.
void add_matrix(std::vector<Tensor>& tensors, const std::string& name, Tensor weight, bool biased, Shape bias,
                int bias_split) {
  tensors.push_back(std::move(weight));
  if (biased) tensors.push_back(vector(name + ".bias", std::move(bias), bias_split, Init::zeros));
}

// A unit before it is cut into segments.
struct Unit {
  std::string name;
  UnitKind kind;
  int layer;
  std::vector<Tensor> tensors;
};

Segment make_segment(const Unit& unit, int number, std::vector<Tensor> tensors) {
  Segment segment{
      .name = unit.name, .kind = unit.kind, .layer = unit.layer, .unit = number, .tensors = std::move(tensors)};
  std::stable_partition(segment.tensors.begin(), segment.tensors.end(), [](const Tensor& t) { return t.decay; });
  for (Tensor& tensor : segment.tensors) {
    tensor.offset = segment.count;
    segment.count += round_up(tensor.count(), kTensorAlignment);
    if (tensor.decay) segment.decayed = segment.count;
  }
  return segment;
}

}  // namespace

int64_t element_count(const Shape& shape) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}

const Tensor* Segment::find(std::string_view suffix) const {
  for (const Tensor& tensor : tensors) {
    if (std::string_view(tensor.name).ends_with(suffix)) return &tensor;
  }
  return nullptr;
}

const Tensor& Segment::tensor(std::string_view suffix) const {
  const Tensor* const found = find(suffix);
  RL_REQUIRE(found != nullptr, "segment {} has no tensor {}", name, suffix);
  return *found;
}

template <typename Data>
Data find(const PlacedSegments<Data>& segments, std::string_view suffix) {
  for (const Placed<Data>& placed : segments) {
    const Tensor* const tensor = placed.segment->find(suffix);
    if (tensor == nullptr) continue;
    if constexpr (std::is_same_v<Data, ConstRef>)
      return placed.data.at(tensor->offset);
    else
      return placed.data + tensor->offset;
  }
  if constexpr (std::is_same_v<Data, ConstRef>)
    return {nullptr, segments.empty() ? DType::f32 : segments[0].data.dtype};
  else
    return nullptr;
}
template ConstRef find(const PlacedSegments<ConstRef>& segments, std::string_view suffix);
template float* find(const PlacedSegments<float*>& segments, std::string_view suffix);

int64_t Segment::padded(int64_t shards) const {
  return round_up(count, shards * kShardBlock);
}

int uncut_apart(const Tensor& tensor) {
  return tensor.split_axis < 0 ? 1 : 0;
}

namespace {

Unit block_unit(const TransformerConfig& config, int layer) {
  const int64_t c = config.width, h = config.heads, kv = config.kv_heads, d = config.head_width(), f = config.ffn;
  const std::string prefix = fmt::format("block.{}.", layer);
  const float deviation = config.init_deviation;
  // Products that write into the residual stream start smaller, so that its variance does not grow with depth (GPT-2).
  const float residual_deviation = deviation / std::sqrt(2.0F * static_cast<float>(config.layers));
  std::vector<Tensor> tensors;
  const auto add = [&](const char* place, Shape shape, int split, float spread, bool biased, Shape bias,
                       int bias_split) {
    const std::string name = prefix + place;
    add_matrix(tensors, name, matrix(name + ".weight", std::move(shape), split, spread), biased, std::move(bias),
               bias_split);
  };
  add_norm(tensors, config, prefix + "norm1");
  if (config.grouped_query()) {
    add("attention.q", {h, d, c}, 0, deviation, config.qkv_bias, {h, d}, 0);
    add("attention.kv", {2, kv, d, c}, 1, deviation, config.qkv_bias, {2, kv, d}, 1);
  } else {
    add("attention.qkv", {3, h, d, c}, 1, deviation, config.qkv_bias, {3, h, d}, 1);
  }
  add("attention.out", {h, d, c}, 0, residual_deviation, config.out_bias, {c}, -1);
  if (has_second_norm(config.residual)) add_norm(tensors, config, prefix + "norm2");
  if (is_gated(config.mlp)) {
    add("mlp.up", {2, f, c}, 1, deviation, config.mlp_bias, {2, f}, 1);
  } else {
    add("mlp.up", {f, c}, 0, deviation, config.mlp_bias, {f}, 0);
  }
  add("mlp.down", {f, c}, 0, residual_deviation, config.mlp_bias, {c}, -1);
  return {fmt::format("block.{}", layer), UnitKind::block, layer, std::move(tensors)};
}

std::vector<Unit> units_of(const TransformerConfig& config) {
  std::vector<Unit> units;
  const int64_t c = config.width;
  units.push_back({"vocabulary",
                   UnitKind::vocabulary,
                   -1,
                   {matrix("embedding.weight", {config.vocab, c}, 0, config.init_deviation)}});
  if (has_position_table(config.positions)) {
    units.push_back({"positions",
                     UnitKind::positions,
                     -1,
                     {matrix("positions.weight", {config.context, c}, -1, config.init_deviation)}});
  }
  for (int layer = 0; layer < config.layers; ++layer) units.push_back(block_unit(config, layer));
  std::vector<Tensor> norm, head;
  add_norm(norm, config, "final_norm");
  units.push_back({"final_norm", UnitKind::final_norm, -1, std::move(norm)});
  if (!config.tied) head.push_back(matrix("head.weight", {config.vocab, c}, 0, config.init_deviation));
  if (config.head_bias) head.push_back(vector("head.bias", {config.vocab}, 0, Init::zeros));
  if (!head.empty()) units.push_back({"head", UnitKind::head, -1, std::move(head)});
  return units;
}

}  // namespace

Segment declare_block(const TransformerConfig& config, int layer) {
  const Unit unit = block_unit(config, layer);
  return make_segment(unit, unit_index(config).first_block + layer, unit.tensors);
}

std::vector<Segment> declare(const TransformerConfig& config, Segmentation segmentation) {
  std::vector<Segment> segments;
  const std::vector<Unit> units = units_of(config);
  for (size_t number = 0; number < units.size(); ++number) {
    const Unit& unit = units[number];
    std::map<int, std::vector<Tensor>> parts;
    for (const Tensor& tensor : unit.tensors)
      parts[segmentation == nullptr ? 0 : segmentation(tensor)].push_back(tensor);
    int part = 0;
    for (auto& [unused, tensors] : parts) {
      segments.push_back(make_segment(unit, static_cast<int>(number), std::move(tensors)));
      if (part > 0) segments.back().name += fmt::format(":{}", part);
      ++part;
    }
  }
  return segments;
}

UnitIndex unit_index(const TransformerConfig& config) {
  UnitIndex index;
  const bool table = has_position_table(config.positions);
  if (table) index.positions = 1;
  index.first_block = table ? 2 : 1;
  index.final_norm = index.first_block + static_cast<int>(config.layers);
  if (config.has_head_unit()) index.head = index.final_norm + 1;
  index.count = index.final_norm + (config.has_head_unit() ? 2 : 1);
  return index;
}

std::vector<int> units_of_element(const TransformerConfig& config, int element) {
  const UnitIndex index = unit_index(config);
  std::vector<int> units;
  if (element < 0) {
    units.push_back(index.vocabulary);
    if (index.positions >= 0) units.push_back(index.positions);
  } else if (element < static_cast<int>(config.layers)) {
    units.push_back(index.first_block + element);
  } else {
    units.push_back(index.final_norm);
    if (config.tied) units.push_back(index.vocabulary);
    if (index.head >= 0) units.push_back(index.head);
  }
  return units;
}

ElementSegments::ElementSegments(const TransformerConfig& config, Segmentation segmentation) {
  std::vector<std::vector<int>> of_unit(static_cast<size_t>(unit_index(config).count));
  const std::vector<Segment> segments = declare(config, segmentation);
  for (size_t i = 0; i < segments.size(); ++i)
    of_unit[static_cast<size_t>(segments[i].unit)].push_back(static_cast<int>(i));
  for (int element = -1; element <= static_cast<int>(config.layers); ++element) {
    std::vector<int>& these = of_.emplace_back();
    for (const int unit : units_of_element(config, element)) {
      const std::vector<int>& parts = of_unit[static_cast<size_t>(unit)];
      these.insert(these.end(), parts.begin(), parts.end());
    }
  }
}

std::vector<int> ElementSegments::of(int first, int last) const {
  std::set<int> segments;
  for (int element = first; element <= last; ++element) segments.insert(of(element).begin(), of(element).end());
  return {segments.begin(), segments.end()};
}

int64_t TransformerConfig::parameters() const {
  int64_t total = 0;
  for (const Segment& segment : declare(*this)) {
    for (const Tensor& tensor : segment.tensors) total += tensor.count();
  }
  return total;
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
  RL_NO_CASE(tensor.init);
}

Flops training_flops(const TransformerConfig& config, int64_t sequence) {
  const double c = static_cast<double>(config.width), f = static_cast<double>(config.ffn);
  const double layers = static_cast<double>(config.layers);
  const double attended = static_cast<double>(config.heads * config.head_width());
  const double qkv = static_cast<double>(config.qkv_width()), up = static_cast<double>(config.up_width());
  const double weights = layers * c * (qkv + attended + up + f) + c * static_cast<double>(config.vocab);
  return {.products = 6 * weights, .attention = 3 * layers * 4 * attended * (static_cast<double>(sequence) + 1) / 2};
}

}  // namespace ridgeline::model
