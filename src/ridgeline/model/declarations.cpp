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

// What a tensor's split axis counts, and which it is.
struct Split {
  SplitBy by = SplitBy::nothing;
  int axis = -1;
};

Tensor tensor_of(std::string name, Shape shape, Split split) {
  Tensor tensor{.name = std::move(name), .shape = std::move(shape), .split = split.by, .split_axis = split.axis};
  if (split.axis >= 0) tensor.kept = {0, tensor.shape[static_cast<size_t>(split.axis)]};
  return tensor;
}

Tensor matrix(std::string name, Shape shape, Split split, float deviation, MatrixLayout layout = MatrixLayout::out_in) {
  Tensor tensor = tensor_of(std::move(name), std::move(shape), split);
  tensor.init = Init::normal;
  tensor.deviation = deviation;
  tensor.decay = true;
  tensor.layout = layout;
  return tensor;
}

Tensor vector(std::string name, Shape shape, Split split, Init init) {
  Tensor tensor = tensor_of(std::move(name), std::move(shape), split);
  tensor.init = init;
  return tensor;
}

// Tensors of a norm; RMS norm has no bias.
void add_norm(std::vector<Tensor>& tensors, const TransformerConfig& config, const std::string& name) {
  tensors.push_back(vector(name + ".weight", {config.width}, {}, Init::ones));
  if (has_mean(config.norm)) tensors.push_back(vector(name + ".bias", {config.width}, {}, Init::zeros));
}

// A matrix and, where it has one, the bias of its output.
void add_matrix(std::vector<Tensor>& tensors, const std::string& name, Tensor weight, bool biased, Shape bias,
                Split bias_split) {
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

// Where its tensors lie, one after the other.
void place(Segment& segment) {
  segment.count = segment.decayed = 0;
  for (Tensor& tensor : segment.tensors) {
    tensor.offset = segment.count;
    segment.count += round_up(tensor.count(), kTensorAlignment);
    if (tensor.decay) segment.decayed = segment.count;
  }
}

Segment make_segment(const Unit& unit, int number, std::vector<Tensor> tensors) {
  Segment segment{
      .name = unit.name, .kind = unit.kind, .layer = unit.layer, .unit = number, .tensors = std::move(tensors)};
  std::stable_partition(segment.tensors.begin(), segment.tensors.end(), [](const Tensor& t) { return t.decay; });
  place(segment);
  return segment;
}

// Slices that hold the same of a tensor, and whether each has a part of its gradient only: of a key head that several
// slices read, and where norms and residuals are computed by tokens.
struct Copies {
  int count;
  bool partial;
  bool operator<(const Copies& other) const {
    return count != other.count ? count < other.count : partial < other.partial;
  }
};
Copies copies_of(const Tensor& tensor, const TransformerConfig& config, const Partition& partition) {
  if (tensor.split == SplitBy::nothing) return {partition.slices, partition.slices > 1 && partition.sequence};
  const int copies = tensor.split == SplitBy::kv_heads ? key_head_copies(config, partition.slices) : 1;
  return {copies, copies > 1};
}

}  // namespace

int64_t element_count(const Shape& shape) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}

