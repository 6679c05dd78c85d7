// Offload of optimizer state to a file through the trainer: the same bits as without at every level and precision, the
// bytes that the plan says, and what happens when a disk fails.
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <limits>
#include <string>
#include <string_view>

#include "ridgeline/base/error.h"
#include "small_run.h"

namespace {
std::atomic<int> reads_until_failure{-1};  // of files of offload; -1: they do not fail

// As /proc calls it, whether or not it still has a name.
bool is_of_offload(int descriptor) {
  std::array<char, 4096> path{};
  const std::string link = "/proc/self/fd/" + std::to_string(descriptor);
  return ::readlink(link.c_str(), path.data(), path.size() - 1) > 0 &&
         std::string_view(path.data()).find("/offload/") != std::string_view::npos;
}
}  // namespace
extern "C" ssize_t pread(int descriptor, void* to, size_t count, off_t offset) {
  if (reads_until_failure >= 0 && is_of_offload(descriptor) && --reads_until_failure < 0) {
    reads_until_failure = 0;
    errno = EIO;
    return -1;
  }
  return ::syscall(SYS_pread64, descriptor, to, count, offset);
}

namespace ridgeline::train {
namespace {

namespace fs = std::filesystem;
using Keys = std::vector<std::string>;

class OffloadTest : public SmallRun {
 protected:
  ~OffloadTest() override { reads_until_failure = -1; }

  static Keys with(Keys keys, const Keys& more) {
    keys.insert(keys.end(), more.begin(), more.end());
    return keys;
  }
  static Keys offloaded(const Keys& keys) { return with(keys, {"optimizer.offload=file"}); }

  // As run(), through a window of eight chunks of one block, which goes around several times.
  void run_in_small_window(const Keys& keys, int ranks, const std::string& name, bool resume = false) {
    run(config(offloaded(keys)), ranks, name, resume, [](Config& config) { config.optimizer.offload_buffer = 1; });
  }

