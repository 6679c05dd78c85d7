// Blocks, embedding and loss in slices, one after the other in one thread, against the whole.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "../many_cases.h"
#include "combinations.h"
#include "ridgeline/base/random.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/model/block.h"
#include "ridgeline/model/operators.h"
#include "ridgeline/model/transformer.h"
#include "ridgeline/ops/cross_entropy.h"

namespace ridgeline::model {
namespace {

constexpr int kSliceLayer = 1;
constexpr int64_t kSliceBatch = 2, kSliceSequence = 6, kSliceTokens = kSliceBatch * kSliceSequence;
constexpr StepRandom kSliceRandom{.dropout = 11, .attention_dropout = 12};

// Slices that meet although they run one after the other: round by round. In round k each slice gets what its first k
// meetings gave and hands in its part of the next one.
class Rounds : public SliceGroup {
 public:
  bool travels() const override { return travels_; }
  void travel(bool yes) { travels_ = yes; }
  void finish(device::Stream& /*stream*/) override {}
  void start_sum(device::Stream& /*stream*/, Ref values, int64_t count) override {
    traffic_.whole += count * size_of(values.dtype);
    const size_t at = meetings_++;
    if (at < known_.size()) return take(at, values.data, 0, static_cast<size_t>(count) * sizeof(float));
    if (at == known_.size()) add(values, count);
  }
  void sum_parts(device::Stream& /*stream*/, Ref all, int64_t count) override {
    traffic_.part += count * size_of(all.dtype);
    const size_t at = meetings_++, part = static_cast<size_t>(count) * sizeof(float);
    if (at > known_.size()) return;
    if (at == known_.size()) return add(all, count * static_cast<int64_t>(slices_));
    std::fill_n(all.as<float>(), static_cast<size_t>(count) * slices_, std::nanf(""));  // others' parts are undefined
    take(at, all.at(count * static_cast<int64_t>(slice_)).data, part * slice_, part);
  }
  void gather(device::Stream& /*stream*/, Ref all, int64_t count) override {
    traffic_.part += count * size_of(all.dtype);
    const size_t at = meetings_++, own = static_cast<size_t>(count * size_of(all.dtype));
    if (at < known_.size()) return take(at, all.data, 0, own * slices_);
    const auto* const bytes = all.as<std::byte>();
    if (at == known_.size()) next_.insert(next_.end(), bytes + own * slice_, bytes + own * (slice_ + 1));
  }

  // run(slice) for each, as often as there are meetings and once more: the last round computed with all of them.
  template <typename Run>
  size_t complete(size_t slices, Run&& run) {
    slices_ = slices;
    known_.clear();
    do {
      next_.clear();
      for (slice_ = 0; slice_ < slices; ++slice_) {
        meetings_ = 0;
        traffic_ = {};
        run(slice_);
      }
      if (!next_.empty()) known_.push_back(next_);
    } while (!next_.empty());
    return known_.size();
  }
  // Of the last slice.
  const SliceTraffic& traffic() const { return traffic_; }

 private:
  void take(size_t at, void* to, size_t from, size_t bytes) const {
    ASSERT_LE(from + bytes, known_[at].size());
    std::memcpy(to, known_[at].data() + from, bytes);
  }
  void add(Ref values, int64_t count) {
    next_.resize(static_cast<size_t>(count) * sizeof(float));
    for (int64_t i = 0; i < count; ++i) {
      float sum = 0.0F;
      std::byte* const place = next_.data() + static_cast<size_t>(i) * sizeof sum;
      std::memcpy(&sum, place, sizeof sum);
      sum += values.as<float>()[i];
      std::memcpy(place, &sum, sizeof sum);
    }
  }

