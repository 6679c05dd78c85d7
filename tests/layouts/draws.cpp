#include "draws.h"

#include <fmt/format.h>

#include <algorithm>

#include "ridgeline/base/random.h"

namespace ridgeline::layouts {
namespace {

constexpr int kMostRanks = 16, kLayers = 4;
constexpr std::array<int, 4> kMicroBatches = {1, 2, 3, 5};

// How many values each option takes.
const Choice& values() {
  static const Choice all = {
      static_cast<int>(model::family_names().size()), 5, 2, 4, 8, 3, 2, 2, 3, 4, 2, 3, 2, 2, 2, 4, 4, 3, 2, 4, 4, 2};
  return all;
}

// Each tensor of a unit in one of three segments, by chance.
template <uint32_t kSeed>
int by_chance(const model::Tensor& tensor) {
  return static_cast<int>(philox(hash_name(tensor.name), {kSeed, 0, 0, 0})[0] % 3);
}

// The blocks of each of `count` stages, or of their parts. Two ways to cut four blocks.
std::vector<int> blocks_of(int parts, bool uneven) {
  switch (parts) {
    case 2:
      return uneven ? std::vector<int>{1, 3} : std::vector<int>{2, 2};
    case 3:
      return uneven ? std::vector<int>{2, 1, 1} : std::vector<int>{1, 2, 1};
    default:
      return std::vector<int>(kLayers, 1);
  }
}

int tensor_ranks(const Choice& choice) {
  // llama has two key heads: three copies of each in six slices.
  const bool copies = model::family_names()[static_cast<size_t>(choice[family])] == "llama" && choice[slices] == 2;
  return copies ? 6 : choice[slices] + 1;
}
int data_ranks(const Choice& choice) {
  return std::clamp(kMostRanks / (tensor_ranks(choice) * (choice[stages] + 1)), 1, choice[ranks] + 1);
}
// Teams of a few ranks alone have helpers: more threads than that only wait for processors.
bool has_helpers(const Choice& choice) {
  constexpr int kMostWithHelpers = 6;
  return choice[team] == 1 && data_ranks(choice) * tensor_ranks(choice) * (choice[stages] + 1) <= kMostWithHelpers;
}
// All data-parallel ranks, the smallest divisor above 1, or 1.
int shard_group(const Choice& choice) {
  if (choice[group] != 1) return choice[group] == 0 ? 0 : 1;
  const int data = data_ranks(choice);
  int divisor = std::min(2, data);
  while (data % divisor != 0) ++divisor;
  return divisor;
}

// One layout of four keeps its state in a file, which takes time.
bool offloads(const Choice& choice) {
  return choice[offload] == values()[offload] - 1;
}

// With what makes no difference beside the other options set to its first value.
Choice effective(Choice choice) {
  const int data = data_ranks(choice);
  choice[ranks] = data - 1;
  if (shard_group(choice) % data == 0) choice[group] = 0;
  if (choice[slices] == 0) choice[sequence] = 0;
  if (choice[stages] == 0) choice[schedule] = 0;
  const bool interleaved = static_cast<parallel::ScheduleKind>(choice[schedule]) == parallel::ScheduleKind::interleaved;
  if (choice[stages] == 0 || choice[stages] == 3 || (choice[stages] == 1 && interleaved)) choice[cut] = 0;
  if (choice[recompute] == 0) choice[recompute_every] = 0;
  choice[team] = has_helpers(choice) ? 1 : 0;
  choice[offload] = offloads(choice) ? 1 : 0;
  return choice;
}

parallel::Pipeline pipeline_of(const Choice& choice) {
  const int count = choice[stages] + 1;
  if (count == 1) return {};
  parallel::Pipeline pipeline{.kind = static_cast<parallel::ScheduleKind>(choice[schedule])};
  if (pipeline.kind == parallel::ScheduleKind::interleaved && count == 2) pipeline.chunks = 2;
  pipeline.blocks = blocks_of(count * pipeline.chunks, choice[cut] == 1);
  return pipeline;
}

Layout layout_of(const Choice& choice) {
  Layout layout;
  layout.family = model::family_names()[static_cast<size_t>(choice[family])];
  constexpr DType kPrecisions[] = {DType::f32, DType::bf16, DType::f16, DType::bf16, DType::bf16};
  layout.precision = kPrecisions[choice[precision]];
  layout.pure = choice[precision] == 3;
  layout.moments = choice[precision] == 4 ? DType::bf16 : DType::f32;
  layout.dropout = choice[dropout] == 0 ? 0.0F : 0.1F;
  layout.documents = choice[micro_batches] % 2 == 1;  // beside every other option, without an option of its own
  layout.micro_batch = choice[rows] + 1;
  parallel::Sharding& sharding = layout.sharding;
  sharding.level = static_cast<parallel::Shard>(choice[level]);
  sharding.pipeline = pipeline_of(choice);
  const int count = sharding.pipeline.stages(), tensor = tensor_ranks(choice);
  sharding.micro_batches = kMicroBatches[static_cast<size_t>(choice[micro_batches])];
  if (sharding.pipeline.kind == parallel::ScheduleKind::interleaved)
    sharding.micro_batches = (sharding.micro_batches + count - 1) / count * count;
  sharding.mesh = comm::Mesh::of_world(data_ranks(choice) * tensor * count, count, tensor, 1, shard_group(choice));
  sharding.sequence = choice[sequence] == 1;
  sharding.reduce = choice[cadence] == 0 ? parallel::Reduce::last : parallel::Reduce::every;
  sharding.gather = static_cast<parallel::Gather>(choice[gather]);
  sharding.prefetch = choice[prefetch];
  sharding.segmentation = kSegmentations[static_cast<size_t>(choice[segmentation])];
  layout.recompute = static_cast<model::Recompute>(choice[recompute]);
  layout.recompute_every = choice[recompute_every] + 1;
  layout.overlap = choice[overlap] == 0;
  layout.team = choice[team] + 1;
  layout.offload_window = choice[offload];
  return layout;
}

// A number for each pair of values of two options.
constexpr int kMostValues = 8;
size_t pair_number(int a, int value_a, int b, int value_b) {
  return static_cast<size_t>((a * kMostValues + value_a) * option_count * kMostValues + b * kMostValues + value_b);
}
constexpr size_t kPairNumbers = size_t{option_count} * kMostValues * option_count * kMostValues;

// f(pair) for all pairs of values that a choice shows.
template <typename F>
void for_each_pair(const Choice& choice, F&& f) {
  for (int a = 0; a < option_count; ++a) {
    for (int b = a + 1; b < option_count; ++b)
      f(pair_number(a, choice[static_cast<size_t>(a)], b, choice[static_cast<size_t>(b)]));
  }
}

Choice choice_of(uint32_t seed, uint32_t number) {
  Choice choice{};
  for (uint32_t o = 0; o < option_count; ++o)
    choice[o] = static_cast<int>(philox(77, {number, o, seed, 0})[0] % static_cast<uint32_t>(values()[o]));
  return effective(choice);
}

}  // namespace

const std::array<model::Segmentation, 4> kSegmentations = {nullptr, model::uncut_apart, by_chance<1>, by_chance<2>};

Draws::Draws(uint32_t seed) : seed_(seed), seen_(kPairNumbers) {}

Choice Draws::draw() {
  return choice_of(seed_, number_++);
}

Layout Draws::next() {
  constexpr int kCandidates = 24;
  Choice best{};
  int best_fresh = -1;
  for (int candidate = 0; candidate < kCandidates; ++candidate) {
    const Choice choice = draw();
    int fresh = 0;
    for_each_pair(choice, [&](size_t pair) { fresh += seen_[pair] ? 0 : 1; });
    if (fresh <= best_fresh) continue;
    best = choice;
    best_fresh = fresh;
  }
  for_each_pair(best, [&](size_t pair) { seen_[pair] = true; });
  seen_count_ += best_fresh;
  return layout_of(best);
}

std::vector<std::string> Draws::missing() const {
  constexpr uint32_t kVeryMany = 30'000;
  std::vector<std::string> list;
  std::vector<bool> known = seen_;
  for (uint32_t number = 0; number < kVeryMany; ++number) {
    const Choice choice = choice_of(seed_ + 1, number);
    for_each_pair(choice, [&](size_t pair) {
      if (known[pair]) return;
      known[pair] = true;
      const auto second = static_cast<int>(pair % (option_count * kMostValues)),
                 first = static_cast<int>(pair / (option_count * kMostValues));
      list.push_back(fmt::format("option {} = {} with option {} = {}", first / kMostValues, first % kMostValues,
                                 second / kMostValues, second % kMostValues));
    });
  }
  return list;
}

}  // namespace ridgeline::layouts