int64_t Tensor::behind_split() const {
  int64_t count = 1;
  for (size_t i = static_cast<size_t>(split_axis) + 1; i < shape.size(); ++i) count *= shape[i];
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

Weight find_weight(const PlacedSegments<ConstRef>& segments, std::string_view suffix) {
  Weight weight{find(segments, suffix)};
  for (const Placed<ConstRef>& placed : segments) {
    if (const Tensor* const tensor = placed.segment->find(suffix)) weight.layout = tensor->layout;
  }
  return weight;
}

int64_t Segment::padded(int64_t shards) const {
  return round_up(count, shards * kShardBlock);
}

int uncut_apart(const Tensor& tensor) {
  return tensor.split == SplitBy::nothing ? 1 : 0;
}

namespace {

Unit block_unit(const TransformerConfig& config, int layer) {
  const int64_t c = config.width, h = config.heads, kv = config.kv_heads, d = config.head_width(), f = config.ffn;
  const std::string prefix = fmt::format("block.{}.", layer);
  const float deviation = config.init_deviation;
  // Products that write into the residual stream start smaller, so that its variance does not grow with depth (GPT-2).
  const float residual_deviation = deviation / std::sqrt(2.0F * static_cast<float>(config.layers));
  std::vector<Tensor> tensors;
  const auto add = [&](const char* place, Shape shape, Split split, float spread, bool biased, Shape bias,
                       Split bias_split, MatrixLayout layout = MatrixLayout::out_in) {
    const std::string name = prefix + place;
    add_matrix(tensors, name, matrix(name + ".weight", std::move(shape), split, spread, layout), biased,
               std::move(bias), bias_split);
  };
  constexpr Split heads{SplitBy::heads, 0}, all{SplitBy::heads, 1}, pairs{SplitBy::kv_heads, 1},
      columns{SplitBy::ffn, 0}, gated{SplitBy::ffn, 1};
  add_norm(tensors, config, prefix + "norm1");
  if (config.grouped_query()) {
    add("attention.q", {h, d, c}, heads, deviation, config.qkv_bias, {h, d}, heads);
    add("attention.kv", {2, kv, d, c}, pairs, deviation, config.qkv_bias, {2, kv, d}, pairs);
  } else {
    add("attention.qkv", {3, h, d, c}, all, deviation, config.qkv_bias, {3, h, d}, all);
  }
  add("attention.out", {h, d, c}, heads, residual_deviation, config.out_bias, {c}, {}, MatrixLayout::in_out);
  if (has_second_norm(config.residual)) add_norm(tensors, config, prefix + "norm2");
  if (is_gated(config.mlp)) {
    add("mlp.up", {2, f, c}, gated, deviation, config.mlp_bias, {2, f}, gated);
  } else {
    add("mlp.up", {f, c}, columns, deviation, config.mlp_bias, {f}, columns);
  }
  add("mlp.down", {f, c}, columns, residual_deviation, config.mlp_bias, {c}, {}, MatrixLayout::in_out);
  return {fmt::format("block.{}", layer), UnitKind::block, layer, std::move(tensors)};
}

std::vector<Unit> units_of(const TransformerConfig& config) {
  constexpr Split rows{SplitBy::rows, 0};
  std::vector<Unit> units;
  const int64_t c = config.width;
  units.push_back({"vocabulary",
                   UnitKind::vocabulary,
                   -1,
                   {matrix("embedding.weight", {config.vocab, c}, rows, config.init_deviation)}});
  if (has_position_table(config.positions)) {
    units.push_back({"positions",
                     UnitKind::positions,
                     -1,
                     {matrix("positions.weight", {config.context, c}, {}, config.init_deviation)}});
  }
  for (int layer = 0; layer < config.layers; ++layer) units.push_back(block_unit(config, layer));
  std::vector<Tensor> norm, head;
  add_norm(norm, config, "final_norm");
  units.push_back({"final_norm", UnitKind::final_norm, -1, std::move(norm)});
  if (!config.tied) head.push_back(matrix("head.weight", {config.vocab, c}, rows, config.init_deviation));
  if (config.head_bias) head.push_back(vector("head.bias", {config.vocab}, rows, Init::zeros));
  if (!head.empty()) units.push_back({"head", UnitKind::head, -1, std::move(head)});
  return units;
}

}  // namespace

Segment declare_block(const TransformerConfig& config, int layer) {
  const Unit unit = block_unit(config, layer);
  return make_segment(unit, unit_index(config).first_block + layer, unit.tensors);
}

Segment sliced(Segment segment, const Slice& slice) {
  for (Tensor& tensor : segment.tensors) tensor.kept = slice.of(tensor.split);
  place(segment);
  return segment;
}

std::vector<Segment> declare(const TransformerConfig& config, const Partition& partition, int slice) {
  std::vector<Segment> segments;
  const std::vector<Unit> units = units_of(config);
  for (size_t number = 0; number < units.size(); ++number) {
    const Unit& unit = units[number];
    std::map<std::pair<Copies, int>, std::vector<Tensor>> parts;
    for (const Tensor& tensor : unit.tensors) {
      const int part = partition.segmentation == nullptr ? 0 : partition.segmentation(tensor);
      parts[{copies_of(tensor, config, partition), part}].push_back(tensor);
    }
    int part = 0;
    for (auto& [key, tensors] : parts) {
      segments.push_back(make_segment(unit, static_cast<int>(number), std::move(tensors)));
      if (part > 0) segments.back().name += fmt::format(":{}", part);
      segments.back().copies = key.first.count;
      segments.back().partial = key.first.partial;
      ++part;
    }
  }
  if (partition.slices == 1) return segments;
  const Slice mine = slice_of(config, slice, partition.slices, partition.sequence);
  for (Segment& segment : segments) segment = sliced(std::move(segment), mine);
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

ElementSegments::ElementSegments(const TransformerConfig& config, const Partition& partition) {
  std::vector<std::vector<int>> of_unit(static_cast<size_t>(unit_index(config).count));
  const std::vector<Segment> segments = declare(config, partition);
  for (size_t i = 0; i < segments.size(); ++i) {
    of_unit[static_cast<size_t>(segments[i].unit)].push_back(static_cast<int>(i));
    partial_.push_back(segments[i].partial);
  }
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

Flops block_flops(const TransformerConfig& config, int64_t sequence) {
  const double c = static_cast<double>(config.width), f = static_cast<double>(config.ffn);
  const double attended = static_cast<double>(config.heads * config.head_width());
  const double qkv = static_cast<double>(config.qkv_width()), up = static_cast<double>(config.up_width());
  return {.products = 6 * c * (qkv + attended + up + f),
          .attention = 3 * 4 * attended * (static_cast<double>(sequence) + 1) / 2};
}

Flops head_flops(const TransformerConfig& config) {
  return {.products = 6 * static_cast<double>(config.width) * static_cast<double>(config.vocab)};
}

Flops training_flops(const TransformerConfig& config, int64_t sequence) {
  const double layers = static_cast<double>(config.layers);
  const Flops block = block_flops(config, sequence);
  return {.products = layers * block.products + head_flops(config).products, .attention = layers * block.attention};
}

}  // namespace ridgeline::model
