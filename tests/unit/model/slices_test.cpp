// A block in slices, one after the other in one thread, against the whole block.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "combinations.h"
#include "ridgeline/base/random.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/model/block.h"
#include "ridgeline/model/operators.h"

namespace ridgeline::model {
namespace {

constexpr int kSliceLayer = 1;
constexpr int64_t kSliceBatch = 2, kSliceSequence = 7, kSliceTokens = kSliceBatch * kSliceSequence;
constexpr StepRandom kSliceRandom{.dropout = 11, .attention_dropout = 12};

// Slices that meet at their sums although they run one after the other: round by round. In round k each slice gets the
// totals of its first k sums and hands in its part of the next one.
class Rounds : public SliceGroup {
 public:
  void sum(device::Stream& /*stream*/, Ref values, int64_t count) override {
    const size_t at = sums_++;
    float* const part = values.as<float>();
    if (at < totals_.size()) {
      ASSERT_EQ(static_cast<int64_t>(totals_[at].size()), count);
      std::copy(totals_[at].begin(), totals_[at].end(), part);
    } else if (at == totals_.size()) {
      next_.resize(static_cast<size_t>(count));
      for (int64_t i = 0; i < count; ++i) next_[static_cast<size_t>(i)] += part[i];
    }
  }

  // run(slice) for each, as often as there are sums and once more. The last round computed with all totals.
  template <typename Run>
  int complete(size_t slices, Run&& run) {
    totals_.clear();
    do {
      next_.clear();
      for (size_t i = 0; i < slices; ++i) {
        sums_ = 0;
        run(i);
      }
      if (!next_.empty()) totals_.push_back(next_);
    } while (!next_.empty());
    return static_cast<int>(totals_.size());
  }

