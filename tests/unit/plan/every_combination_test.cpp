// Options combine freely: every combination of them is either run or refused because something does not divide (a batch
// that the ranks cannot share out, a world that meshes or groups do not fill, a model that has no such slices or
// stages, micro-batches that the schedule cannot interleave), or for memory; never for one feature beside another. What
// decides is what `train` and `plan` call: check(), run_shape(), run_programs() and the plan of their memory.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "ridgeline/base/error.h"
#include "ridgeline/parallel/simulator.h"
#include "ridgeline/plan/memory_report.h"
#include "ridgeline/train/config.h"
#include "ridgeline/train/trainer.h"

namespace ridgeline {
namespace {

constexpr int kMaxRanks = 16;

// One option and how many values it takes in the enumeration.
struct Dimension {
  std::string name;
  int values;
};

struct Recomputed {
  model::Recompute kind;
  int every;
};
constexpr std::array kLevels = {parallel::Shard::none, parallel::Shard::optimizer, parallel::Shard::gradients,
                                parallel::Shard::parameters};
constexpr std::array<int, 7> kGroups = {0, 1, 2, 3, 4, 8, 16};
constexpr std::array kReduce = {train::Cadence::automatic, train::Cadence::every, train::Cadence::last};
constexpr std::array kGather = {parallel::Gather::per_use, parallel::Gather::per_step};
constexpr std::array<int, 3> kPrefetch = {0, 1, 3};
constexpr std::array kWire = {train::Storage::fp32, train::Storage::bf16};
constexpr std::array kPrecision = {train::Precision::fp32, train::Precision::bf16, train::Precision::fp16,
                                   train::Precision::pure_bf16};
constexpr std::array kState = kWire;
constexpr std::array kOffload = {train::Offload::none, train::Offload::file};
constexpr std::array kForm = {train::AdamForm::adamw, train::AdamForm::adam};
constexpr std::array<Recomputed, 5> kRecompute = {{{model::Recompute::none, 1},
                                                   {model::Recompute::selective, 1},
                                                   {model::Recompute::selective, 2},
                                                   {model::Recompute::full, 1},
                                                   {model::Recompute::full, 2}}};

constexpr std::array<int, 4> kTensor = {1, 2, 3, 4}, kPipeline = {1, 2, 3, 4};
constexpr std::array kSchedules = {parallel::ScheduleKind::one_f_one_b, parallel::ScheduleKind::gpipe,
                                   parallel::ScheduleKind::interleaved, parallel::ScheduleKind::zero_bubble};
constexpr std::array<int, 3> kChunks = {1, 2, 3};
// Of the models below.
constexpr int kLayers = 4, kHeads = 6, kTokens = 16;

// A step's sequences: micro-batches x ranks, or a number that does not ask how many ranks there are.
struct Batch {
  int per_rank, fixed;
  int ramp_from;  // the ramp begins with this many per rank, or sequences where the batch is fixed; 0: no ramp
};
constexpr std::array<Batch, 7> kBatches = {
    {{1, 0, 0}, {2, 0, 0}, {3, 0, 0}, {2, 0, 1}, {3, 0, 1}, {0, 24, 0}, {0, 24, 8}}};

enum Option {
  world,
  group,
  batch,
  level,
  reduce,
  gather,
  prefetch,
  wire,
  precision,
  state,
  offload,
  form,
  recompute,
  tensor,
  sequence,
  pipeline,
  schedule,
  chunks,
  stages,
  family,
  option_count
};
const std::vector<Dimension>& dimensions() {
  static const std::vector<Dimension> all = {
      {"world", kMaxRanks},
      {"shard_group", static_cast<int>(kGroups.size())},
      {"batch and ramp", static_cast<int>(kBatches.size())},
      {"shard", static_cast<int>(kLevels.size())},
      {"reduce", static_cast<int>(kReduce.size())},
      {"gather", static_cast<int>(kGather.size())},
      {"prefetch", static_cast<int>(kPrefetch.size())},
      {"reduce_dtype", static_cast<int>(kWire.size())},
      {"precision", static_cast<int>(kPrecision.size())},
      {"optimizer.state", static_cast<int>(kState.size())},
      {"optimizer.offload", static_cast<int>(kOffload.size())},
      {"optimizer.form", static_cast<int>(kForm.size())},
      {"recompute", static_cast<int>(kRecompute.size())},
      {"tensor", static_cast<int>(kTensor.size())},
      {"sequence", 2},
      {"pipeline", static_cast<int>(kPipeline.size())},
      {"schedule", static_cast<int>(kSchedules.size())},
      {"chunks", static_cast<int>(kChunks.size())},
      {"stages", 2},
      {"family", static_cast<int>(model::family_names().size())},
  };
  return all;
}

int64_t combinations() {
  int64_t count = 1;
  for (const Dimension& dimension : dimensions()) count *= dimension.values;
  return count;
}

using Choice = std::array<int, option_count>;  // a value's number of every dimension

template <typename Values>
auto value(const Values& values, const Choice& choice, Option option) {
  return values[static_cast<size_t>(choice[option])];
}
int ranks_of(const Choice& choice) {
  return choice[world] + 1;
}
int ranks_of_copy(const Choice& choice) {
  return value(kTensor, choice, tensor) * value(kPipeline, choice, pipeline);
}
// Where the world has no whole copies, as many as there are.
int data_ranks(const Choice& choice) {
  return std::max(1, ranks_of(choice) / ranks_of_copy(choice));
}
bool interleaves(const Choice& choice) {
  return value(kSchedules, choice, schedule) == parallel::ScheduleKind::interleaved;
}
int parts_of(const Choice& choice) {
  return value(kPipeline, choice, pipeline) * value(kChunks, choice, chunks);
}

// Without keys that count only beside another, which is not there.
Choice effective(Choice choice) {
  if (value(kTensor, choice, tensor) == 1) choice[sequence] = 0;
  if (value(kPipeline, choice, pipeline) == 1) choice[schedule] = choice[stages] = 0;
  if (!interleaves(choice)) choice[chunks] = 0;
  return choice;
}
Choice choice_of(int64_t number) {
  Choice choice{};
  size_t i = 0;
  for (const Dimension& dimension : dimensions()) {
    choice[i++] = static_cast<int>(number % dimension.values);
    number /= dimension.values;
  }
  return effective(choice);
}

// As if read from a file; parsed once per family, for the sake of time.
const train::Config& base_of(int number) {
  static const std::vector<train::Config> all = [] {
    std::vector<train::Config> configs;
    for (const std::string_view name : model::family_names()) {
      const std::string_view keys = name == "llama" ? "kv_heads = 1\n" : "";  // of which all slices have a copy
      configs.push_back(train::parse_config_text(
          fmt::format("[model]\nfamily = \"{}\"\nlayers = {}\nwidth = 36\nheads = {}\n{}ffn = 96\nvocab = 61\n"
                      "context = {}\n[train]\nsteps = 4\nmicro_batch = 1\nthreads = 1\nhead_chunk = 16\n",
                      name, kLayers, kHeads, keys, kTokens),
          "combination"));
    }
    return configs;
  }();
  return all[static_cast<size_t>(number)];
}

train::Config config_of(const Choice& choice) {
  train::Config config = base_of(choice[family]);
  const Batch sequences = value(kBatches, choice, batch);
  const int unit = sequences.fixed != 0 ? 1 : data_ranks(choice);
  config.train.global_batch = sequences.fixed != 0 ? sequences.fixed : int64_t{sequences.per_rank} * unit;
  if (sequences.ramp_from != 0) {
    config.train.batch_ramp_start = int64_t{sequences.ramp_from} * unit;
    config.train.batch_ramp_increment = config.train.batch_ramp_start;
    config.train.batch_ramp_samples = 2 * config.train.global_batch;
  }
  config.train.precision = value(kPrecision, choice, precision);
  config.train.recompute = value(kRecompute, choice, recompute).kind;
  config.train.recompute_every = value(kRecompute, choice, recompute).every;
  config.optimizer.state = value(kState, choice, state);
  config.optimizer.offload = value(kOffload, choice, offload);
  config.optimizer.form = value(kForm, choice, form);
  config.parallel.shard = value(kLevels, choice, level);
  config.parallel.shard_group = value(kGroups, choice, group);
  config.parallel.reduce = value(kReduce, choice, reduce);
  config.parallel.gather = value(kGather, choice, gather);
  config.parallel.prefetch = value(kPrefetch, choice, prefetch);
  config.parallel.reduce_dtype = value(kWire, choice, wire);
  config.parallel.tensor = value(kTensor, choice, tensor);
  config.parallel.sequence = choice[sequence] == 1;
  config.parallel.pipeline = value(kPipeline, choice, pipeline);
  config.parallel.schedule = value(kSchedules, choice, schedule);
  config.parallel.chunks = value(kChunks, choice, chunks);
  if (choice[stages] == 1) {  // all blocks that the others do not need on the last
    const int parts = parts_of(choice);
    for (int part = 1; part < parts; ++part) config.parallel.stages += "1,";
    config.parallel.stages += fmt::format("{}", std::max(1, kLayers - parts + 1));
  }
  return config;
}

// What must be refused, by arithmetic alone: one reason for it, or none.
enum class Reason { none, world, group, batch, slices, tokens, blocks, interleaving };
constexpr std::array<std::string_view, 8> kReasons = {"",
                                                      "the ranks are no multiple of tensor x pipeline",
                                                      "the group does not divide the ranks",
                                                      "the batch is not a multiple of the ranks",
                                                      "the heads do not divide into slices",
                                                      "the tokens do not divide into slices",
                                                      "fewer blocks than stages x chunks",
                                                      "micro-batches do not interleave"};
bool interleaving_divides(const Choice& choice) {
  const int ranks = value(kPipeline, choice, pipeline);
  if (!interleaves(choice) || ranks == 1) return true;
  const Batch sequences = value(kBatches, choice, batch);
  const int unit = sequences.fixed != 0 ? data_ranks(choice) : 1;
  const int last = (sequences.fixed != 0 ? sequences.fixed : sequences.per_rank) / unit;
  const int step = sequences.ramp_from == 0 ? last : sequences.ramp_from / unit;
  for (int micro_batches = step; micro_batches <= last; micro_batches += step) {
    if (micro_batches % ranks != 0) return false;
  }
  return true;
}
// In the order in which they are looked for.
Reason reason_of(const Choice& choice) {
  const Batch sequences = value(kBatches, choice, batch);
  const int data = data_ranks(choice), group_ranks = value(kGroups, choice, group),
            slices = value(kTensor, choice, tensor);
  if (kHeads % slices != 0) return Reason::slices;
  if (choice[sequence] == 1 && kTokens % slices != 0) return Reason::tokens;
  if (ranks_of(choice) % ranks_of_copy(choice) != 0) return Reason::world;
  if (group_ranks != 0 && data % group_ranks != 0) return Reason::group;
  if (sequences.fixed % data != 0 || (sequences.fixed != 0 && sequences.ramp_from % data != 0)) return Reason::batch;
  if (parts_of(choice) > kLayers) return Reason::blocks;
  if (!interleaving_divides(choice)) return Reason::interleaving;
  return Reason::none;
}

std::string described(const Choice& choice, const train::Config& config) {
  return fmt::format("{} ranks:\n{}", ranks_of(choice), train::to_toml(config, train::Detail::values));
}

// Empty when check() accepts, else the reason by the key that it names, or the whole text where that is another.
std::string refusal(const train::Config& config, int ranks) {
  struct Begin {
    std::string_view text;
    Reason reason;
  };
  constexpr std::array<Begin, 7> kBegins = {{{"train.global_batch = ", Reason::batch},
                                             {"train.batch_ramp_", Reason::batch},
                                             {"parallel.shard_group = ", Reason::group},
                                             {"parallel.tensor = ", Reason::slices},
                                             {"parallel.sequence = true: the 16 tokens ", Reason::tokens},
                                             {"parallel.pipeline = ", Reason::blocks},
                                             {"parallel.schedule = \"interleaved\"", Reason::interleaving}}};
  try {
    train::check(config, ranks);
    return "";
  } catch (const Error& error) {
    const std::string_view message = error.message();
    for (const std::string_view text : {" rank is no multiple of ", " ranks are no multiple of "}) {
      if (message.find(text) != std::string_view::npos)
        return std::string(kReasons[static_cast<size_t>(Reason::world)]);
    }
    for (const Begin& begin : kBegins) {
      if (message.starts_with(begin.text)) return std::string(kReasons[static_cast<size_t>(begin.reason)]);
    }
    return fmt::format("{} ({})", message, error.next_step());
  }
}

// Whether some run has these values: options that decide what divides take all of theirs, the others their first.
bool possible(const Choice& fixed) {
  constexpr std::array kDeciding = {world, group, batch, tensor, sequence, pipeline, schedule, chunks, stages};
  Choice choice = fixed;
  for (int& number : choice) number = std::max(number, 0);
  const auto any = [&](auto&& self, size_t at) -> bool {
    if (at == kDeciding.size()) return effective(choice) == choice && reason_of(choice) == Reason::none;
    const Option option = kDeciding[at];
    if (fixed[option] >= 0) return self(self, at + 1);
    for (choice[option] = 0; choice[option] < dimensions()[option].values; ++choice[option]) {
      if (self(self, at + 1)) return true;
    }
    return false;
  };
  return any(any, 0);
}

// Pairs of values of two dimensions that have run.
class Pairs {
 public:
  void ran(const Choice& choice) {
    for (size_t a = 0; a < choice.size(); ++a)
      for (size_t b = 0; b < a; ++b) seen_.insert({a, b, choice[a], choice[b]});
  }
  // Those that have not, although divisibility does not forbid it.
  std::vector<std::string> missing() const {
    std::vector<std::string> list;
    const std::vector<Dimension>& all = dimensions();
    for (size_t a = 0; a < all.size(); ++a) {
      for (size_t b = 0; b < a; ++b) {
        for (int i = 0; i < all[a].values * all[b].values; ++i) {
          Choice pair;
          pair.fill(-1);
          pair[a] = i % all[a].values;
          pair[b] = i / all[a].values;
          if (!seen_.contains({a, b, pair[a], pair[b]}) && possible(pair))
            list.push_back(fmt::format("{} {} with {} {}", all[a].name, pair[a], all[b].name, pair[b]));
        }
      }
    }
    return list;
  }

