// Every key of a configuration with every extreme value: it runs (or could, on a larger machine), or it is refused by
// its name. Nothing aborts, hangs, or wraps around.
#include <gmock/gmock.h>

#include <chrono>
#include <set>

#include "../many_cases.h"
#include "ridgeline/base/error.h"
#include "ridgeline/train/config_keys.h"
#include "ridgeline/train/remedy.h"
#include "small_run.h"

namespace ridgeline::train {
namespace {

using testing::HasSubstr;

const std::vector<std::string> kWhole = {"0",
                                         "-1",
                                         "1",
                                         "2",
                                         "7",
                                         "1000",
                                         "65536",
                                         "16777216",
                                         "16777217",
                                         "1073741824",
                                         "2147483647",
                                         "2147483648",
                                         "-2147483649",
                                         "4294967295",
                                         "4294967296",
                                         "9007199254740992",
                                         "9007199254740993",
                                         "1000000000000000000",
                                         "9223372036854775807",
                                         "-9223372036854775808"};
const std::vector<std::string> kReal = {"0.0",    "-0.0",  "-1.0",  "1.0",   "0.5",  "0.999999999999",
                                        "1e-300", "1e-46", "1e-38", "1e-12", "1e12", "1e38",
                                        "1e39",   "1e300", "inf",   "-inf",  "nan"};

// Far above what a loaded machine needs, far below what counting to 2^31 takes.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::chrono::seconds kLongest(60);
#else
constexpr std::chrono::seconds kLongest(10);
#endif

class KeyRanges : public SmallRun {
 protected:
  static constexpr int64_t kMostBytes = 64 << 20;  // of runs that are tried and not only planned

  // "" when the configuration runs or can be planned, else the error.
  std::string attempt(const std::vector<std::string>& overrides, int ranks) {
    try {
      const Config given = config(overrides);
      check(given, ranks);
      const plan::MemoryReport report = memory_report(given, device::Machine::read(), mesh_of(given, ranks));
      EXPECT_GT(report.total, 0);
      if (report.total < kMostBytes && given.train.steps <= 8 && given.train.global_batch <= 64 &&
          given.train.threads <= 16) {
        std::filesystem::remove_all(folder_ / "run");
        const TrainingResult result = run(given, ranks, "run");
        EXPECT_EQ(result.step, given.train.steps);
        ++trained_;
      }
      return {};
    } catch (const Error& error) {
      return error.what();
    }
  }

  void walk(const Key& key, const std::vector<std::string>& values, const std::vector<std::string>& beside, int ranks) {
    for (const std::string& value : values) {
      std::vector<std::string> overrides = {"train.steps=2", "optimizer.warmup_steps=1", "model.layers=1",
                                            "train.global_batch=4"};
      overrides.insert(overrides.end(), beside.begin(), beside.end());
      overrides.push_back(std::string(key.name) + "=" + value);
      if (cases_.skips()) continue;
      SCOPED_TRACE(overrides.back());
      const auto begin = std::chrono::steady_clock::now();
      const std::string error = attempt(overrides, ranks);
      if (!error.empty()) {
        EXPECT_THAT(error, HasSubstr(std::string(key.name)));
      }
      EXPECT_LT(std::chrono::steady_clock::now() - begin, kLongest);
      ++tried_;
    }
  }

