#include <fmt/format.h>

#include <cmath>
#include <csignal>
#include <cstdlib>
#include <thread>

#include "../error_of.h"
#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/checkpoint/manifest.h"
#include "ridgeline/train/signals.h"
#include "small_run.h"

namespace ridgeline::train {
namespace {

namespace fs = std::filesystem;

TEST_F(SmallRun, resuming_gives_the_same_bits_as_never_having_stopped) {
  for (const char* const precision : {"fp32", "bf16"}) {
    const Config with_dropout = config({std::string("train.precision=") + precision, "model.dropout=0.1"});
    const std::string whole = std::string("whole_") + precision, stopped = std::string("stopped_") + precision;
    run(with_dropout, 2, whole);
    fs::create_directories(folder_ / stopped / "checkpoints");
    fs::copy(folder_ / whole / "checkpoints" / "step_00000004", folder_ / stopped / "checkpoints" / "step_00000004",
             fs::copy_options::recursive);
    run(with_dropout, 2, stopped, true);
    EXPECT_EQ(state(whole, 8), state(stopped, 8)) << precision;
    const std::vector<double> all = losses(whole);
    EXPECT_EQ(std::vector<double>(all.begin() + 4, all.end()), losses(stopped)) << precision;
  }
}

// Levels share their bits, so a run may change its level at any checkpoint and still be the run that never stopped.
TEST_F(SmallRun, resuming_on_another_level_of_sharding_gives_the_same_bits) {
  for (const char* const precision : {"fp32", "bf16"}) {
    const auto sharded = [&](const std::string& level) {
      return config({std::string("train.precision=") + precision, "parallel.reduce=every", "parallel.shard=" + level,
                     "train.eval_every=3"});
    };
    const std::string whole = std::string("one_level_") + precision;
    run(sharded("none"), 2, whole);
    for (const auto& [first, second] :
         {std::pair{"parameters", "optimizer"}, {"gradients", "parameters"}, {"optimizer", "none"}}) {
      const std::string name = fmt::format("{}_{}_{}", first, second, precision);
      run(sharded(first), 2, name + "_begun");
      fs::create_directories(folder_ / name / "checkpoints");
      fs::copy(folder_ / (name + "_begun") / "checkpoints" / "step_00000004",
               folder_ / name / "checkpoints" / "step_00000004", fs::copy_options::recursive);
      run(sharded(second), 2, name, true);
      EXPECT_EQ(state(whole, 8), state(name + "_begun", 8)) << name;
      EXPECT_EQ(state(whole, 8), state(name, 8)) << name;
    }
  }
}

TEST_F(SmallRun, the_same_layout_twice_and_any_team_size_give_the_same_bits) {
  run(config({"model.dropout=0.1"}), 2, "once");
  run(config({"model.dropout=0.1"}), 2, "twice");
  run(config({"model.dropout=0.1", "train.threads=3"}), 2, "team");
  EXPECT_EQ(state("once", 8), state("twice", 8));
  EXPECT_EQ(state("once", 8), state("team", 8));
}

TEST_F(SmallRun, dropout_changes_the_run_and_its_seed_matters) {
  run(config(), 1, "plain");
  run(config({"model.dropout=0.1"}), 1, "dropout");
  run(config({"model.dropout=0.1", "train.seed=99"}), 1, "other_seed");
  EXPECT_NE(state("plain", 8), state("dropout", 8));
  EXPECT_NE(losses("dropout"), losses("other_seed"));
}

// fp32 sums in another order: the same run re-cut into other micro-batches shows how far that alone leads apart.
TEST_F(SmallRun, ranks_follow_one_rank_over_a_free_run) {
  const std::vector<std::string> longer = {"train.steps=50", "train.save_every=0"};
  const auto with = [&](const std::string& key) {
    std::vector<std::string> all = longer;
    all.push_back(key);
    return config(all);
  };
  run(with("train.micro_batch=2"), 1, "one");
  run(with("train.micro_batch=1"), 1, "recut");
  run(with("train.micro_batch=2"), 2, "two");
  run(with("train.micro_batch=2"), 4, "four");
  const std::vector<double> one = losses("one"), recut = losses("recut"), two = losses("two"), four = losses("four");
  ASSERT_EQ(one.size(), 50U);
  EXPECT_GT(one.front() - one.back(), 1.0) << "the run must learn to be a test";
  double deviation = 0;
  for (size_t i = 0; i < one.size(); ++i) deviation = std::max(deviation, std::fabs(one[i] - recut[i]));
  const double tolerance = std::max(1e-5, 3 * deviation);
  for (size_t i = 0; i < one.size(); ++i) {
    EXPECT_NEAR(two[i], one[i], tolerance) << "step " << i;
    EXPECT_NEAR(four[i], one[i], tolerance) << "step " << i;
  }
}

TEST_F(SmallRun, a_checkpoint_resumes_on_another_number_of_ranks) {
  run(config(), 1, "one");
  fs::create_directories(folder_ / "moved" / "checkpoints");
  fs::copy(folder_ / "one" / "checkpoints" / "step_00000004", folder_ / "moved" / "checkpoints" / "step_00000004",
           fs::copy_options::recursive);
  run(config(), 4, "moved", true);
  const std::vector<double> one = losses("one"), moved = losses("moved");
  ASSERT_EQ(moved.size(), 4U);
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(moved[i], one[i + 4], 1e-5);
}

TEST_F(SmallRun, a_peak_measured_too_low_is_measured_again) {
  const char* const home = std::getenv("XDG_CACHE_HOME");
  const std::string before = home == nullptr ? "" : home;
  ::setenv("XDG_CACHE_HOME", (folder_ / "cache").c_str(), 1);
  const std::filesystem::path file = folder_ / "cache" / "ridgeline" / "peak.json";
  run(config(), 1, "measured");
  nlohmann::json peaks = nlohmann::json::parse(read_text(file));
  for (auto& peak : peaks) peak = 1e3;
  write_atomically(file, peaks.dump());
  run(config(), 1, "too_low");
  for (const double mfu : metric("too_low", "mfu")) EXPECT_LE(mfu, 1.0);
  for (const auto& peak : nlohmann::json::parse(read_text(file))) EXPECT_GT(peak.get<double>(), 1e6);
  home == nullptr ? ::unsetenv("XDG_CACHE_HOME") : ::setenv("XDG_CACHE_HOME", before.c_str(), 1);
}

TEST_F(SmallRun, a_signal_stops_all_ranks_at_one_step_with_a_checkpoint) {
  const StopSignals signals;
  std::thread sender([this] {
    // Once the run writes metrics it is stepping.
    while (!fs::exists(folder_ / "stopped" / "metrics.jsonl") || losses("stopped").empty())
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    ::kill(::getpid(), SIGTERM);
  });
  const TrainingResult result = run(config({"train.steps=100000"}), 2, "stopped");
  sender.join();
  EXPECT_TRUE(result.stopped);
  EXPECT_LT(result.step, 100000);
  const auto good = checkpoint::latest_good(folder_ / "stopped" / "checkpoints");
  ASSERT_TRUE(good.has_value());
  EXPECT_EQ(good->step, result.step);
}

TEST_F(SmallRun, a_non_finite_loss_stops_before_the_update_and_names_the_unit) {
  const std::string text = error_of([this] {
    Config diverging = config({"optimizer.clip=0", "optimizer.warmup_steps=0", "train.save_every=0"});
    run(diverging, 2, "diverged", false, [](Config& checked) { checked.optimizer.schedule.learning_rate = 1e30; });
  });
  EXPECT_NE(text.find("step 2: the loss or a gradient is not finite"), std::string::npos) << text;
  EXPECT_NE(text.find("weights were not updated"), std::string::npos) << text;
  EXPECT_NE(text.find("first seen in"), std::string::npos) << text;
  EXPECT_NE(text.find("on rank 0"), std::string::npos) << text;
}

// With keep_last = 1, so that a bad one would be the only one.
TEST_F(SmallRun, what_diverged_is_not_saved_and_the_good_checkpoint_before_stays) {
  const std::vector<std::string> keys = {"optimizer.clip=0", "train.save_every=1", "train.keep_last=1",
                                         "train.keep_best=false"};
  run(config(keys), 2, "run");
  const std::string before = state("run", 8);
  std::vector<std::string> longer = keys;
  longer.emplace_back("train.steps=12");
  const std::string text = error_of([&] {
    run(config(longer), 2, "run", true, [](Config& checked) { checked.optimizer.schedule.learning_rate = 1e30; });
  });
  EXPECT_NE(text.find("step 9: the loss after the update is not finite"), std::string::npos) << text;
  EXPECT_NE(text.find("last good checkpoint is"), std::string::npos) << text;
  EXPECT_NE(text.find("step_00000008'"), std::string::npos) << text;
  EXPECT_EQ(state("run", 8), before);
  run(config(longer), 2, "run", true);
  EXPECT_EQ(checkpoint::list_checkpoints(folder_ / "run" / "checkpoints").size(), 1U);
}

TEST_F(SmallRun, a_new_best_is_saved_at_once_on_any_number_of_ranks_and_kept) {
  for (const int ranks : {1, 2}) {
    const std::string name = "best_" + std::to_string(ranks);
    run(config({"train.eval_every=3", "train.save_every=0", "train.keep_last=1"}), ranks, name);
    // The loss still falls: 3, 6 and 8 are the best in turn.
    std::vector<int64_t> steps;
    for (const auto& entry : checkpoint::list_checkpoints(folder_ / name / "checkpoints")) steps.push_back(entry.step);
    EXPECT_EQ(steps, std::vector<int64_t>{8});
    run(config({"train.eval_every=3", "train.save_every=0", "train.keep_last=1", "train.steps=14",
                "optimizer.learning_rate=0.5"}),
        ranks, name, true);
    steps.clear();
    for (const auto& entry : checkpoint::list_checkpoints(folder_ / name / "checkpoints")) steps.push_back(entry.step);
    EXPECT_EQ(steps, (std::vector<int64_t>{8, 14}));
  }
}

TEST_F(SmallRun, an_altered_checkpoint_is_refused_by_name_and_the_one_before_it_offered) {
  run(config(), 1, "run");
  const fs::path file = folder_ / "run" / "checkpoints" / "step_00000008" / "state.safetensors";
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  stream.seekp(static_cast<std::streamoff>(fs::file_size(file)) - 100);
  stream.put('\x55');
  stream.close();
  const std::string text = error_of([this] { run(config({"train.steps=12"}), 1, "run", true); });
  EXPECT_NE(text.find("step_00000008"), std::string::npos) << text;
  EXPECT_NE(text.find("state.safetensors"), std::string::npos) << text;
  EXPECT_NE(text.find("step_00000004"), std::string::npos) << text;
}

TEST_F(SmallRun, bad_input_is_refused_with_what_and_where) {
  run(config({"train.steps=3", "train.save_every=1"}), 1, "there");
  EXPECT_NE(error_of([this] { run(config(), 1, "there"); }).find("--resume"), std::string::npos);
  EXPECT_NE(error_of([this] { run(config(), 1, "nothing_there", true); }).find("no checkpoint"), std::string::npos);
  EXPECT_NE(error_of([this] { run(config({"data.train=/nowhere/data"}), 1, "x"); }).find("/nowhere/data"),
            std::string::npos);
  EXPECT_NE(error_of([this] { run(config({"model.vocab=32"}), 1, "y"); }).find("32"), std::string::npos);
  EXPECT_NE(error_of([this] { run(config(), 3, "z"); }).find("global_batch"), std::string::npos);
  EXPECT_NE(error_of([this] {
              run(config({"train.eval_every=1", "data.split=100,0,0"}), 1, "w");
            }).find("validation"),
            std::string::npos);
}

TEST_F(SmallRun, a_rank_that_throws_stops_everyone_and_is_named) {
  JobOptions options;
  options.out = folder_ / "failing";
  const Config run_config = config({"train.steps=1000000", "train.save_every=0"});
  const Job job = prepare_job(run_config, options, device::Machine::read(), mesh_of(run_config, 2));
  const auto begin = std::chrono::steady_clock::now();
  const std::string text = error_of([&] {
    comm::run_threads(2, {.timeout = std::chrono::seconds(60), .failure_file = (folder_ / "failure.txt").string()},
                      [&](comm::World& world) {
                        if (world.rank() == 1) {
                          std::this_thread::sleep_for(std::chrono::milliseconds(300));
                          throw Error("the disk of this rank is gone");
                        }
                        run_training(job, world);
                      });
  });
  EXPECT_NE(text.find("the disk of this rank is gone"), std::string::npos) << text;
  EXPECT_NE(text.find("rank 1"), std::string::npos) << text;
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  EXPECT_TRUE(fs::exists(folder_ / "failure.txt"));
}

}  // namespace
}  // namespace ridgeline::train