 private:
  std::set<std::tuple<size_t, size_t, int, int>> seen_;
};

// The programs of all ranks proved; the memory of all that differ laid out and proved.
void expect_sound(const Choice& choice, const train::Config& config, std::map<std::string, int64_t>& counts) {
  const int ranks = ranks_of(choice);
  const comm::Mesh mesh = train::mesh_of(config, ranks);
  std::vector<std::vector<parallel::Program>> programs;  // [program][rank]
  for (int rank = 0; rank < ranks; ++rank) {
    const std::vector<parallel::Program> mine = train::run_programs(config, comm::Placement(mesh, rank));
    programs.resize(mine.size());
    for (size_t i = 0; i < mine.size(); ++i) programs[i].push_back(mine[i]);
  }
  const parallel::Sharding sharding = train::run_shape(config, {}, comm::Placement(mesh, 0)).sharding;
  for (const std::vector<parallel::Program>& all : programs) {
    const std::vector<std::string> wrong = parallel::simulate(config.model.transformer, sharding, all);
    EXPECT_TRUE(wrong.empty()) << wrong.front() << "\n" << described(choice, config);
  }
  for (const comm::AlikeRanks& alike : comm::alike_ranks(mesh)) {
    const parallel::RunShape shape = train::run_shape(config, {}, alike.first);
    const std::vector<parallel::Program> mine = train::run_programs(config, alike.first);
    const parallel::Inventory inventory = parallel::make_inventory(shape, shape.segments(), mine);
    EXPECT_EQ(inventory.file_bytes > 0, config.optimizer.offload == train::Offload::file) << described(choice, config);
    const std::vector<std::string> wrong = parallel::overlapping(inventory, mine);
    EXPECT_TRUE(wrong.empty()) << wrong.front() << "\n" << described(choice, config);
    if (alike.first.rank() != 0) continue;
    // A limit in the midst of what these runs take.
    constexpr int64_t kLimit = int64_t{8} << 20;
    const plan::Limit limit{kLimit, ranks, "host"};
    const plan::MemoryReport report = plan::memory_report(inventory, mine);
    if (plan::fits(report, limit)) {
      ++counts["planned and proved: fits 8 MiB per host"];
      EXPECT_NO_THROW(plan::require_fits(report, limit, [] { return ""; }));
    } else {
      ++counts["planned and proved: refused, 8 MiB per host do not suffice"];
      EXPECT_THROW(plan::require_fits(report, limit, [] { return ""; }), Error);
    }
  }
}

// Every kStride-th combination, a prime that divides no number of values, so that every pair of values meets that can
// (which is checked); with RIDGELINE_TEST_LONG many more.
TEST(EveryCombination, IsRunOrRefusedForDivisibilityOrMemoryAlone) {
  constexpr int64_t kStride = 60'013, kProvedStride = 251;
  const int64_t stride = std::getenv("RIDGELINE_TEST_LONG") != nullptr ? 1009 : kStride;
  std::map<std::string, int64_t> counts;
  Pairs pairs;
  int64_t tried = 0, run = 0;
  for (int64_t number = 0; number < combinations(); number += stride, ++tried) {
    const Choice choice = choice_of(number);
    const train::Config config = config_of(choice);
    const std::string reason = refusal(config, ranks_of(choice));
    EXPECT_EQ(reason, kReasons[static_cast<size_t>(reason_of(choice))]) << described(choice, config);
    if (testing::Test::HasFailure()) break;
    if (!reason.empty()) {
      ++counts["refused: " + reason];
      continue;
    }
    pairs.ran(choice);
    if (run++ % kProvedStride == 0) expect_sound(choice, config, counts);
  }
  fmt::print("{} combinations, {} tried, {} run\n", combinations(), tried, run);
  for (const auto& [reason, count] : counts) fmt::print("{:>9}  {}\n", count, reason);
  EXPECT_EQ(pairs.missing(), std::vector<std::string>{});
}

TEST(EveryCombination, OffloadToHostMemoryIsWhereStateLiesOnCpus) {
  train::Config config = base_of(0);
  config.train.precision = train::Precision::bf16;
  const std::vector<parallel::Program> programs = train::run_programs(config, {});
  const auto planned = [&](train::Offload where) {
    config.optimizer.offload = where;
    train::check(config, 1);
    const parallel::RunShape shape = train::run_shape(config, {}, {});
    return parallel::make_inventory(shape, model::declare(shape.config), programs);
  };
  EXPECT_EQ(planned(train::Offload::host).total_bytes(), planned(train::Offload::none).total_bytes());
  EXPECT_EQ(planned(train::Offload::host).file_bytes, 0);
  EXPECT_GT(planned(train::Offload::file).file_bytes, 0);
}

}  // namespace
}  // namespace ridgeline