  std::vector<std::vector<std::byte>> known_;
  std::vector<std::byte> next_;
  SliceTraffic traffic_;
  size_t slices_ = 0, slice_ = 0, meetings_ = 0;
  bool travels_ = false;
};

// `count` parts that differ by at most one.
std::vector<Range> cut(Range all, int64_t count) {
  std::vector<Range> parts;
  for (int64_t i = 0; i < count; ++i) {
    const Range part = part_of(all.count, i, count);
    parts.push_back({all.first + part.first, part.count});
  }
  return parts;
}

// Uneven ones: whole groups of heads for each slice; where there are fewer groups than slices, parts of groups.
std::vector<Slice> slices_of(const TransformerConfig& config, int64_t count, bool sequence) {
  std::vector<Slice> slices;
  const int64_t group = config.heads / config.kv_heads;
  const auto add = [&](const Range& heads, const Range& kv_heads) {
    const auto index = static_cast<int64_t>(slices.size());
    slices.push_back({.index = static_cast<int>(index),
                      .count = static_cast<int>(count),
                      .sequence = sequence,
                      .heads = heads,
                      .kv_heads = kv_heads,
                      .ffn = part_of(config.ffn, index, count),
                      .rows = part_of(config.vocab, index, count)});
  };
  if (count <= config.kv_heads) {
    for (const Range kv : cut({0, config.kv_heads}, count)) add({kv.first * group, kv.count * group}, kv);
    return slices;
  }
  const std::vector<Range> parts = cut({0, count}, config.kv_heads);
  for (int64_t kv = 0; kv < config.kv_heads; ++kv) {
    for (const Range heads : cut({kv * group, group}, parts[static_cast<size_t>(kv)].count)) add(heads, {kv, 1});
  }
  return slices;
}

// f(element of the whole tensor, element of what lies here, count) for contiguous pieces of tensor number `t`.
template <typename F>
void for_each_piece(const Segment& segment, size_t t, F&& f) {
  const Tensor& tensor = segment.tensors[t];
  for_each_tensor_range(segment, tensor.offset, tensor.offset + tensor.count(),
                        [&](const Tensor& /*tensor*/, int64_t at, int64_t count, int64_t offset) {
                          f(at, offset - tensor.offset, count);
                        });
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
        output(static_cast<size_t>(shape.tokens().count * of.width)) {}

  void forward(device::Stream& stream, const Batch& batch, const std::vector<float>& input, SliceGroup* others) {
    const Memory scratch = memory([&](Carver& c) { carve_block_scratch(c, shape, Pass::forward); });
    Carver carver(scratch.get());
    const BlockScratch places = carve_block_scratch(carver, shape, Pass::forward);
    Operators operators(stream, places.workspace, others);
    block_forward(operators, shape, {kSliceLayer, batch, kSliceRandom}, weights_of(), own(input), saved(),
                  Ref(output.data()), places);
  }
  void backward(device::Stream& stream, const Batch& batch, const std::vector<float>& input,
                const std::vector<float>& dy, SliceGroup* others) {
    const Memory scratch = memory([&](Carver& c) { carve_block_scratch(c, shape, Pass::backward); });
    Carver carver(scratch.get());
    const BlockScratch places = carve_block_scratch(carver, shape, Pass::backward);
    Operators operators(stream, places.workspace, others);
    gradient.assign(own(dy).as<float>(), own(dy).as<float>() + output.size());
    weight_gradients.assign(weights.size(), 0.0F);
    block_backward(operators, shape, {kSliceLayer, batch, kSliceRandom}, weights_of(),
                   block_gradients({{&segment, weight_gradients.data()}}), own(input), saved(), Ref(gradient.data()),
                   places);
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
  // Of all tokens those of the residual stream.
  ConstRef own(const std::vector<float>& all) const { return ConstRef(all.data() + own_first()); }
  int64_t own_first() const { return shape.tokens().first * shape.config.width; }
  BlockWeights weights_of() const { return block_weights({{&segment, ConstRef(weights.data())}}); }

  Segment segment;
  LocalShape shape;
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

void expect_slices_make_the_whole(const TransformerConfig& config, int64_t count, bool sequence, Recompute recompute,
                                  int number) {
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

  std::vector<std::unique_ptr<Run>> slices;
  for (const Slice& slice : slices_of(config, count, sequence)) {
    slices.push_back(std::make_unique<Run>(config, tokens, recompute, sliced(whole.segment, slice), slice));
    Run& run = *slices.back();
    for (size_t t = 0; t < whole.segment.tensors.size(); ++t) {
      const Tensor &from = whole.segment.tensors[t], &to = run.segment.tensors[t];
      for_each_piece(run.segment, t, [&](int64_t at, int64_t local, int64_t n) {
        std::copy_n(whole.weights.data() + from.offset + at, n, run.weights.data() + to.offset + local);
      });
    }
  }
  ASSERT_EQ(static_cast<int64_t>(slices.size()), count);
  Rounds rounds;
  rounds.travel(number % 2 == 0);
  // Two sums, in two chunks each where they travel; with tokens of their own, also two or one norm's outputs.
  const size_t sums = number % 2 == 0 ? 4 : 2;
  const size_t meetings = sequence ? (has_second_norm(config.residual) ? 4 : 3) : sums;
  EXPECT_EQ(rounds.complete(slices.size(), [&](size_t i) { slices[i]->forward(stream, batch, input, &rounds); }),
            meetings);
  EXPECT_EQ(rounds.traffic(), block_traffic(slices.back()->shape, Pass::forward));
  rounds.complete(slices.size(), [&](size_t i) { slices[i]->backward(stream, batch, input, dy, &rounds); });
  EXPECT_EQ(rounds.traffic(), block_traffic(slices.back()->shape, Pass::backward));

  const std::string what = fmt::format("{} in {} slices{}, dropout {}, recompute {}", described(config), count,
                                       sequence ? " with tokens of their own" : "", dropout,
                                       words_of(recompute)[static_cast<size_t>(recompute)]);
  std::vector<float> gradients(whole.weights.size());
  for (size_t i = 0; i < slices.size(); ++i) {
    const Run& run = *slices[i];
    const int64_t all = std::ssize(run.output);
    EXPECT_LT(difference(run.output.data(), whole.output.data() + run.own_first(), all), 5e-6) << what;
    EXPECT_LT(difference(run.gradient.data(), whole.gradient.data() + run.own_first(), all), 5e-6) << what;
    for (size_t t = 0; t < whole.segment.tensors.size(); ++t) {
      const Tensor &from = whole.segment.tensors[t], &to = run.segment.tensors[t];
      float* const sum = gradients.data() + from.offset;
      const float* const mine = run.weight_gradients.data() + to.offset;
      for_each_piece(run.segment, t, [&](int64_t at, int64_t local, int64_t n) {
        if (from.split == SplitBy::nothing && !sequence) {  // whole in every slice
          if (i == 0) std::copy_n(mine, n, sum);
          EXPECT_EQ(std::memcmp(mine, sum, static_cast<size_t>(n) * sizeof(float)), 0) << from.name << " of " << what;
        } else {  // of a key head that several slices read each has a part, and of its tokens'
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
  ManyCases cases(5);
  for (TransformerConfig config : option_combinations()) {
    for (const float probability : {0.0F, 0.2F}) {
      config.dropout = probability;
      for (const int64_t count : {2, 3, 4}) {
        for (const bool sequence : {false, true}) {
          if (cases.skips()) continue;
          expect_slices_make_the_whole(config, count, sequence, kRecompute[(number + number / 3) % 3], number);
        }
        ++number;
      }
    }
  }
}

// A model without its blocks, or a slice of it: the output of the embedding, losses, and all gradients.
struct EndsRun {
  EndsRun(const TransformerConfig& of, const BatchShape& tokens, const Slice& slice)
      : shape{of, tokens, Recompute::none, slice}, segments(declare(of)) {
    for (Segment& segment : segments) {
      const Segment whole = segment;
      segment = sliced(whole, slice);
      std::vector<float>& values = weights.emplace_back(static_cast<size_t>(segment.count));
      gradients.emplace_back(values.size());
      for (size_t t = 0; t < segment.tensors.size(); ++t) {
        const std::vector<float> all = drawn_values(whole.tensors[t].count(), hash_name(whole.tensors[t].name), 0.1F);
        for_each_piece(segment, t, [&](int64_t at, int64_t local, int64_t n) {
          std::copy_n(all.data() + at, n, values.data() + segment.tensors[t].offset + local);
        });
      }
    }
    const auto size = static_cast<size_t>(shape.tokens().count * of.width);
    output.resize(size);
    gradient.resize(size);
    losses.resize(static_cast<size_t>(kSliceTokens));
  }

  void run(device::Stream& stream, const Batch& batch, const std::vector<float>& input, const std::vector<float>& dy,
           SliceGroup* others) {
    for (std::vector<float>& values : gradients) std::fill(values.begin(), values.end(), 0.0F);
    const auto embedding_scratch = [&](Carver& carver) { return carve_embedding_scratch(carver, shape, true); };
    const auto loss_scratch = [&](Carver& carver) { return carve_loss_scratch(carver, shape, true); };
    const Run::Memory first = Run::memory(embedding_scratch), last = Run::memory(loss_scratch);
    Carver carve_first(first.get()), carve_last(last.get());
    const EmbeddingScratch of_embedding = embedding_scratch(carve_first);
    Operators embedding(stream, of_embedding.workspace, others);
    embedding_forward(embedding, shape, batch, kSliceRandom, embedding_weights(placed<ConstRef>(weights)),
                      Ref(output.data()), of_embedding);
    std::copy_n(dy.data() + own_first(), gradient.size(), gradient.data());
    embedding_backward(embedding, shape, batch, kSliceRandom, Ref(gradient.data()),
                       embedding_gradients(placed<float*>(gradients)), of_embedding);
    const LossScratch places = loss_scratch(carve_last);
    Operators head(stream, places.workspace, others);
    loss(head, shape, batch, head_weights(shape.config, placed<ConstRef>(weights)),
         ConstRef(input.data() + own_first()), 3.0F, Ref(gradient.data()),
         head_gradients(shape.config, placed<float*>(gradients)), losses.data(), places);
  }

  template <typename Data>
  PlacedSegments<Data> placed(std::vector<std::vector<float>>& values) const {
    PlacedSegments<Data> all;
    for (size_t i = 0; i < segments.size(); ++i) all.push_back({&segments[i], values[i].data()});
    return all;
  }

  int64_t own_first() const { return shape.tokens().first * shape.config.width; }

  LocalShape shape;
  std::vector<Segment> segments;
  std::vector<std::vector<float>> weights, gradients;
  std::vector<float> output, gradient, losses;
};

TEST(Slices, MakeTheWholeEmbeddingAndLoss) {
  int number = 0;
  ManyCases cases(5);
  for (TransformerConfig config : option_combinations()) {
    config.layers = 0;
    for (const int64_t count : {2, 3, 4}) {
      config.dropout = ++number % 2 == 0 ? 0.2F : 0.0F;
      if (cases.skips()) continue;
      const BatchShape tokens{.batch = kSliceBatch,
                              .sequence = kSliceSequence,
                              .head_chunk = 5,
                              .team_size = 1 + number % 2,
                              .dropout = config.dropout > 0.0F};
      device::WorkerTeam team(tokens.team_size);
      device::Stream stream(team);
      std::vector<int32_t> inputs, labels, positions;
      std::vector<uint32_t> samples;
      for (int64_t n = 0; n < kSliceTokens; ++n) {
        inputs.push_back(static_cast<int32_t>(n * 17 % config.vocab));
        labels.push_back(n % 5 == 3 ? ops::kIgnoredLabel : static_cast<int32_t>((n * 29 + 4) % config.vocab));
        positions.push_back(static_cast<int32_t>(n % kSliceSequence));
        samples.push_back(static_cast<uint32_t>(40 + n / kSliceSequence));
      }
      const Batch batch{
          .inputs = inputs.data(), .labels = labels.data(), .positions = positions.data(), .samples = samples.data()};
      const std::vector<float> input = drawn_values(kSliceTokens * config.width, 7);
      const std::vector<float> dy = drawn_values(kSliceTokens * config.width, 8);
      EndsRun whole(config, tokens, model::whole(config));
      whole.run(stream, batch, input, dy, nullptr);

      // Every third time the last slice has nothing.
      std::vector<Range> rows = cut({0, config.vocab}, number % 3 == 0 ? count - 1 : count);
      rows.resize(static_cast<size_t>(count), {config.vocab, 0});
      const bool sequence = number / 2 % 2 == 0;
      std::vector<std::unique_ptr<EndsRun>> slices;
      for (const Range& range : rows) {
        const Slice slice{.index = static_cast<int>(slices.size()),
                          .count = static_cast<int>(count),
                          .sequence = sequence,
                          .rows = range};
        slices.push_back(std::make_unique<EndsRun>(config, tokens, slice));
      }
      Rounds rounds;
      rounds.complete(slices.size(), [&](size_t i) { slices[i]->run(stream, batch, input, dy, &rounds); });
      SliceTraffic counted = embedding_traffic(slices.back()->shape, false);
      counted += embedding_traffic(slices.back()->shape, true);
      counted += loss_traffic(slices.back()->shape, true);
      EXPECT_EQ(rounds.traffic(), counted);

      const std::string what = fmt::format("{} in {} slices{}, dropout {}", described(config), count,
                                           sequence ? " with tokens of their own" : "", config.dropout);
      for (const auto& slice : slices) {
        const int64_t size = std::ssize(slice->output), first = slice->own_first();
        EXPECT_EQ(std::memcmp(slice->output.data(), whole.output.data() + first, slice->output.size() * sizeof(float)),
                  0)
            << what;
        EXPECT_LT(difference(slice->gradient.data(), whole.gradient.data() + first, size), 5e-6) << what;
        EXPECT_LT(difference(slice->losses.data(), whole.losses.data(), kSliceTokens), 5e-6) << what;
      }
      for (size_t u = 0; u < whole.segments.size(); ++u) {
        const Segment& segment = whole.segments[u];
        for (size_t t = 0; t < segment.tensors.size(); ++t) {
          const Tensor& tensor = segment.tensors[t];
          std::vector<float> joined(static_cast<size_t>(tensor.count()));
          for (const auto& slice : slices) {
            const Segment& its = slice->segments[u];
            const float* const mine = slice->gradients[u].data() + its.tensors[t].offset;
            for_each_piece(its, t, [&](int64_t at, int64_t local, int64_t n) {
              float* const sum = &joined[static_cast<size_t>(at)];
              if (!sequence || tensor.split == SplitBy::rows)
                return static_cast<void>(std::copy_n(mine + local, n, sum));
              for (int64_t k = 0; k < n; ++k) sum[k] += mine[local + k];
            });
          }
          EXPECT_LT(difference(joined.data(), whole.gradients[u].data() + tensor.offset, tensor.count()), 5e-6)
              << tensor.name << " of " << what;
        }
      }
    }
  }
}

}  // namespace
}  // namespace ridgeline::model
