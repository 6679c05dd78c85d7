// Options combine freely: every combination of them is either run or refused for one of three reasons, a batch that
// the ranks cannot share out, a world that the groups do not fill, and memory; never for one feature beside another.
// What decides is what `train` and `plan` call: check(), run_shape(), run_programs() and the plan of their memory.
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
  family
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
      {"family", static_cast<int>(model::family_names().size())},
  };
  return all;
}

int64_t combinations() {
  int64_t count = 1;
  for (const Dimension& dimension : dimensions()) count *= dimension.values;
  return count;
}

using Choice = std::vector<int>;  // a value's number of every dimension
Choice choice_of(int64_t number) {
  Choice choice;
  for (const Dimension& dimension : dimensions()) {
    choice.push_back(static_cast<int>(number % dimension.values));
    number /= dimension.values;
  }
  return choice;
}

// As if read from a file; parsed once per family, for the sake of time.
const train::Config& base_of(int number) {
  static const std::vector<train::Config> all = [] {
    std::vector<train::Config> configs;
    for (const std::string_view name : model::family_names()) {
      configs.push_back(train::parse_config_text(
          fmt::format("[model]\nfamily = \"{}\"\nlayers = 2\nwidth = 32\nheads = 2\nvocab = 61\ncontext = 16\n"
                      "[train]\nsteps = 4\nmicro_batch = 1\nthreads = 1\nhead_chunk = 16\n",
                      name),
          "combination"));
    }
    return configs;
  }();
  return all[static_cast<size_t>(number)];
}

template <typename Values>
auto value(const Values& values, const Choice& choice, Option option) {
  return values[static_cast<size_t>(choice[option])];
}

int ranks_of(const Choice& choice) {
  return choice[world] + 1;
}

train::Config config_of(const Choice& choice) {
  const int ranks = ranks_of(choice);
  train::Config config = base_of(choice[family]);
  const Batch sequences = value(kBatches, choice, batch);
  const int segment = sequences.fixed != 0 ? 1 : ranks;
  config.train.global_batch = sequences.fixed != 0 ? sequences.fixed : int64_t{sequences.per_rank} * ranks;
  if (sequences.ramp_from != 0) {
    config.train.batch_ramp_start = int64_t{sequences.ramp_from} * segment;
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
  return config;
}

// What must be refused, by arithmetic alone.
bool batch_divides(const Choice& choice) {
  const Batch sequences = value(kBatches, choice, batch);
  return sequences.fixed % ranks_of(choice) == 0 &&
         (sequences.fixed == 0 || sequences.ramp_from % ranks_of(choice) == 0);
}
bool world_divides(const Choice& choice) {
  const int ranks = value(kGroups, choice, group);
  return ranks == 0 || ranks_of(choice) % ranks == 0;
}

std::string described(const Choice& choice, const train::Config& config) {
  return fmt::format("{} ranks:\n{}", ranks_of(choice), train::to_toml(config, train::Detail::values));
}

// Empty when check() accepts, else the reason by the key that it names, or the whole text where that is another.
std::string refusal(const train::Config& config, int ranks) {
  try {
    train::check(config, ranks);
    return "";
  } catch (const Error& error) {
    const std::string_view text = error.message();
    if (text.starts_with("train.global_batch = ") || text.starts_with("train.batch_ramp_"))
      return "the batch is not a multiple of the ranks";
    if (text.starts_with("parallel.shard_group = ")) return "the group does not divide the ranks";
    return fmt::format("{} ({})", error.message(), error.next_step());
  }
}

// Whether some number of ranks can run what `fixed` says (-1: left open).
bool possible(const Choice& fixed) {
  Choice choice = fixed;
  for (int& number : choice) number = std::max(number, 0);
  for (int ranks = 1; ranks <= kMaxRanks; ++ranks) {
    if (fixed[world] < 0) choice[world] = ranks - 1;
    if (batch_divides(choice) && world_divides(choice)) return true;
  }
  return false;
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
          Choice pair(all.size(), -1);
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

// The programs of a run proved, its memory laid out and proved.
void expect_sound(const Choice& choice, const train::Config& config, std::map<std::string, int64_t>& counts) {
  const int ranks = ranks_of(choice);
  const comm::Placement place(train::mesh_of(config, ranks), 0);
  const parallel::RunShape shape = train::run_shape(config, {}, place);
  const std::vector<parallel::Program> programs = train::run_programs(config, place);
  for (const parallel::Program& program : programs) {
    const std::vector<parallel::Program> all(static_cast<size_t>(ranks), program);
    const std::vector<std::string> wrong = parallel::simulate(shape.config, shape.sharding, all);
    EXPECT_TRUE(wrong.empty()) << wrong.front() << "\n" << described(choice, config);
  }
  const parallel::Inventory inventory = parallel::make_inventory(shape, model::declare(shape.config), programs);
  EXPECT_EQ(inventory.file_bytes > 0, config.optimizer.offload == train::Offload::file) << described(choice, config);
  const std::vector<std::string> wrong = parallel::overlapping(inventory, programs);
  EXPECT_TRUE(wrong.empty()) << wrong.front() << "\n" << described(choice, config);
  // A limit in the midst of what these runs take.
  constexpr int64_t kLimit = int64_t{8} << 20;
  const plan::Limit limit{kLimit, ranks, "host"};
  const plan::MemoryReport report = plan::memory_report(inventory, programs);
  if (plan::fits(report, limit)) {
    ++counts["planned and proved: fits 8 MiB per host"];
    EXPECT_NO_THROW(plan::require_fits(report, limit, [] { return ""; }));
  } else {
    ++counts["planned and proved: refused, 8 MiB per host do not suffice"];
    EXPECT_THROW(plan::require_fits(report, limit, [] { return ""; }), Error);
  }
}

// Every combination with RIDGELINE_TEST_LONG; else every kStride-th, a prime that divides no number of values, so that
// every pair of values meets (which is checked).
TEST(EveryCombination, IsRunOrRefusedForDivisibilityOrMemoryAlone) {
  constexpr int64_t kStride = 127, kProvedStride = 503;
  const int64_t stride = std::getenv("RIDGELINE_TEST_LONG") != nullptr ? 1 : kStride;
  std::map<std::string, int64_t> counts;
  Pairs pairs;
  int64_t tried = 0, run = 0;
  for (int64_t number = 0; number < combinations(); number += stride, ++tried) {
    const Choice choice = choice_of(number);
    const train::Config config = config_of(choice);
    const int ranks = ranks_of(choice);
    const std::string reason = refusal(config, ranks);
    if (!reason.empty()) {
      ++counts["refused: " + reason];
      EXPECT_FALSE(batch_divides(choice) && world_divides(choice)) << reason << "\n" << described(choice, config);
      continue;
    }
    EXPECT_TRUE(batch_divides(choice) && world_divides(choice)) << described(choice, config);
    pairs.ran(choice);
    if (run++ % kProvedStride == 0) expect_sound(choice, config, counts);
    if (testing::Test::HasFailure()) break;
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