  ManyCases cases_{5};
  int tried_ = 0, trained_ = 0;
};

TEST_F(KeyRanges, EveryNumberRunsOrIsRefusedByItsName) {
  for (const Key& key : keys()) {
    const Config defaults;
    const ConstSlot slot = slot_of(key, defaults);
    if (std::holds_alternative<const int64_t*>(slot)) {
      walk(key, kWhole, {}, 2);
    } else if (std::holds_alternative<const double*>(slot) || std::holds_alternative<const float*>(slot)) {
      walk(key, kReal, {}, 2);
      walk(key, {"0", "1", "-1", "9223372036854775807"}, {}, 2);
    }
  }
  EXPECT_GT(tried_, cases_.share(700));
  EXPECT_GT(trained_, cases_.share(150));
}

// Keys that only count beside others.
TEST_F(KeyRanges, NumbersThatOthersMakeCount) {
  const std::vector<std::string> fp16 = {"train.precision=fp16"};
  for (const char* key : {"train.loss_scale_initial", "train.loss_scale_minimum"}) walk(*find_key(key), kReal, fp16, 1);
  for (const char* key : {"train.loss_scale_window", "train.loss_scale_hysteresis"})
    walk(*find_key(key), kWhole, fp16, 1);
  walk(*find_key("optimizer.offload_buffer"), kWhole, {"optimizer.offload=file"}, 1);
  walk(*find_key("train.micro_batch"), kWhole, {"train.global_batch=1073741824"}, 1);
  walk(*find_key("train.global_batch"), kWhole, {"train.micro_batch=1"}, 1);
  walk(*find_key("train.sequence"), kWhole, {"model.context=16777216", "model.positions=rotary"}, 1);
  walk(*find_key("model.context"), kWhole, {"train.sequence=0", "model.positions=rotary"}, 1);
  const std::vector<std::string> ramp = {"train.batch_ramp_start=2", "train.batch_ramp_increment=2",
                                         "train.batch_ramp_samples=100"};
  for (const char* key : {"train.batch_ramp_start", "train.batch_ramp_increment", "train.batch_ramp_samples"})
    walk(*find_key(key), kWhole, ramp, 1);
  const std::vector<std::string> megatron = {"optimizer.schedule=megatron_cosine", "optimizer.warmup_steps=0"};
  for (const char* key : {"optimizer.warmup_samples", "optimizer.decay_samples"})
    walk(*find_key(key), kWhole, megatron, 1);
}

// Products of keys, each of which is allowed alone.
TEST_F(KeyRanges, ProductsThatCannotBeCountedNameTheirKeys) {
  const auto refused = [&](const std::vector<std::string>& overrides, const std::vector<std::string>& names,
                           int ranks = 1) {
    const auto begin = std::chrono::steady_clock::now();
    const std::string error = attempt(overrides, ranks);
    for (const std::string& name : names) EXPECT_THAT(error, HasSubstr(name));
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  };
  refused({"model.layers=10000", "model.width=4194304", "model.heads=65536", "model.ffn=16777216"},
          {"model.layers = 10000", "model.width = 4194304", "model.ffn = 16777216", "weights", "smaller model"});
  refused({"train.micro_batch=1073741824", "train.global_batch=1073741824"},
          {"train.micro_batch = 1073741824", "train.sequence = 24", "tokens at once"});
  refused({"model.context=16777216", "train.sequence=16777216", "train.micro_batch=64", "train.global_batch=64",
           "model.layers=1000", "model.width=4096", "model.heads=64"},
          {"train.micro_batch = 64", "train.sequence = 16777216", "model.width = 4096", "activations"});
  refused({"train.steps=9007199254740992", "train.global_batch=1048576", "train.micro_batch=1048576"},
          {"train.steps = 9007199254740992", "train.global_batch = 1048576", "more tokens than can be counted"});
  refused({"train.global_batch=1073741824", "train.micro_batch=1"},
          {"train.global_batch = 1073741824", "train.micro_batch = 1", "operations of a step"});
  refused({"train.global_batch=65536", "train.micro_batch=1", "train.batch_ramp_start=1",
           "train.batch_ramp_increment=1", "train.batch_ramp_samples=1000000"},
          {"train.batch_ramp_increment = 1", "operations of steps"});
}

TEST(Divisors, AreAllOfThem) {
  EXPECT_EQ(divisors(1), (std::vector<int64_t>{1}));
  EXPECT_EQ(divisors(36), (std::vector<int64_t>{1, 2, 3, 4, 6, 9, 12, 18, 36}));
  EXPECT_EQ(divisors(1 << 30).size(), 31U);
  EXPECT_EQ(divisors(1073741789).size(), 2U);  // a prime
}

}  // namespace
}  // namespace ridgeline::train
