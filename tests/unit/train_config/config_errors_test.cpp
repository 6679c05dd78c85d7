// Every kind of bad input to a single key: one error that names source, line, key, what is wrong and what is near.
#include "expect_error.h"
#include "ridgeline/train/config.h"

namespace ridgeline::train {
namespace {

struct BadInput {
  const char* name;
  const char* text;      // of the file
  const char* override;  // "" = none
  std::vector<std::string> fragments;
};

// NOLINTNEXTLINE(readability-identifier-naming): GoogleTest looks for this name
void PrintTo(const BadInput& bad, std::ostream* out) {
  *out << bad.name;
}

class ConfigErrors : public testing::TestWithParam<BadInput> {};

TEST_P(ConfigErrors, NameSourceLineKeyAndWhatIsNear) {
  const BadInput& bad = GetParam();
  std::vector<std::string> overrides;
  if (*bad.override != '\0') overrides.emplace_back(bad.override);
  try {
    parse_config_text(bad.text, "dir/a.toml", overrides);
    FAIL() << "accepted";
  } catch (const Error& error) {
    for (const std::string& fragment : bad.fragments) {
      EXPECT_THAT(std::string(error.what()), testing::HasSubstr(fragment));
    }
  }
}

const BadInput kBadInputs[] = {
    // Unknown keys
    {"mistyped", "[train]\nstpes = 5\n", "", {"dir/a.toml:2: train.stpes: no such key", "Did you mean train.steps?"}},
    {"wrong_group",
     "\n\n[train]\nlearning_rate = 1e-3\n",
     "",
     {"dir/a.toml:4: train.learning_rate", "Did you mean optimizer.learning_rate?"}},
    {"without_group", "steps = 5\n", "", {"dir/a.toml:1: steps: no such key", "Did you mean train.steps?"}},
    {"two_places",
     "[data]\nschedule = \"x\"\n",
     "",
     {"data.schedule", "Did you mean optimizer.schedule or parallel.schedule?"}},
    {"nothing_near",
     "[train]\nfrobnicate_quickly = 1\n",
     "",
     {"train.frobnicate_quickly: no such key", "Keys of [train]: steps, global_batch"}},
    {"mistyped_group", "[trian]\nsteps = 1\n", "", {"dir/a.toml:1: trian: no such key", "Did you mean [train]?"}},
    {"unknown_group",
     "[zzzzzzzz]\nq = 1\n",
     "",
     {"zzzzzzzz: no such key", "Groups: model, data, train, optimizer, parallel"}},
    {"mistyped_override",
     "",
     "optimizer.learning_rat=1",
     {"--set: optimizer.learning_rat: no such key", "Did you mean optimizer.learning_rate?"}},
    {"first_of_several_by_line", "[train]\nzz = 1\naa = 2\n", "", {"dir/a.toml:2: train.zz"}},
    // Wrong types
    {"text_for_a_whole_number",
     "[train]\nsteps = \"ten\"\n",
     "",
     {"dir/a.toml:2: train.steps = \"ten\": a string was given, a whole number is expected", "train.steps = 1000",
      "at least 1"}},
    {"fraction_for_a_whole_number",
     "[train]\nsteps = 1.5\n",
     "",
     {"train.steps = 1.5: a number with a fraction was given, a whole number is expected"}},
    {"more_than_counts_exactly", "[train]\nsteps = 1e16\n", "", {"train.steps = ", "a whole number is expected"}},
    {"infinitely_many", "[train]\nsteps = inf\n", "", {"train.steps = inf: ", "a whole number is expected"}},
    {"text_for_a_number",
     "[optimizer]\nclip = \"off\"\n",
     "",
     {"dir/a.toml:2: optimizer.clip = \"off\": a string was given, a number is expected"}},
    {"number_for_text",
     "[train]\nprecision = 16\n",
     "",
     {"dir/a.toml:2: train.precision = 16: a whole number was given, a string is expected", "fp32 | bf16"}},
    {"number_for_a_switch",
     "[parallel]\nsequence = 0\n",
     "",
     {"parallel.sequence = 0: a whole number was given, true or false is expected"}},
    {"list",
     "[data]\ntrain = [\"a\", 0.5]\n",
     "",
     {"dir/a.toml:2: data.train: entry 1 of the list is a string \"a\"; each must be [weight, \"prefix\"], or "
      "each a prefix"}},
    {"list_for_text",
     "[data]\nsplit = [98, 2]\n",
     "",
     {"dir/a.toml:2: data.split: a list was given, a string is expected"}},
    {"weight_after_its_dataset",
     "[data]\ntrain = [[0.5, \"a\"], [\"b\", 0.5]]\n",
     "",
     {"data.train: entry 2 of the list is another list than that"}},
    {"no_dataset", "[data]\ntrain = []\n", "", {"data.train: the list is empty"}},
    {"number_for_a_dataset",
     "[data]\ntrain = 3\n",
     "",
     {"data.train = 3: a whole number was given, a prefix or a list of datasets is expected"}},
    {"weight_of_nothing",
     "[data]\ntrain = [[1, \"a\"], [0, \"b\"]]\n",
     "",
     {"data.train[2] = 'b': a weight of 0", "Leave the dataset out"}},
    {"weight_of_nothing_alone", "[data]\ntrain = [[0, \"a\"]]\n", "", {"data.train = 'a': a weight of 0"}},
    {"weight_without_end", "[data]\ntrain = [[1, \"a\"], [inf, \"b\"]]\n", "", {"data.train[2] = 'b'"}},
    {"dataset_twice", "[data]\nvalid = [[1, \"a\"], [2, \"a\"]]\n", "", {"data.valid[2] = 'a': named twice"}},
    {"list_that_the_shell_took_apart",
     "",
     "data.train=[[0.7,web],[0.3,books]]",
     {"--set: data.train = [[0.7,web],[0.3,books]]: ", "--set 'data.train=[[0.7, \"data/web\"], "}},
    {"group_for_a_value",
     "[train.steps]\nx = 1\n",
     "",
     {"train.steps: a group of keys was given, a whole number is expected"}},
    {"value_for_a_group",
     "train = 5\n",
     "",
     {"dir/a.toml:1: train: a whole number was given, a group of keys is expected", "Keys of [train]"}},
    {"date", "[data]\ntrain = 1979-05-27\n", "", {"data.train", "a date or time was given"}},
    {"word_override_for_a_number",
     "",
     "train.steps=many",
     {"--set: train.steps = ", "many", "a string was given, a whole number is expected"}},
    {"list_override", "", "train.steps=[1, 2]", {"--set: train.steps: a list was given"}},
    {"injection_override", "", "train.steps=1\nx=2", {"--set: train.steps", "a string was given"}},
    {"empty_override",
     "",
     "train.steps=",
     {"--set: train.steps = \"\": a string was given, a whole number is expected"}},
    {"empty_override_of_nothing",
     "[train]\nsteps = 5\n",
     "train.init_from=",
     {"--set: train.init_from = \"\": the value is empty, and none is given", "variable of the shell"}},
    {"empty_override_of_no_dataset", "", "data.train=", {"--set: data.train = \"\": the value is empty"}},
    {"empty_override_of_no_preset", "", "model.preset=\"\"", {"--set: model.preset = \"\": the value is empty"}},
    {"override_without_value", "", "train.steps", {"--set train.steps: no key=value", "--set train.steps=100"}},
    {"override_without_key", "", "=5", {"--set =5: no key=value"}},
    {"override_of_a_group", "", "train=5", {"--set train=5: train is a group of keys", "Keys of [train]"}},
    // Impossible values
    {"too_small",
     "[train]\nsteps = 0\n",
     "",
     {"dir/a.toml:2: train.steps = 0: must be at least 1", "nearest valid value is 1", "default is 1000"}},
    {"negative_override",
     "",
     "train.keep_last=-3",
     {"--set: train.keep_last = -3: must be at least 0", "nearest valid value is 0"}},
    {"seed_too_large",
     "[train]\nseed = 4294967296\n",
     "",
     {"train.seed = 4294967296: must be at most 4294967295", "nearest valid value is 4294967295"}},
    {"beta_of_one",
     "[optimizer]\nbeta1 = 1.0\n",
     "",
     {"dir/a.toml:2: optimizer.beta1 = 1.0: must be at least 0 and below 1", "default is 0.9"}},
    {"not_a_number",
     "[optimizer]\nlearning_rate = nan\n",
     "",
     {"optimizer.learning_rate = nan: must be between 0 and 1000"}},
    {"infinite",
     "[optimizer]\nlearning_rate = inf\n",
     "",
     {"optimizer.learning_rate = inf: must be at most 1000", "nearest valid value is 1000"}},
    {"zero_epsilon", "[optimizer]\nepsilon = 0\n", "", {"optimizer.epsilon = 0.0", "nearest valid value is 1e-20"}},
    {"mistyped_word",
     "[train]\nprecision = \"bf61\"\n",
     "",
     {"dir/a.toml:2: train.precision = \"bf61\": must be fp32 | bf16", "nearest valid value is \"bf16\""}},
    {"far_word",
     "[optimizer]\nschedule = \"triangular\"\n",
     "",
     {"optimizer.schedule = \"triangular\"", "constant | linear | cosine", "default is \"cosine\""}},
    // Another program's word is like none of ours: what ours mean is said, and not that "none" is the nearest.
    {"word_from_elsewhere",
     "[parallel]\nshard = \"fsdp\"\n",
     "",
     {"parallel.shard = \"fsdp\": must be none | optimizer", "default is \"none\"", "(ZeRO-3, FSDP)"}},
    {"unknown_preset",
     "[model]\npreset = \"gpt2-xxl\"\n",
     "",
     {"dir/a.toml:2: model.preset = \"gpt2-xxl\": no such preset", "Did you mean gpt2-xl?"}},
    {"unknown_preset_override", "", "model.preset=gpt3", {"--set: model.preset = \"gpt3\"", "gpt2 (= gpt2-124m)"}},
    {"dropout_of_one", "[model]\ndropout = 1\n", "", {"model.dropout = 1.0: must be at least 0 and below 1"}},
    // Known, but not in this version
    {"precision",
     "[train]\nprecision = \"fp61\"\n",
     "",
     {"dir/a.toml:2: train.precision = \"fp61\": must be fp32 | bf16 | fp16 | pure_bf16", "fp16"}},
    {"shard",
     "[parallel]\nshard = \"parameter\"\n",
     "",
     {"dir/a.toml:2: parallel.shard = \"parameter\": ", "parameters"}},
    {"tensor_zero",
     "",
     "parallel.tensor=0",
     {"--set: parallel.tensor = 0: must be at least 1", "nearest valid value is 1"}},
    {"schedule", "", "parallel.schedule=zero_bubble", {"parallel.schedule = \"zero_bubble\": must be", "zero-bubble"}},
    {"context", "", "parallel.context=2", {"parallel.context = 2: not in this version"}},
    // Not TOML
    {"syntax", "[train]\nsteps = 5\nprecision = bf16\n", "", {"dir/a.toml:3: ", "text in quotes"}},
    {"twice", "[train]\nsteps = 5\nsteps = 6\n", "", {"dir/a.toml:3: ", "steps"}},
    {"invalid_utf8", "[data]\ntrain = \"a\xff\"\n", "", {"dir/a.toml:2: ", "utf-8"}},
    {"number_too_large", "[train]\nsteps = 99999999999999999999\n", "", {"dir/a.toml:2: "}},
};

INSTANTIATE_TEST_SUITE_P(Config, ConfigErrors, testing::ValuesIn(kBadInputs),
                         [](const testing::TestParamInfo<BadInput>& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace ridgeline::train