  std::vector<nlohmann::json> metrics(const std::string& name) const {
    std::vector<nlohmann::json> lines;
    std::ifstream file(folder_ / name / "metrics.jsonl");
    for (std::string line; std::getline(file, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }

  static int64_t planned_file_bytes(const Config& run_config, int ranks) {
    const parallel::RunShape shape = run_shape(run_config, {}, {mesh_of(run_config, ranks), 0});
    return parallel::make_inventory(shape, model::declare(shape.config),
                                    run_programs(run_config, {mesh_of(run_config, ranks), 0}))
        .file_bytes;
  }
};

TEST_F(OffloadTest, changes_no_bit_at_any_level_and_precision) {
  const Keys precisions[] = {{"train.precision=fp32"},
                             {"train.precision=bf16"},
                             {"train.precision=bf16", "optimizer.state=bf16", "optimizer.beta2=0.99"},
                             {"train.precision=pure_bf16"},
                             {"train.precision=fp16"}};
  const std::pair<int, Keys> layouts[] = {{1, {}},
                                          {2, {"parallel.shard=none"}},
                                          {2, {"parallel.shard=optimizer"}},
                                          {2, {"parallel.shard=gradients", "train.micro_batch=1"}},
                                          {2, {"parallel.shard=parameters"}},
                                          {4, {"parallel.shard=parameters", "parallel.shard_group=2"}}};
  // All levels in one precision, and all precisions at one level; tests/layouts has more pairs.
  int number = 0;
  const auto expect_same = [&](int ranks, const Keys& precision, const Keys& layout) {
    const Keys keys = with(with(precision, layout), {"model.dropout=0.1"});
    const std::string plain = "plain" + std::to_string(number), file = "file" + std::to_string(number++);
    run(config(keys), ranks, plain);
    run_in_small_window(keys, ranks, file);
    EXPECT_TRUE(state(plain, 4) == state(file, 4)) << testing::PrintToString(keys);
    EXPECT_TRUE(state(plain, 8) == state(file, 8)) << testing::PrintToString(keys);
    EXPECT_EQ(losses(plain), losses(file)) << testing::PrintToString(keys);
  };
  for (const auto& [ranks, layout] : layouts) expect_same(ranks, precisions[1], layout);
  for (const Keys& precision : precisions) expect_same(2, precision, {"parallel.shard=optimizer"});
}

TEST_F(OffloadTest, a_run_is_resumed_with_it_and_without_it) {
  const Keys keys = {"train.precision=bf16", "parallel.shard=gradients"};
  run(config(keys), 2, "0");
  run(config(offloaded(keys)), 2, "1");
  for (const char* const before : {"0", "1"}) {
    for (const bool after : {false, true}) {
      const std::string name = std::string("resumed") + before + (after ? "1" : "0");
      fs::create_directories(folder_ / name / "checkpoints");
      fs::copy(folder_ / before / "checkpoints/step_00000004", folder_ / name / "checkpoints/step_00000004",
               fs::copy_options::recursive);
      run(config(after ? offloaded(keys) : keys), 2, name, true);
      EXPECT_TRUE(state("0", 8) == state(name, 8)) << name;
    }
  }
}

// A skipped step leaves what was read ahead for the next one.
TEST_F(OffloadTest, steps_that_overflow_change_nothing_and_the_bytes_are_those_of_the_plan) {
  const Keys keys = {"train.precision=fp16",    "train.loss_scale_window=2",
                     "train.save_every=1",      "train.loss_scale_initial=67108864.0",
                     "train.steps=20",          "train.keep_last=0",
                     "parallel.shard=optimizer"};
  run(config(keys), 2, "plain");
  run_in_small_window(keys, 2, "small");
  run(config(offloaded(keys)), 2, "whole");  // all of the state fits the window at once
  run_in_small_window(with(keys, {"train.save_every=20"}), 2, "unsaved");
  for (const char* const name : {"small", "whole"}) {
    for (int step = 1; step <= 9; ++step)
      EXPECT_TRUE(state("plain", step) == state(name, step)) << name << ", step " << step;
  }
  EXPECT_EQ(losses("plain"), losses("unsaved"));
  const int64_t planned = planned_file_bytes(config(offloaded(keys)), 2);
  EXPECT_GT(planned, 0);
  int updates = 0, overflows = 0;
  for (const char* const name : {"small", "whole", "unsaved"}) {
    for (const nlohmann::json& line : metrics(name)) {
      const bool skipped = line.at("overflow") == 1;
      EXPECT_EQ(line.at("offload_read_bytes").get<int64_t>(), skipped ? 0 : planned) << line;
      EXPECT_EQ(line.at("offload_written_bytes").get<int64_t>(), skipped ? 0 : planned) << line;
      ++(skipped ? overflows : updates);
    }
  }
  EXPECT_GT(updates, 9);
  EXPECT_GT(overflows, 9);
  EXPECT_FALSE(metrics("plain").front().contains("offload_read_bytes"));
}

TEST_F(OffloadTest, the_file_lies_where_it_is_told_and_nothing_is_left) {
  const fs::path scratch = folder_ / "scratch/here";
  run(config(offloaded({"optimizer.offload_directory=" + scratch.string()})), 2, "elsewhere");
  EXPECT_TRUE(fs::is_empty(scratch));
  EXPECT_FALSE(fs::exists(folder_ / "elsewhere/offload"));
  run(config(offloaded({})), 2, "default");
  EXPECT_TRUE(fs::is_empty(folder_ / "default/offload"));
}

// The masters lie in the file when the loss is found not to be finite.
TEST_F(OffloadTest, what_is_not_finite_is_found_in_the_file) {
  const auto said = [&](const Keys& keys, const std::string& name) {
    try {
      run(config(keys), 2, name, false,
          [](Config& checked) { checked.optimizer.schedule.learning_rate = std::numeric_limits<double>::infinity(); });
    } catch (const Error& error) {
      return error.message().substr(error.message().find("step"));  // whichever rank says it
    }
    return std::string("no error");
  };
  for (const char* const level : {"none", "parameters"}) {
    const Keys keys = {"train.precision=bf16", "optimizer.warmup_steps=0", std::string("parallel.shard=") + level};
    const std::string plain = said(keys, std::string("plain_") + level);
    EXPECT_NE(plain.find("first seen in weights of"), std::string::npos) << plain;
    EXPECT_EQ(said(offloaded(keys), std::string("file_") + level), plain);
  }
}

TEST_F(OffloadTest, a_disk_that_fails_ends_the_run_as_any_failure_does) {
  for (const int reads : {0, 30, 200}) {
    reads_until_failure = reads;
    try {
      run_in_small_window({"train.save_every=0"}, 2, "failing" + std::to_string(reads));
      ADD_FAILURE() << "no error after " << reads << " reads";
    } catch (const Error& error) {
      EXPECT_NE(error.message().find("of the offload file of rank "), std::string::npos) << error.message();
      EXPECT_NE(error.message().find("Input/output error"), std::string::npos) << error.message();
    }
    reads_until_failure = -1;
  }
}

}  // namespace
}  // namespace ridgeline::train
