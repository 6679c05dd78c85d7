// Loss scaling, the batch ramp and 2-byte state through the trainer: what is skipped, what the metrics say, and that a
// run that was stopped goes on with the same bits.
#include "ridgeline/checkpoint/manifest.h"
#include "ridgeline/optim/loss_scale.h"
#include "small_run.h"

namespace ridgeline::train {
namespace {

namespace fs = std::filesystem;

class Precision : public SmallRun {
 protected:
  std::vector<nlohmann::json> metrics(const std::string& name) const {
    std::vector<nlohmann::json> lines;
    std::ifstream file(folder_ / name / "metrics.jsonl");
    for (std::string line; std::getline(file, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }

  // Runs it whole, and again from the checkpoint at step 4.
  void expect_resumes_bitwise(const Config& run_config, int ranks, const std::string& name) {
    run(run_config, ranks, name);
    const std::string again = name + "_again";
    fs::create_directories(folder_ / again / "checkpoints");
    fs::copy(folder_ / name / "checkpoints" / "step_00000004", folder_ / again / "checkpoints" / "step_00000004",
             fs::copy_options::recursive);
    run(run_config, ranks, again, true);
    EXPECT_EQ(state(name, 8), state(again, 8)) << name;
    const std::vector<double> all = losses(name);
    EXPECT_EQ(std::vector<double>(all.begin() + 4, all.end()), losses(again)) << name;
  }
};

TEST_F(Precision, overflows_are_skipped_and_the_scales_are_the_state_machines_own) {
  for (const char* const kind : {"megatron", "deepspeed_zero", "deepspeed_fused"}) {
    std::vector<std::string> keys = {"train.precision=fp16",
                                     std::string("train.loss_scale=") + kind,
                                     "train.loss_scale_window=2",
                                     "train.loss_scale_initial=67108864.0",
                                     "train.steps=40",
                                     "train.save_every=1",
                                     "train.keep_last=0",
                                     "parallel.shard=gradients"};
    const Config fp16 = config(keys);
    run(fp16, 2, kind);
    optim::LossScaler scaler(*loss_scale_of(fp16));
    const std::vector<nlohmann::json> lines = metrics(kind);
    ASSERT_EQ(lines.size(), 40U);
    int overflows = 0;
    for (size_t i = 0; i < lines.size(); ++i) {
      EXPECT_EQ(lines[i].at("loss_scale").get<double>(), scaler.scale()) << kind << ", step " << i + 1;
      const bool overflow = lines[i].at("overflow").get<int>() != 0;
      scaler.update(overflow);
      overflows += overflow ? 1 : 0;
    }
    EXPECT_EQ(lines[0].at("overflow"), 1) << kind << ": the first scale is absurd";
    EXPECT_GT(overflows, 3) << kind;
    EXPECT_LT(overflows, 36) << kind << ": it recovers";
    EXPECT_LT(lines.back().at("loss").get<double>(), lines.front().at("loss").get<double>()) << kind;
    // A skipped step changes no bit of weights or moments, on any rank's shard; one that is taken does.
    for (int step = 2; step <= 9; ++step) {
      const bool skipped = lines[static_cast<size_t>(step) - 1].at("overflow") == 1;
      EXPECT_EQ(state(kind, step) == state(kind, step - 1), skipped) << kind << ", step " << step;
    }
  }
}

TEST_F(Precision, fp16_resumes_in_the_midst_of_overflows) {
  for (const char* const kind : {"megatron", "deepspeed_zero", "deepspeed_fused"}) {
    expect_resumes_bitwise(config({"train.precision=fp16", std::string("train.loss_scale=") + kind,
                                   "train.loss_scale_initial=1073741824.0", "train.loss_scale_window=2"}),
                           2, std::string("fp16_") + kind);
    const std::vector<nlohmann::json> lines = metrics(std::string("fp16_") + kind);
    EXPECT_EQ(lines[4].at("overflow"), 1) << kind << ": the first step after the checkpoint";
  }
}

TEST_F(Precision, the_unit_that_overflowed_is_named) {
  const Config fp16 = config({"train.precision=fp16", "train.loss_scale_initial=67108864.0", "train.steps=3"});
  check(fp16, 2);
  JobOptions options;
  options.out = folder_ / "named";
  options.console = std::fopen((folder_ / "said").c_str(), "w");
  ASSERT_NE(options.console, nullptr);
  const Job job = prepare_job(fp16, options, device::Machine::read(), mesh_of(fp16, 2));
  comm::run_threads(2, {.timeout = std::chrono::seconds(60)}, [&](comm::World& world) { run_training(job, world); });
  std::fclose(options.console);
  std::ifstream file(folder_ / "said");
  const std::string said{std::istreambuf_iterator<char>(file), {}};
  EXPECT_NE(said.find("step 1: a gradient overflowed, first in "), std::string::npos) << said;
  bool named = false;
  for (const model::Segment& unit : model::declare(fp16.model.transformer))
    named = named || said.find("first in " + unit.name + ";") != std::string::npos;
  EXPECT_TRUE(named) << said;
}

TEST_F(Precision, a_batch_ramp_has_the_batches_of_megatron_and_resumes) {
  const Config ramp = config({"train.batch_ramp_start=4", "train.batch_ramp_increment=4", "train.batch_ramp_samples=12",
                              "train.global_batch=16"});
  expect_resumes_bitwise(ramp, 2, "ramp");
  // Three increments in 12 samples: 4 + 4 * floor(consumed / 4), which is 4 at 0, 8 at 4, 16 at 12, and 16 beyond.
  const std::vector<int64_t> expected = {4, 8, 16, 16, 16, 16, 16, 16};
  int64_t before = 0;
  const std::vector<nlohmann::json> lines = metrics("ramp");
  ASSERT_EQ(lines.size(), expected.size());
  for (size_t i = 0; i < lines.size(); ++i) {
    const int64_t consumed = lines[i].at("tokens").get<int64_t>();
    EXPECT_EQ((consumed - before) / 24, expected[i]) << "step " << i + 1;
    before = consumed;
  }
}

TEST_F(Precision, two_byte_weights_and_moments_resume_bitwise_at_every_level) {
  for (const char* const level : {"none", "optimizer", "parameters"}) {
    expect_resumes_bitwise(config({"train.precision=pure_bf16", std::string("parallel.shard=") + level}), 2,
                           std::string("pure_") + level);
    expect_resumes_bitwise(config({"train.precision=bf16", "optimizer.state=bf16", "optimizer.beta2=0.99",
                                   std::string("parallel.shard=") + level}),
                           2, std::string("moments_") + level);
  }
}

// After one step m = (1 - beta1) g and v = (1 - beta2) g^2. A beta that is rounded to float on its way changes the mean
// of m^2 / v by more than 2e-7; roundings of the elements cancel.
TEST_F(Precision, adam_gets_its_betas_in_double_precision) {
  const Config one = config({"train.steps=1", "train.save_every=1", "optimizer.warmup_steps=0"});
  run(one, 1, "betas");
  const checkpoint::CheckpointReader reader(folder_ / "betas" / "checkpoints" / "step_00000001");
  std::vector<float> m(2 * 3 * 32 * 32), v = m;
  const std::vector<int64_t> shape = {3, 4, 8, 32};
  const int64_t count = 3 * 32 * 32;
  for (const int layer : {0, 1}) {
    const std::string name = fmt::format("block.{}.attention.qkv.weight", layer);
    reader.read_range("adam.moment1." + name, shape, 0, count, Ref(m.data() + layer * count));
    reader.read_range("adam.moment2." + name, shape, 0, count, Ref(v.data() + layer * count));
  }
  double sum = 0.0;
  int64_t counted = 0;
  for (size_t i = 0; i < m.size(); ++i) {
    if (v[i] < 1e-30F) continue;
    sum += static_cast<double>(m[i]) * static_cast<double>(m[i]) / static_cast<double>(v[i]);
    ++counted;
  }
  ASSERT_GT(counted, 5000);
  const auto rest = [](double beta) { return static_cast<double>(static_cast<float>(1.0 - beta)); };
  const double expected = rest(one.optimizer.beta1) * rest(one.optimizer.beta1) / rest(one.optimizer.beta2);
  EXPECT_NEAR(sum / static_cast<double>(counted) / expected, 1.0, 5e-8);
}

}  // namespace
}  // namespace ridgeline::train
