// Inputs of every kind, and what is wrong with them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "ridgeline/base/error.h"
#include "ridgeline/train/config.h"
#include "scripts.h"

namespace ridgeline::migrate {
namespace {

using testing::HasSubstr;

Migration migrated(const std::string& text, const MigrationOptions& options = {}) {
  const std::vector<Source> sources = {{"input", text}};
  return migrate(sources, options);
}

std::string refusal(const std::vector<Source>& sources) {
  try {
    migrate(sources, {});
  } catch (const Error& error) {
    return error.message();
  }
  return "";
}

constexpr const char* kSmall =
    "--num-layers 4 --hidden-size 64 --num-attention-heads 4 --seq-length 32 --max-position-embeddings 32 "
    "--micro-batch-size 2 --train-iters 10 --lr 1e-3 --data-path data/x ";

TEST(Sources, AreKnownByTheirContent) {
  EXPECT_EQ(kind_of({"a", "  {\"x\": 1}"}), SourceKind::deepspeed_json);
  EXPECT_EQ(kind_of({"a", "#!/usr/bin/env python3\nx = 1\n"}), SourceKind::python_script);
  EXPECT_EQ(kind_of({"a", "\"\"\"words\"\"\"\nimport torch\n"}), SourceKind::python_script);
  EXPECT_EQ(kind_of({"a", "#!/bin/bash\nimport x\n"}), SourceKind::shell_script);
  EXPECT_EQ(kind_of({"a", "--lr 1\n"}), SourceKind::shell_script);
}

TEST(Sources, ABareCommandLineIsEnough) {
  const Migration migration = migrated(kSmall, {.world = 8});
  EXPECT_EQ(migration.incomplete, "");
  EXPECT_THAT(migration.toml, HasSubstr("global_batch = 16 "));
  EXPECT_THAT(migration.toml, testing::Not(HasSubstr("seed")));  // nothing given, nothing written
}

TEST(Sources, ABlendOfDatasetsIsTranslated) {
  const std::string small = std::string(kSmall).substr(0, std::string_view(kSmall).find("--data-path"));
  const Migration blended = migrated(small + "--data-path 0.7 data/web 3e-1 data/books --split 98,2,0");
  EXPECT_EQ(blended.incomplete, "");
  EXPECT_THAT(blended.toml, HasSubstr("train = [[0.7, \"data/web\"], [0.3, \"data/books\"]]"));
  const train::Config config = train::parse_config_text(blended.toml, "migrated");
  ASSERT_EQ(config.data.train.entries.size(), 2U);
  EXPECT_EQ(config.data.train.entries[1].weight, 0.3);
  EXPECT_EQ(config.data.train.entries[1].prefix, "data/books");

  const Migration apart = migrated(small + "--train-data-path 2 a 1 b --valid-data-path 1.0 c");
  const train::Config of_each = train::parse_config_text(apart.toml, "migrated");
  EXPECT_EQ(of_each.data.train.entries.front().weight, 2);
  EXPECT_EQ(of_each.data.valid, "c");

  const train::Config all = train::parse_config_text(migrated(small + "--train-data-path a").toml, "migrated");
  EXPECT_EQ(all.data.split, "1,0,0") << "there is no split of data that is named for training alone";
  EXPECT_EQ(all.train.eval_every, 0);
  EXPECT_THAT(item_with(migrated(small), Section::fill_in, "data.train"), HasSubstr("no --data-path with a value"));

  for (const char* const unweighted : {"a b", "a b c"}) {
    const Migration migration = migrated(small + "--data-path " + unweighted);
    const train::DatasetList list = train::parse_config_text(migration.toml, "migrated").data.train;
    EXPECT_TRUE(list.by_size) << unweighted;
    EXPECT_EQ(list.entries.size(), unweighted == std::string("a b") ? 2U : 3U);
    EXPECT_EQ(list.entries.back().prefix, unweighted == std::string("a b") ? "b" : "c");
    EXPECT_THAT(item_with(migration, Section::fill_in, "data.train"), HasSubstr("weighed by their sizes"));
  }
  for (const char* const mixed : {"0.5 a b", "0.5 a b c"}) {
    const Migration migration = migrated(small + "--data-path " + mixed);
    EXPECT_THAT(item_with(migration, Section::no_equivalent, "--data-path"), HasSubstr("do not take turns")) << mixed;
  }
}

TEST(Sources, UnknownFlagsAreListedWithTheNearestName) {
  const Migration migration = migrated(std::string(kSmall) + "--wieght-decay 0.1 --entirely-different 3");
  EXPECT_THAT(item_with(migration, Section::unknown, "--wieght-decay 0.1"),
              HasSubstr("the nearest known flag is --weight-decay"));
  EXPECT_THAT(item_with(migration, Section::unknown, "--entirely-different 3"), HasSubstr("input:1"));
  EXPECT_THAT(migration.toml, HasSubstr("--wieght-decay"));
}

TEST(Sources, UnknownKeysAreListedWithTheNearestName) {
  std::vector<Source> sources = script_with_files("gptj_6b_zero2.sh");
  edit(sources, "ds_config_zero.json", "\"stage\": 2", "\"stage\": 2, \"overlap_com\": true, \"wonder\": {\"a\": 1}");
  const Migration migration = migrate(sources, {});
  EXPECT_THAT(item_with(migration, Section::unknown, "overlap_com: true"),
              HasSubstr("the nearest known key is zero_optimization.overlap_comm"));
  EXPECT_NE(item_with(migration, Section::unknown, "zero_optimization.wonder.a"), "");
}

TEST(Sources, AnAbbreviationIsCompletedAsArgparseDoes) {
  EXPECT_NE(
      item_with(migrate(script_with_files("gpt2_xl_ddp.sh"), {}), Section::notice, "completes to --master_address"),
      "");
}

TEST(Sources, BrokenOnesAreRefusedWithFileAndLine) {
  EXPECT_THAT(refusal({{"ds.json", "{\n  \"fp16\": {\"enabled\": true}\n  \"x\": 1\n}\n"}}),
              HasSubstr("ds.json:3: not valid JSON"));
  EXPECT_THAT(refusal({{"ds.json", "[1, 2]"}}), HasSubstr("ds.json:1: a JSON object is expected"));
  EXPECT_THAT(refusal({{"ds.json", "{\n\"train_batch_size\": \"many\"}"}}),
              HasSubstr("ds.json:2: train_batch_size = \"many\": a number"));
  EXPECT_THAT(refusal({{"run.sh", "\npython pretrain_gpt.py --num-layers many\n"}}),
              HasSubstr("run.sh:2: --num-layers many: a whole number"));
  EXPECT_THAT(refusal({{"run.sh", "echo hello\n"}}), HasSubstr("run.sh: no training run"));
  EXPECT_THAT(refusal({{"run.sh", std::string(kSmall) + "--rampup-batch-size 2 5 100"}}),
              HasSubstr("run.sh:1: --rampup-batch-size 2 5 100"));
  EXPECT_THAT(refusal({{"ds.json", "{\"zero_optimization\": {\"stage\": 4}}"}}), HasSubstr("must be 0, 1, 2 or 3"));
}

TEST(Sources, ADeepSpeedJsonAloneLacksAModel) {
  const std::vector<Source> sources = {script_file("ds_config_zero.json")};
  const Migration migration = migrate(sources, {.world = 4});
  EXPECT_THAT(migration.incomplete, HasSubstr("no model is given"));
  EXPECT_EQ(migrate(sources, {.world = 4, .model = "gpt2"}).incomplete, "");
}

TEST(Sources, AValueThatOnlyTheShellKnowsIsLeftToTheUser) {
  const Migration migration = migrated(std::string(kSmall) + "--global-batch-size $BATCH");
  EXPECT_NE(item_with(migration, Section::fill_in, "--global-batch-size $BATCH"), "");
}

TEST(Sources, ABlankBehindABackslashEndsACommand) {
  std::vector<Source> sources = script_with_files("gptj_6b_fsdp.sh");
  const char* const words = "a blank stands behind the backslash";
  EXPECT_EQ(item_with(migrate(sources, {}), Section::disagreement, words), "");
  edit(sources, "gptj_6b_fsdp.sh", "--max_len 128 \\\n", "--max_len 128 \\ \n");
  const Migration migration = migrate(sources, {});
  EXPECT_THAT(item_with(migration, Section::disagreement, words),
              HasSubstr("`--learning_rate 2e-4` (gptj_6b_fsdp.sh:6)"));
  EXPECT_THAT(migration.toml, HasSubstr("micro_batch = 4"));
}

TEST(Sources, MegatronsOptionsOfTheModel) {
  const Migration migration =
      migrated(std::string(kSmall) +
                   "--swiglu --normalization RMSNorm --disable-bias-linear --position-embedding-type rope "
                   "--rotary-percent 0.5 --untie-embeddings-and-output-weights --group-query-attention "
                   "--num-query-groups 2 --vocab-size 1000 --hidden-dropout 0 --attention-dropout 0 "
                   "--bf16 --use-distributed-optimizer --recompute-granularity selective",
               {.world = 4});
  ASSERT_EQ(migration.incomplete, "");
  const train::Config config = train::parse_config_text(migration.toml, "migrated");
  const model::TransformerConfig& t = config.model.transformer;
  EXPECT_EQ(t.mlp, model::Mlp::swiglu);
  EXPECT_EQ(t.norm, model::Norm::rms);
  EXPECT_EQ(t.positions, model::Positions::rotary);
  EXPECT_EQ(t.rotary_width, 8);
  EXPECT_EQ(t.kv_heads, 2);
  EXPECT_EQ(t.ffn, 128);
  EXPECT_EQ(t.vocab, 1024);
  EXPECT_FALSE(t.tied || t.qkv_bias || t.out_bias || t.mlp_bias);
  EXPECT_EQ(t.dropout, 0.0F);
  EXPECT_EQ(config.train.precision, train::Precision::bf16);
  EXPECT_EQ(config.train.recompute, model::Recompute::selective);
  EXPECT_EQ(config.parallel.shard, parallel::Shard::optimizer);
}

TEST(Sources, TheTrainersOwnArguments) {
  const Migration migration = migrated(
      "torchrun --nnodes 2 --nproc_per_node 4 run_clm.py --model_name_or_path openai/gpt2-medium --block_size 512 "
      "--max_steps 1000 --warmup_ratio 0.03 --lr_scheduler_type cosine --bf16 True --fsdp \"full_shard auto_wrap\" "
      "--gradient_checkpointing --save_steps 200 --evaluation_strategy steps --eval_steps 100");
  ASSERT_EQ(migration.incomplete, "");
  EXPECT_EQ(migration.world, 8);
  const train::Config config = train::parse_config_text(migration.toml, "migrated");
  EXPECT_EQ(config.model.preset, "gpt2-medium");
  EXPECT_EQ(config.train.global_batch, 64);
  EXPECT_EQ(config.train.sequence, 512);
  EXPECT_EQ(config.optimizer.schedule.warmup_steps, 30);
  EXPECT_EQ(config.optimizer.schedule.kind, optim::LearningRateKind::hugging_face_cosine);
  EXPECT_EQ(config.optimizer.schedule.learning_rate, 5e-5);
  EXPECT_EQ(config.optimizer.weight_decay, 0.0);
  EXPECT_EQ(config.train.save_every, 200);
  EXPECT_EQ(config.train.eval_every, 100);
  EXPECT_EQ(config.parallel.shard, parallel::Shard::parameters);
  EXPECT_EQ(item_with(migration, Section::disagreement, "one unit"), "");
}

TEST(Sources, ACommandThatIsShownAndThenEvaluated) {
  const Migration migration =
      migrated("C=\"torchrun --nproc_per_node 4 pretrain_gpt.py " + std::string(kSmall) + "\"\necho $C\neval $C\n");
  EXPECT_EQ(migration.incomplete, "");
  EXPECT_EQ(migration.world, 4);
  EXPECT_EQ(item_with(migration, Section::no_equivalent, "another program"), "");
}

TEST(Sources, FsdpByFlagWithoutAPolicyIsOneUnit) {
  const std::string command = "torchrun --nproc_per_node 4 run_clm.py --model_name_or_path gpt2 --max_steps 10 --fsdp ";
  EXPECT_NE(item_with(migrated(command + "full_shard"), Section::disagreement, "the whole model is one unit"), "");
  EXPECT_EQ(item_with(migrated(command + "\"full_shard auto_wrap\""), Section::disagreement, "one unit"), "");
}

TEST(Sources, AJsonThatTheScriptWrites) {
  const Migration migration = migrated(
      "cat <<EOT > ds.json\n{\"train_micro_batch_size_per_gpu\": 2, \"bf16\": {\"enabled\": true},\n"
      "\"gradient_clipping\": 0.5, \"zero_optimization\": {\"stage\": 1}}\nEOT\n"
      "deepspeed --num_gpus 4 pretrain_gpt.py --deepspeed --deepspeed_config ds.json " +
      std::string(kSmall));
  ASSERT_EQ(migration.incomplete, "");
  EXPECT_EQ(migration.world, 4);
  EXPECT_THAT(migration.toml, HasSubstr("precision = \"bf16\"  # `bf16.enabled: true` (ds.json in input:1)"));
  EXPECT_THAT(migration.toml, HasSubstr("clip = 0.5"));
}

}  // namespace
}  // namespace ridgeline::migrate
