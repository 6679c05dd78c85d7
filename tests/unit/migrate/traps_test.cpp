// What the original does otherwise than its text says: each is named, and not when its cause is gone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "ridgeline/base/error.h"
#include "scripts.h"

namespace ridgeline::migrate {
namespace {

using testing::HasSubstr;

struct Edit {
  const char *file, *from, *to;
};
struct Trap {
  const char* name;
  const char* script;
  Section section;
  const char* words;       // in the item that names it
  const char* also;        // in the same item
  std::vector<Edit> cure;  // takes the cause away
};

std::ostream& operator<<(std::ostream& out, const Trap& trap) {
  return out << trap.name;
}

class Traps : public testing::TestWithParam<Trap> {};

TEST_P(Traps, IsNamedAndOnlyWhereItsCauseIs) {
  const Trap& trap = GetParam();
  std::vector<Source> sources = script_with_files(trap.script);
  const std::string item = item_with(migrate(sources, {}), trap.section, trap.words);
  ASSERT_NE(item, "") << report_text(migrate(sources, {}), sources);
  EXPECT_THAT(item, HasSubstr(trap.also));
  for (const Edit& each : trap.cure) edit(sources, each.file, each.from, each.to);
  EXPECT_EQ(item_with(migrate(sources, {}), trap.section, trap.words), "");
}

INSTANTIATE_TEST_SUITE_P(
    All, Traps,
    testing::Values(
        Trap{"LostAccumulation",
             "gpt2_xl_ddp.sh",
             Section::disagreement,
             "Gradient accumulation:",
             "after every 384 sequences, 8 times as often as meant, and its learning rate, made for 20 updates, is at "
             "its "
             "end after 20 of 160",
             {{"ds_config.json", "\"fp16\"", "\"gradient_accumulation_steps\": \"auto\",\n\"fp16\""}}},
        Trap{"LostAccumulationZero2",
             "gptj_6b_zero2.sh",
             Section::disagreement,
             "Gradient accumulation:",
             "after every 64 sequences",
             {{"gptj_6b_zero2.sh", "--gradient_accumulation_steps 8", "--gradient_accumulation_steps 1"}}},
        Trap{"ClippingLost",
             "gpt2_xl_ddp.sh",
             Section::disagreement,
             "Clipping:",
             "no gradient_clipping",
             {{"ds_config.json", "\"fp16\"", "\"gradient_clipping\": \"auto\",\n\"fp16\""}}},
        Trap{"ClippingLostMegatron",
             "gpt_22b_3d.sh",
             Section::disagreement,
             "Clipping:",
             "no gradient_clipping",
             {{"ds_config_4N_22B.json", "\"steps_per_print\": 10", "\"gradient_clipping\": 1.0"}}},
        Trap{"HalfPrecisionOff",
             "gpt2_xl_ddp.sh",
             Section::dead,
             "--fp16, which is not given",
             "the original runs in fp32, and never reads `fp16.loss_scale: 0` (ds_config.json:5)",
             {{"gpt2_xl_ddp.sh", "--do_train=True", "--do_train=True --fp16"}}},
        Trap{"NoZeroKey",
             "gpt2_xl_ddp.sh",
             Section::notice,
             "has no zero_optimization",
             "refuse it",
             {{"ds_config.json", "\"fp16\"", "\"zero_optimization\": {\"stage\": 0},\n\"fp16\""}}},
        Trap{"OneUnit",
             "gptj_6b_fsdp.sh",
             Section::disagreement,
             "the whole model is one unit",
             "gptJ_oscar_fsdp.py:12",
             {{"gptJ_oscar_fsdp.py", "FSDP(model)", "FSDP(model, auto_wrap_policy=policy)"}}},
        Trap{"NoMixedPrecision",
             "gptj_6b_fsdp.sh",
             Section::notice,
             "without mixed_precision",
             "fp32",
             {{"gptJ_oscar_fsdp.py", "FSDP(model)", "FSDP(model,\n  mixed_precision=m)"}}},
        Trap{"OtherModel",
             "gptj_6b_fsdp.sh",
             Section::disagreement,
             "throws it away",
             "'models/gpt2-xl'",
             {{"gptJ_oscar_fsdp.py", "model = AutoModelForCausalLM.from_pretrained(\"models/gpt2-xl\")\n", ""}}},
        Trap{"UnusedLength",
             "gpt2_xl_ddp.sh",
             Section::dead,
             "never reads it; its blocks have 128 tokens",
             "--max_len 128",
             {{"gpt_oscar_srun.py", "max_length=128", "max_length=args.max_len"}}},
        Trap{"EngineBatch",
             "gpt_22b_3d.sh",
             Section::disagreement,
             "DeepSpeed's engine makes 5 micro-batches",
             "A step trains on 10 sequences",
             {{"ds_config_4N_22B.json", "\"train_micro_batch_size_per_gpu\": 4",
               "\"train_micro_batch_size_per_gpu\": 2"}}},
        Trap{"ZeroAlone",
             "gpt_22b_3d.sh",
             Section::dead,
             "ZeRO cuts over data-parallel ranks",
             "nothing is cut",
             {{"gpt_22b_3d.sh", "-n32", "-n64"}}},
        Trap{"UnusedVariable",
             "gpt_22b_3d.sh",
             Section::dead,
             "OUTPUT_ARGS",
             "its flags are not passed",
             {{"gpt_22b_3d.sh", "$GPT_ARGS $DATA_ARGS", "$GPT_ARGS $OUTPUT_ARGS $DATA_ARGS"}}},
        Trap{"ClipFlagUnread",
             "gpt_22b_3d.sh",
             Section::dead,
             "--clip-grad 1.0",
             "reads the JSON alone",
             {{"gpt_22b_3d.sh", "--deepspeed --deepspeed_config ds_config_4N_22B.json", ""}}},
        Trap{"LossScaleFlagUnread",
             "gpt_22b_3d.sh",
             Section::dead,
             "--hysteresis 2",
             "reads the JSON alone",
             {{"gpt_22b_3d.sh", "--deepspeed --deepspeed_config ds_config_4N_22B.json", ""}}},
        Trap{"OptimizerBlockUnread",
             "gpt_22b_3d.sh",
             Section::dead,
             "optimizer.params.lr",
             "ds_config_4N_22B.json:8",
             {{"ds_config_4N_22B.json", "\"lr\": 0.001, ", ""}}},
        Trap{"EarlyMinimum",
             "gpt_22b_3d.sh",
             Section::notice,
             "the learning rate is at its minimum",
             "from step 500 of 5000",
             {{"gpt_22b_3d.sh", "--lr-decay-samples 10000", "--lr-decay-samples 100000"}}},
        Trap{"RateZero",
             "gpt_1p3b_3d.sh",
             Section::notice,
             "learns nothing",
             "from step 50 of 1000",
             {{"gpt_1p3b_3d.sh", "--lr-decay-iters 50", "--lr-decay-iters 1000"}}},
        Trap{"OneMicroBatch",
             "gpt_1p3b_3d.sh",
             Section::notice,
             "1 micro-batch a step for 2 stages",
             "50 %",
             {{"gpt_1p3b_3d.sh", "--train-iters 1000", "--train-iters 1000 --global-batch-size 64"}}},
        Trap{"RampIdles",
             "gpt_1t_3d.sh",
             Section::notice,
             "8 micro-batches a step for 64 stages",
             "97 %",
             {{"gpt_1t_3d.sh", "--global-batch-size 8 --rampup-batch-size 2 2 1000", "--global-batch-size 512"}}},
        Trap{"NoTensorBoard",
             "gpt_175b_3d.sh",
             Section::notice,
             "No --tensorboard-dir",
             "TypeError",
             {{"gpt_175b_3d.sh", "--save $CHECKPOINT_PATH", "--save $CHECKPOINT_PATH --tensorboard-dir logs"}}},
        Trap{"NoProgram",
             "gpt_175b_3d.sh",
             Section::notice,
             "pretrain_gpt_owt3.py was not found",
             "beside the launch script",
             {{"gpt_175b_3d.sh", "python pretrain_gpt_owt3.py", ""},
              {"gpt_175b_3d.sh", "srun -u -n$((SLURM_NNODES * 8)) -c2 --ntasks-per-node=8 --gpus-per-node=8  \\\n",
               ""}}},
        Trap{"LastWins",
             "gpt_1t_3d.sh",
             Section::disagreement,
             "--eval-iters 10",
             "argparse takes the last",
             {{"gpt_1t_3d.sh", "--save-interval 1000 --eval-iters 40", ""}}},
        Trap{"PrecisionOfJson",
             "gpt_1p3b_3d.sh",
             Section::disagreement,
             "Precision:",
             "follows the JSON",
             {{"gpt_1p3b_3d.sh", "--zero-stage 0", "--zero-stage 0 --fp16"}}}),
    [](const auto& each) { return std::string(each.param.name); });

TEST(AutoSemantics, AnotherMicroBatchInTheJsonEndsTheOriginal) {
  std::vector<Source> sources = script_with_files("gpt2_xl_ddp.sh");
  const char* const words = "ends in a ValueError before the first step";
  EXPECT_EQ(item_with(migrate(sources, {}), Section::disagreement, words), "");
  edit(sources, "gpt2_xl_ddp.sh", "batch_size 24", "batch_size 4");
  const Migration migration = migrate(sources, {});
  EXPECT_THAT(
      item_with(migration, Section::disagreement, words),
      HasSubstr("`train_micro_batch_size_per_gpu: 24` (ds_config.json:2) against `--per_device_train_batch_size 4` "
                "(gpt2_xl_ddp.sh:14)"));
  EXPECT_THAT(migration.toml, HasSubstr("micro_batch = 4 "));
}

TEST(AutoSemantics, HalfPrecisionIsTheCommandLines) {
  std::vector<Source> sources = script_with_files("gptj_6b_zero2.sh");
  edit(sources, "gptj_6b_zero2.sh", "--do_train=True", "--do_train=True --fp16");
  const Migration migration = migrate(sources, {});
  EXPECT_THAT(migration.toml, HasSubstr("precision = \"fp16\""));
  EXPECT_THAT(migration.toml, HasSubstr("loss_scale = \"deepspeed_zero\""));
  EXPECT_EQ(migration.incomplete, "");
}

}  // namespace
}  // namespace ridgeline::migrate
