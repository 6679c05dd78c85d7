// Layouts of many ranks: what those of the tutorial take, and the search for better ones.
#include "ridgeline/train/layout_search.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <tuple>

#include "../many_cases.h"
#include "ridgeline/base/error.h"
#include "ridgeline/model/block.h"
#include "ridgeline/plan/pipeline_use.h"
#include "ridgeline/plan/step_time.h"
#include "ridgeline/plan/traffic.h"
#include "ridgeline/train/remedy.h"
#include "ridgeline/train/trainer.h"

namespace ridgeline::train {
namespace {

constexpr double kGiB = 1 << 30;

// One of the tutorial's, as its launch files and the model have it.
struct OfTutorial {
  std::string name;
  int ranks, blocks_of_stage;
  int64_t parameters;
  double idle, idle_in_ramp;  // (p-1)/(m+p-1)
};
const std::vector<OfTutorial> kOfTutorial = {
    {"gpt_22b_3d", 32, 6, 22'071'128'064, 7.0 / 17, 7.0 / 17},
    {"gpt_175b_3d", 192, 8, 174'615'846'912, 11.0 / 17, 11.0 / 12},
    {"gpt_1t_3d", 512, 2, 1'008'038'758'400, 63.0 / 71, 63.0 / 65},
    {"gpt_1p3b_3d", 32, 12, 1'337'459'616, 1.0 / 2, 1.0 / 2},
};

Config config_file(const std::string& name) {
  return parse_config(std::filesystem::path(RIDGELINE_TEST_DATA) / ".." / ".." / "configs" / (name + ".toml"));
}

plan::PipelineUse use_with(const parallel::RunShape& run, int micro_batches) {
  return plan::pipeline_use(run.sharding.pipeline.shape(micro_batches), plan::stage_costs(run));
}

TEST(TutorialLayouts, HaveItsParametersStagesAndBubble) {
  for (const OfTutorial& of : kOfTutorial) {
    const Config config = config_file(of.name);
    check(config, of.ranks);
    EXPECT_EQ(config.model.transformer.parameters(), of.parameters) << of.name;
    const parallel::RunShape run = run_shape(config, {}, {mesh_of(config, of.ranks), 0});
    for (const int blocks : run.sharding.pipeline.blocks) EXPECT_EQ(blocks, of.blocks_of_stage) << of.name;
    const plan::PipelineUse use = use_with(run, run.sharding.micro_batches);
    EXPECT_NEAR(use.idle_if_equal, of.idle, 1e-9) << of.name;
    EXPECT_NEAR(use.waiting + use.imbalance, use.timeline.idle_share, 1e-12) << of.name;
    // The last stage has the loss, too.
    EXPECT_GT(use.imbalance, 0) << of.name;
    const int64_t first = optim::batch_sizes(batch_ramp_of(config)).front();
    const auto ramp = static_cast<int>(run.sharding.micro_batches * first / config.train.global_batch);
    EXPECT_NEAR(use_with(run, ramp).idle_if_equal, of.idle_in_ramp, 1e-9) << of.name;
  }
}

// fp16 beside fp32 masters, gradients and moments: 18 bytes for each element of a stage's slice, with padding.
TEST(TutorialLayouts, TakeWhatTheirStagesHold) {
  for (const OfTutorial& of : kOfTutorial) {
    const Config config = config_file(of.name);
    const parallel::RunShape first = run_shape(config, {}, {mesh_of(config, of.ranks), 0});
    const std::vector<comm::AlikeRanks> placements = parallel::alike_ranks(first);
    // Padded vocabularies are cut into equal slices.
    ASSERT_EQ(std::ssize(placements), config.parallel.pipeline) << of.name;
    double elements = 0;
    int64_t fullest = 0;
    for (const comm::AlikeRanks& ranks : placements) {
      EXPECT_EQ(ranks.ranks * config.parallel.pipeline, of.ranks);
      const int stage = ranks.first.stage();
      // All alike but for what they keep: the ends and one between.
      if (stage > 1 && stage + 1 < config.parallel.pipeline) continue;
      const parallel::RunShape run = first.on_rank(ranks.first.rank());
      const std::vector<parallel::Program> programs = run_programs(config, ranks.first);
      const plan::MemoryReport report =
          plan::memory_report(parallel::make_inventory(run, run.segments(), programs), programs);
      const auto bytes = [&](parallel::Category what) {
        return static_cast<double>(report.by_category[static_cast<size_t>(what)]);
      };
      const double state = bytes(parallel::Category::parameters) + bytes(parallel::Category::gradients) +
                           bytes(parallel::Category::optimizer);
      // The table of positions is not cut.
      const model::TransformerConfig& model = run.config;
      const auto table = static_cast<double>(stage == 0 ? model.context * model.width : 0);
      const double here = plan::matrix_elements(run, stage) + table;
      EXPECT_GT(state, 18 * here) << of.name << " stage " << stage;
      EXPECT_LT(state, 18 * here * 1.01) << of.name << " stage " << stage;
      fullest = std::max(fullest, report.total);
      EXPECT_LT(static_cast<double>(report.total), 64 * kGiB) << of.name << " stage " << stage;
      elements = std::max(elements, here);
    }
    EXPECT_GT(elements * of.ranks, static_cast<double>(of.parameters)) << of.name;
    EXPECT_LE(least_bytes(first), fullest) << of.name;
  }
}

TEST(TutorialLayouts, HaveTwinsThatDifferInSizesAlone) {
  for (const OfTutorial& of : kOfTutorial) {
    const Config config = config_file(of.name), twin = config_file(of.name + "_twin");
    const bool smaller = of.name == "gpt_1t_3d";  // 512 threads are too many
    EXPECT_EQ(twin.model.transformer.layers, config.model.transformer.layers) << of.name;
    if (!smaller) {
      EXPECT_EQ(twin.parallel.tensor, config.parallel.tensor) << of.name;
      EXPECT_EQ(twin.parallel.pipeline, config.parallel.pipeline) << of.name;
    }
    EXPECT_EQ(twin.parallel.schedule, config.parallel.schedule) << of.name;
    EXPECT_EQ(twin.parallel.shard, config.parallel.shard) << of.name;
    EXPECT_EQ(twin.parallel.stages, config.parallel.stages) << of.name;
    EXPECT_EQ(twin.train.global_batch, config.train.global_batch) << of.name;
    EXPECT_EQ(twin.train.micro_batch, config.train.micro_batch) << of.name;
    EXPECT_EQ(twin.train.batch_ramp_start, config.train.batch_ramp_start) << of.name;
    EXPECT_EQ(twin.train.precision, config.train.precision) << of.name;
    EXPECT_EQ(twin.train.recompute, config.train.recompute) << of.name;
    EXPECT_EQ(twin.train.loss_scale, config.train.loss_scale) << of.name;
    check(twin, smaller ? 32 : of.ranks);
  }
}

// ------------------------------------------------------------------------------------------------------------ traffic

Config small_run(const std::vector<std::string>& keys = {}) {
  return parse_config_text(
      "[model]\nfamily = \"gpt2\"\nlayers = 8\nwidth = 256\nheads = 8\nvocab = 1000\ncontext = 128\n"
      "[train]\nglobal_batch = 32\nprecision = \"bf16\"\nthreads = 1\n",
      "small", keys);
}

TEST(TrafficOfSlices, IsTwoSumsOfABlocksOutputEachWay) {
  const auto slices = [](const std::vector<std::string>& keys) {
    std::vector<std::string> all = {"parallel.tensor=4", "train.global_batch=2", "train.micro_batch=1"};
    all.insert(all.end(), keys.begin(), keys.end());
    const Config config = small_run(all);
    const comm::Placement place(mesh_of(config, 4), 0);
    return plan::traffic_by_purpose(run_programs(config, place).back(), run_shape(config, {}, place)).slices;
  };
  // Blocks alone: the ends do not depend on their number.
  const auto of_block = [&](std::vector<std::string> keys) {
    keys.emplace_back("model.layers=8");
    const int64_t more = slices(keys);
    keys.back() = "model.layers=7";
    return more - slices(keys);
  };
  constexpr int64_t kTokens = 128, kWidth = 256, kMicro = 2;
  const int64_t sum = 2 * (kTokens * kWidth * 2) / 4 * 3;  // all-reduce over 4
  EXPECT_EQ(of_block({}), kMicro * 4 * sum);
  // A recomputed block repeats the first sum of its forward, which its backward reads.
  EXPECT_EQ(of_block({"train.recompute=full"}), kMicro * 5 * sum);
  // Gathers and sums of parts are halves of it. The backward gathers two gradients; norm outputs again.
  const int64_t with_sequence = of_block({"parallel.sequence=true"});
  EXPECT_GE(with_sequence, kMicro * 4 * sum);
  EXPECT_LE(with_sequence, kMicro * 5 * sum + kMicro * 4 * 4 * kWidth * 4);  // and gradients of norms, joined
}

TEST(TrafficOfStages, IsAnOutputAndAGradientPerMicroBatch) {
  const Config config = small_run({"parallel.pipeline=4", "train.micro_batch=2", "model.tied=false"});
  constexpr int64_t kMessage = 2 * 128 * 256 * 2, kMicro = 16;
  for (int stage = 0; stage < 4; ++stage) {
    const comm::Placement place(mesh_of(config, 4), stage);
    const plan::TrafficByPurpose traffic =
        plan::traffic_by_purpose(run_programs(config, place).back(), run_shape(config, {}, place));
    EXPECT_EQ(traffic.stages, kMicro * kMessage * (stage == 0 || stage == 3 ? 1 : 2)) << "stage " << stage;
    EXPECT_EQ(traffic.slices, 0);
  }
}

// The formulas of docs/parallel.md: what a block and its input take of a micro-batch.
TEST(KeptByABlock, IsWhatThePageSays) {
  const model::TransformerConfig config = small_run().model.transformer;
  const model::BatchShape batch{.batch = 2, .sequence = 128, .dtype = DType::bf16};
  const int64_t n = batch.tokens(), c = config.width, f = config.ffn, h = config.heads;
  for (const int t : {1, 2, 4}) {
    const auto kept = [&](model::Recompute recompute, bool sequence) {
      const model::LocalShape shape{config, batch, recompute, model::slice_of(config, 0, t, sequence)};
      model::Carver carver(nullptr);
      model::carve_block_saved(carver, shape);
      return carver.used() + plan::message_bytes(shape);
    };
    using enum model::Recompute;
    EXPECT_EQ(kept(none, false), n * c * (8 * t + 8) / t + 4 * n * f / t + 4 * n * h / t + 16 * n);
    EXPECT_EQ(kept(selective, false), n * c * (4 * t + 8) / t + 2 * n * f / t + 4 * n * h / t + 16 * n);
    EXPECT_EQ(kept(full, false), 2 * n * c);
    if (t == 1) continue;
    EXPECT_EQ(kept(none, true), n * c * 12 / t + 4 * n * f / t + 4 * n * h / t + 16 * n / t);
    EXPECT_EQ(kept(selective, true), n * c * 12 / t + 2 * n * f / t + 4 * n * h / t + 16 * n / t);
    EXPECT_EQ(kept(full, true), 2 * n * c / t);
  }
}

// ------------------------------------------------------------------------------------------------------- pipeline use

TEST(PipelineUse, IsTheSchedulesOwnWhereStagesAreEqual) {
  // Without a vocabulary to speak of and with equal cuts.
  for (const auto& [schedule, chunks, idle] :
       {std::tuple{"gpipe", 1, 3.0 / 19}, {"1f1b", 1, 3.0 / 19}, {"interleaved", 2, 3.0 / 35}}) {
    const Config config =
        small_run({"model.vocab=1", "train.micro_batch=2", "parallel.pipeline=4",
                   fmt::format("parallel.schedule={}", schedule), fmt::format("parallel.chunks={}", chunks)});
    const parallel::RunShape run = run_shape(config, {}, {mesh_of(config, 4), 0});
    const plan::PipelineUse use = use_with(run, 16);
    EXPECT_NEAR(use.idle_if_equal, idle, 1e-9) << schedule;
    EXPECT_NEAR(use.timeline.idle_share, idle, 1e-3) << schedule;
    EXPECT_NEAR(use.imbalance, 0, 1e-3) << schedule;
  }
}

TEST(PipelineUse, TellsImbalanceFromWaiting) {
  const Config config =
      small_run({"train.micro_batch=1", "parallel.pipeline=2", "parallel.stages=2,6", "model.vocab=1"});
  const parallel::RunShape run = run_shape(config, {}, {mesh_of(config, 2), 0});
  const plan::PipelineUse use = use_with(run, 32);
  // Of 2 x (32 x 6 + 2) units of time the second stage computes 32 x 6, the first 32 x 2.
  EXPECT_NEAR(use.waiting, 1 - 192.0 / 194, 1e-3);
  EXPECT_NEAR(use.imbalance, 64.0 / 194, 1e-3);
  EXPECT_NEAR(use.idle_of(0), 1 - 64.0 / 194, 1e-3);
}

// ------------------------------------------------------------------------------------------------------------- search

constexpr plan::Cluster kSmallCluster{.node_size = 4, .flops = 1e12, .efficiency = 0.5, .inside = 1e9, .between = 1e8};

SearchSpace space_of(int64_t memory, int most = 1000) {
  return {.ranks = 8, .memory = memory, .cluster = kSmallCluster, .most = most};
}

TEST(LayoutSearch, ListsWhatFitsFastestFirst) {
  const Config config =
      small_run({"train.batch_ramp_start=16", "train.batch_ramp_increment=16", "train.batch_ramp_samples=64"});
  for (const int64_t mib : {18, 24, 64}) {
    const SearchSpace space = space_of(mib << 20);
    const LayoutSearch found = search_layouts(config, space, {});
    ASSERT_FALSE(found.layouts.empty()) << mib;
    double before = 0;
    std::set<std::string> seen;
    ManyCases cases(11);
    for (const Layout& layout : found.layouts) {
      if (cases.skips()) continue;
      const std::string what = to_toml(layout.config, Detail::values);
      EXPECT_TRUE(seen.insert(what).second) << "twice:\n" << what;
      EXPECT_NO_THROW(check(layout.config, space.ranks)) << what;
      // The fullest of all ranks, not only of those that the search has looked at.
      EXPECT_EQ(memory_report(layout.config, {}, mesh_of(layout.config, space.ranks)).total, layout.bytes) << what;
      EXPECT_LE(layout.bytes, space.memory) << what;
      EXPECT_GE(layout.time.seconds, before) << what;
      before = layout.time.seconds;
    }
    int64_t all = std::ssize(found.layouts) + found.slower;
    for (const auto& [reason, count] : found.refused) all += count;
    EXPECT_EQ(all, found.combinations) << "each is listed, slower or refused";
  }
}

TEST(LayoutSearch, CountsWhyTheOthersAreRefused) {
  const LayoutSearch found = search_layouts(small_run(), space_of(int64_t{18} << 20), {});
  std::vector<std::string> reasons;
  for (const auto& [reason, count] : found.refused) {
    EXPECT_GT(count, 0) << reason;
    reasons.push_back(reason);
  }
  EXPECT_THAT(reasons, testing::UnorderedElementsAre(
                           testing::HasSubstr("more than there are blocks"), testing::HasSubstr("does not divide into"),
                           testing::HasSubstr("no multiple of the stages"),
                           "memory: weights, optimizer and what blocks keep", "memory: all buffers"));
  const LayoutSearch none = search_layouts(small_run(), space_of(1 << 20), {});
  EXPECT_TRUE(none.layouts.empty());
  const LayoutSearch uneven = search_layouts(small_run({"model.heads=2"}), space_of(int64_t{1} << 40), {});
  EXPECT_THAT(uneven.refused, testing::Contains(testing::Key(testing::HasSubstr("parallel.tensor does not divide"))));
}

TEST(LayoutSearch, BoundsAreBounds) {
  const Config base = small_run();
  const LayoutSearch found = search_layouts(base, space_of(int64_t{1} << 40), {});
  ASSERT_GT(std::ssize(found.layouts), 50);
  ManyCases cases(11);
  for (const Layout& layout : found.layouts) {
    if (cases.skips()) continue;
    for (const char* recompute : {"none", "full"}) {
      Config config = layout.config;
      config.train.recompute = recompute == std::string("none") ? model::Recompute::none : model::Recompute::full;
      const comm::Mesh mesh = mesh_of(config, 8);
      const parallel::RunShape run = run_shape(config, {}, {mesh, 0});
      const std::string what = to_toml(config, Detail::values);
      EXPECT_LE(least_bytes(run), memory_report(config, {}, mesh).total) << what;
      const plan::PartCosts parts = plan::part_costs(run, plan::rates_of(kSmallCluster, mesh));
      EXPECT_LE(plan::least_seconds(run, kSmallCluster, parts),
                plan::step_time(run, kSmallCluster, parts).seconds * (1 + 1e-9))
          << what;
    }
  }
}

TEST(LayoutSearch, WritesAFileThatReadsBack) {
  const SearchSpace space = space_of(int64_t{24} << 20, 1);
  const Config config = small_run({"train.steps=7", "parallel.prefetch=2"});
  const LayoutSearch found = search_layouts(config, space, {});
  ASSERT_EQ(std::ssize(found.layouts), 1);
  const std::string text = layout_file(found.layouts.front(), space);
  EXPECT_TRUE(text.starts_with(kLayoutMark));
  const Config read = parse_config_text(text, "best.toml");
  EXPECT_THAT(differences(found.layouts.front().config, read), testing::IsEmpty());
  EXPECT_EQ(read.train.steps, 7);
  EXPECT_EQ(read.parallel.prefetch, 2);
  check(read, space.ranks);
  EXPECT_EQ(memory_report(read, {}, mesh_of(read, space.ranks)).total, found.layouts.front().bytes);
}

TEST(StepTime, UsesTheLinkThatAGroupNeeds) {
  const plan::Cluster cluster{.node_size = 8, .inside = 8, .between = 1};
  const comm::Mesh mesh(comm::MeshSizes{.pp = 4, .dp_shard = 2, .tp = 4});
  EXPECT_EQ(plan::link_of(cluster, mesh, {comm::Axis::tp}), 8);
  EXPECT_EQ(plan::link_of(cluster, mesh, {comm::Axis::dp_shard}), 8);
  EXPECT_EQ(plan::link_of(cluster, mesh, {comm::Axis::pp}), 1);
  // 6 slices do not fill a node of 8 evenly: some lie in two.
  EXPECT_EQ(plan::link_of(cluster, comm::Mesh(comm::MeshSizes{.pp = 4, .tp = 6}), {comm::Axis::tp}), 1);
}

// With products that take no time a step is what data-parallel ranks send: that of the programs, but for biases, norms
// and padding, and at level `parameters` for the weights that are at hand from the use before.
TEST(StepTime, CountsTheBytesOfThePrograms) {
  constexpr plan::Cluster kOnlyLinks{.flops = 1e30, .inside = 1, .between = 1};
  for (const char* shard : {"none", "optimizer", "gradients", "parameters"}) {
    for (const char* reduce : {"every", "last"}) {
      for (const int group : {0, 2}) {
        const Config config =
            small_run({fmt::format("parallel.shard={}", shard), fmt::format("parallel.reduce={}", reduce),
                       fmt::format("parallel.shard_group={}", group), "train.micro_batch=4"});
        const comm::Placement place(mesh_of(config, 4), 0);
        const parallel::RunShape run = run_shape(config, {}, place);
        const plan::StepTime time =
            plan::step_time(run, kOnlyLinks, plan::part_costs(run, plan::rates_of(kOnlyLinks, place.mesh())));
        const auto sent =
            static_cast<double>(plan::traffic_by_purpose(run_programs(config, place).back(), run).total());
        const bool gathers = shard == std::string("parameters");
        EXPECT_GT(time.seconds, 0.95 * sent) << shard << " " << reduce << " " << group;
        EXPECT_LT(time.seconds, (gathers ? 1.15 : 1.0) * sent) << shard << " " << reduce << " " << group;
      }
    }
  }
}

// Two nodes of two ranks: each node sends half of its sum, and half of the result; its two ranks send a half of that.
TEST(StepTime, RanksOfANodeSendTogether) {
  constexpr plan::Cluster kOnlyBetween{.node_size = 2, .flops = 1e30, .inside = 1e30, .between = 1};
  for (const bool half : {false, true}) {
    const Config config =
        small_run({"train.micro_batch=4", fmt::format("parallel.reduce_dtype={}", half ? "bf16" : "fp32")});
    const comm::Placement place(mesh_of(config, 4), 0);
    const parallel::RunShape run = run_shape(config, {}, place);
    const plan::StepTime time =
        plan::step_time(run, kOnlyBetween, plan::part_costs(run, plan::rates_of(kOnlyBetween, place.mesh())));
    // Sums travel in fp32.
    const double bytes = plan::matrix_elements(run, 0) * (half ? 4 + 2 : 4 + 4);
    EXPECT_NEAR(time.seconds, bytes / 2 / 2, 1e-6 * bytes) << half;
    EXPECT_EQ(plan::best_sum_group(run.sharding, 2), 2);
  }
  const Config whole = small_run({"train.micro_batch=4"});
  EXPECT_EQ(plan::best_sum_group(run_shape(whole, {}, {mesh_of(whole, 4), 0}).sharding, 4), 0);
}

TEST(LayoutSearch, SetsTheSumGroupOfItsNodesUnlessItIsGiven) {
  SearchSpace space = space_of(int64_t{24} << 20, 1);
  space.cluster.node_size = space.ranks / 2;
  const auto found = [&](const Config& config) { return search_layouts(config, space, {}).layouts.front().config; };
  const Config best = found(small_run());
  const comm::Mesh mesh = mesh_of(best, space.ranks);
  const int64_t wanted = plan::best_sum_group(sharding_of(best, mesh), space.cluster.node_size);
  EXPECT_EQ(best.parallel.sum_group, wanted == 0 ? 8 : wanted);
  EXPECT_EQ(found(small_run({"parallel.sum_group=3"})).parallel.sum_group, 3);
}

// Twice the work in twice the time; half the ranks likewise; a step that nothing but products take.
TEST(StepTime, IsThatOfTheProductsWhereNothingTravels) {
  const Config config = small_run({"train.micro_batch=2"});
  const comm::Mesh mesh = mesh_of(config, 1);
  const parallel::RunShape run = run_shape(config, {}, {mesh, 0});
  const plan::StepTime time =
      plan::step_time(run, kSmallCluster, plan::part_costs(run, plan::rates_of(kSmallCluster, mesh)));
  const double flops = model::training_flops(run.config, 128).per_token() * 32 * 128;
  EXPECT_NEAR(time.seconds, flops / 0.5e12, 1e-9 * time.seconds);
  EXPECT_EQ(time.idle_share, 0);
}

}  // namespace
}  // namespace ridgeline::train