 private:
  std::vector<std::vector<float>> totals_;
  std::vector<float> next_;
  size_t sums_ = 0;
};

struct Range {
  int64_t first = 0, count = 0;
};
// `count` parts that differ by at most one.
std::vector<Range> cut(Range all, int64_t count) {
  std::vector<Range> parts;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t begin = all.count * i / count, end = all.count * (i + 1) / count;
    parts.push_back({all.first + begin, end - begin});
  }
  return parts;
}

struct Part {
  Range heads, kv_heads, ffn;
};
// Whole groups of heads for each slice; where there are fewer groups than slices, parts of groups.
std::vector<Part> parts_of(const TransformerConfig& config, int64_t count) {
  std::vector<Part> parts;
  const int64_t group = config.heads / config.kv_heads;
  if (count <= config.kv_heads) {
    for (const Range kv : cut({0, config.kv_heads}, count))
      parts.push_back({{kv.first * group, kv.count * group}, kv, {}});
  } else {
    const std::vector<Range> slices = cut({0, count}, config.kv_heads);
    for (int64_t kv = 0; kv < config.kv_heads; ++kv) {
      for (const Range heads : cut({kv * group, group}, slices[static_cast<size_t>(kv)].count))
        parts.push_back({heads, {kv, 1}, {}});
    }
  }
  const std::vector<Range> columns = cut({0, config.ffn}, count);
  for (size_t i = 0; i < parts.size(); ++i) parts[i].ffn = columns[i];
  return parts;
}

// What a part holds of a tensor that is cut.
Range range_of(const Part& part, const Tensor& tensor) {
  const auto names = [&](const char* what) { return tensor.name.find(what) != std::string::npos; };
  if (names("mlp.")) return part.ffn;
  return names("attention.kv") ? part.kv_heads : part.heads;
}

// f(offset in the whole tensor, offset in the part's, count) for contiguous pieces.
template <typename F>
void for_each_piece(const Tensor& whole, const Part& part, F&& f) {
  if (whole.split_axis < 0) return f(int64_t{0}, int64_t{0}, whole.count());
  const Range range = range_of(part, whole);
  const auto axis = static_cast<size_t>(whole.split_axis);
  int64_t inner = 1;
  for (size_t i = axis + 1; i < whole.shape.size(); ++i) inner *= whole.shape[i];
  for (int64_t outer = 0; outer < (axis == 0 ? 1 : whole.shape[0]); ++outer)
    f((outer * whole.shape[axis] + range.first) * inner, outer * range.count * inner, range.count * inner);
}

Segment segment_of(const Segment& whole, const Part& part) {
  Segment segment = whole;
  segment.count = 0;
  for (Tensor& tensor : segment.tensors) {
    if (tensor.split_axis >= 0) tensor.shape[static_cast<size_t>(tensor.split_axis)] = range_of(part, tensor).count;
    tensor.offset = segment.count;
    segment.count += (tensor.count() + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment;
  }
  return segment;
}

std::vector<float> drawn_values(int64_t count, uint64_t key, float mean = 0.0F, float deviation = 1.0F) {
  std::vector<float> values(static_cast<size_t>(count));
  fill_normal(values.data(), count, key, 0, mean, deviation);
  return values;
}

// The forward and backward of one slice, or of all.
struct Run {
  Run(const TransformerConfig& of, const BatchShape& tokens, Recompute recompute, Segment its, Slice slice)
      : segment(std::move(its)),
        shape{of, tokens, recompute, slice},
        weights(static_cast<size_t>(segment.count)),
        saved_memory(memory([&](Carver& c) { carve_block_saved(c, shape); })),
        output(static_cast<size_t>(kSliceTokens * of.width)) {}

  void forward(device::Stream& stream, const Batch& batch, const std::vector<float>& input, SliceGroup* others) {
    const Memory scratch = memory([&](Carver& c) { carve_block_scratch(c, shape, Pass::forward); });
    Carver carver(scratch.get());
    const BlockScratch places = carve_block_scratch(carver, shape, Pass::forward);
    Operators operators(stream, places.workspace, others);
    block_forward(operators, shape, {kSliceLayer, batch, kSliceRandom}, weights_of(), ConstRef(input.data()), saved(),
                  Ref(output.data()), places);
  }
  void backward(device::Stream& stream, const Batch& batch, const std::vector<float>& input,
                const std::vector<float>& dy, SliceGroup* others) {
    const Memory scratch = memory([&](Carver& c) { carve_block_scratch(c, shape, Pass::backward); });
    Carver carver(scratch.get());
    const BlockScratch places = carve_block_scratch(carver, shape, Pass::backward);
    Operators operators(stream, places.workspace, others);
    gradient = dy;
    weight_gradients.assign(weights.size(), 0.0F);
    block_backward(operators, shape, {kSliceLayer, batch, kSliceRandom}, weights_of(),
                   block_gradients({{&segment, weight_gradients.data()}}), ConstRef(input.data()), saved(),
                   Ref(gradient.data()), places);
  }

  using Memory = std::unique_ptr<void, void (*)(void*)>;
  template <typename Carve>
  static Memory memory(Carve&& carve) {
    Carver counter(nullptr);
    carve(counter);
    return {std::aligned_alloc(64, static_cast<size_t>(counter.used() + 64) / 64 * 64), std::free};
  }
  BlockSaved saved() const {
    Carver carver(saved_memory.get());
    return carve_block_saved(carver, shape);
  }
  BlockWeights weights_of() const { return block_weights({{&segment, ConstRef(weights.data())}}); }

  Segment segment;
  BlockShape shape;
  std::vector<float> weights;
  Memory saved_memory;
  std::vector<float> output, gradient, weight_gradients;
};

double norm(const float* values, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  return std::sqrt(sum);
}

// ||a - b|| over ||b||, or over `least` where that is more.
double difference(const float* a, const float* b, int64_t count, double least = 0.0) {
  std::vector<float> d(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) d[static_cast<size_t>(i)] = a[i] - b[i];
  return norm(d.data(), count) / std::max({norm(b, count), least, 1e-30});
}

void expect_slices_make_the_whole(const TransformerConfig& config, int64_t count, Recompute recompute, int number) {
  const bool dropout = config.dropout > 0.0F;
  const BatchShape tokens{
      .batch = kSliceBatch, .sequence = kSliceSequence, .team_size = 1 + number % 2, .dropout = dropout};
  device::WorkerTeam team(tokens.team_size);
  device::Stream stream(team);
  std::vector<int32_t> positions;
  std::vector<uint32_t> samples, rows{40, 41};
  for (int64_t n = 0; n < kSliceTokens; ++n) {
    positions.push_back(static_cast<int32_t>(n % kSliceSequence));
    samples.push_back(rows[static_cast<size_t>(n / kSliceSequence)]);
  }
  std::vector<float> table(static_cast<size_t>(rotary_table_floats(config, kSliceSequence)));
  fill_rotary_table(config, kSliceSequence, table.data());
  const Batch batch{
      .positions = positions.data(), .samples = samples.data(), .sample_of_row = rows.data(), .rotary = table.data()};
  const std::vector<float> input = drawn_values(kSliceTokens * config.width, 7);
  const std::vector<float> dy = drawn_values(kSliceTokens * config.width, 8);

  Run whole(config, tokens, recompute, declare_block(config, kSliceLayer), model::whole(config));
  for (const Tensor& tensor : whole.segment.tensors) {
    fill_normal(whole.weights.data() + tensor.offset, tensor.count(), hash_name(tensor.name), 0,
                tensor.name.find("norm") != std::string::npos ? 1.0F : 0.0F, 0.2F);
  }
  whole.forward(stream, batch, input, nullptr);
  whole.backward(stream, batch, input, dy, nullptr);

  const std::vector<Part> parts = parts_of(config, count);
  ASSERT_EQ(static_cast<int64_t>(parts.size()), count);
  std::vector<std::unique_ptr<Run>> slices;
  for (const Part& part : parts) {
    const Slice slice{.first_head = part.heads.first,
                      .heads = part.heads.count,
                      .kv_heads = part.kv_heads.count,
                      .ffn = part.ffn.count,
                      .first = slices.empty()};
    slices.push_back(std::make_unique<Run>(config, tokens, recompute, segment_of(whole.segment, part), slice));
    Run& run = *slices.back();
    for (size_t t = 0; t < whole.segment.tensors.size(); ++t) {
      const Tensor &from = whole.segment.tensors[t], &to = run.segment.tensors[t];
      for_each_piece(from, part, [&](int64_t at, int64_t local, int64_t n) {
        std::copy_n(whole.weights.data() + from.offset + at, n, run.weights.data() + to.offset + local);
      });
    }
  }
  Rounds rounds;
  const int sums = rounds.complete(slices.size(), [&](size_t i) { slices[i]->forward(stream, batch, input, &rounds); });
  EXPECT_EQ(sums, 2);
  rounds.complete(slices.size(), [&](size_t i) { slices[i]->backward(stream, batch, input, dy, &rounds); });

  const std::string what = fmt::format("{} in {} slices, dropout {}, recompute {}", described(config), count, dropout,
                                       words_of(recompute)[static_cast<size_t>(recompute)]);
  const int64_t all = kSliceTokens * config.width;
  std::vector<float> gradients(whole.weights.size());
  for (size_t i = 0; i < slices.size(); ++i) {
    const Run& run = *slices[i];
    EXPECT_LT(difference(run.output.data(), whole.output.data(), all), 5e-6) << what;
    EXPECT_LT(difference(run.gradient.data(), whole.gradient.data(), all), 5e-6) << what;
    for (size_t t = 0; t < whole.segment.tensors.size(); ++t) {
      const Tensor &from = whole.segment.tensors[t], &to = run.segment.tensors[t];
      float* const sum = gradients.data() + from.offset;
      const float* const mine = run.weight_gradients.data() + to.offset;
      for_each_piece(from, parts[i], [&](int64_t at, int64_t local, int64_t n) {
        if (from.split_axis < 0) {  // whole in every slice
          if (i == 0) std::copy_n(mine, n, sum);
          EXPECT_EQ(std::memcmp(mine, sum, static_cast<size_t>(n) * sizeof(float)), 0) << from.name << " of " << what;
        } else {  // of a key head that several slices read each has a part
          for (int64_t k = 0; k < n; ++k) sum[at + k] += mine[local + k];
        }
      });
    }
  }
  const double least = 1e-3 * norm(whole.weight_gradients.data(), static_cast<int64_t>(gradients.size()));
  for (const Tensor& tensor : whole.segment.tensors) {
    EXPECT_LT(difference(gradients.data() + tensor.offset, whole.weight_gradients.data() + tensor.offset,
                         tensor.count(), least),
              5e-6)
        << tensor.name << " of " << what;
  }
}

TEST(Slices, MakeTheWholeBlock) {
  constexpr Recompute kRecompute[] = {Recompute::none, Recompute::selective, Recompute::full};
  int number = 0;
  for (TransformerConfig config : option_combinations()) {
    for (const float probability : {0.0F, 0.2F}) {
      config.dropout = probability;
      for (const int64_t count : {2, 3, 4}) {
        expect_slices_make_the_whole(config, count, kRecompute[(number + number / 3) % 3], number);
        ++number;
      }
    }
  }
}

}  // namespace
}  // namespace ridgeline::model
