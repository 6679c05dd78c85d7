// Which datasets Megatron's command line names, with which weights, and how their documents are split.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string>
#include <vector>

#include "ridgeline/migrate/original.h"
#include "ridgeline/migrate/source.h"

namespace ridgeline::migrate {
namespace {

// What a flag of prefixes says, as the value of a key, and in words. Both are "" of what is no such list.
struct Datasets {
  std::string value, what;
};

std::string list_of(const std::vector<std::string>& values) {
  return fmt::format("[{}]", fmt::join(values, ", "));
}

// PREFIX, WEIGHT PREFIX WEIGHT PREFIX ..., or prefixes alone, which Megatron takes by their sizes.
Datasets datasets_of(const std::vector<std::string>& values) {
  Datasets none, alone{toml(std::string_view(values.back())), "the prefix"};
  if (values.size() == 1) return alone;
  std::vector<std::string> prefixes, pairs;
  for (size_t i = 0; i < values.size(); ++i) {
    double weight = 0;
    prefixes.push_back(toml(std::string_view(values[i])));
    if (i % 2 != 0 || !read_number(values[i], weight)) continue;
    if (i + 1 == values.size()) return none;
    pairs.push_back(fmt::format("[{}, {}]", toml(weight), toml(std::string_view(values[i + 1]))));
  }
  if (pairs.empty()) return {list_of(prefixes), "prefixes, weighed by their sizes,"};
  if (2 * pairs.size() != values.size()) return none;
  if (pairs.size() == 1) return alone;  // its weight says nothing
  return {list_of(pairs), "weights and prefixes"};
}

void set_datasets(const char* name, const char* key, Original& original, Draft& draft) {
  const Flag* const flag = original.flags.find(name);
  if (flag == nullptr || flag->values.empty()) {
    draft.say(Section::fill_in,
              fmt::format("{}: no {} with a value that is known here; the prefix of a .bin/.idx pair, "
                          "as Megatron's preprocessing or `ridgeline prepare` writes it",
                          key, original.spelled(name)));
    return;
  }
  const Datasets datasets = datasets_of(flag->values);
  if (datasets.value.empty()) {
    draft.say(Section::no_equivalent,
              fmt::format("{}: weights and prefixes that do not take turns; {} = [[WEIGHT, \"PREFIX\"], ...]",
                          flag->where(), key));
    return;
  }
  draft.set(key, datasets.value, flag->where());
  draft.say(Section::fill_in, fmt::format("{} = {}: {} of .bin/.idx pairs; Megatron's own files are read as they are. "
                                          "Say where yours lie",
                                          key, datasets.value, datasets.what));
}

void set_split(Original& original, Draft& draft) {
  Arguments& flags = original.flags;
  if (flags.has("train_data_path") && !flags.has("valid_data_path") && !flags.has("split")) {
    const std::string from = original.where("train_data_path", kMegatrons);
    constexpr const char* kWhy =
        "Megatron holds nothing out of it, and without --valid-data-path validates on nothing.";
    draft.set("data.split", toml("1,0,0"), from, kWhy);
    return draft.set("train.eval_every", toml(int64_t{0}), from, kWhy);
  }
  std::string split = flags.word("split").value_or("969, 30, 1");
  if (split.find_first_of(",/") != std::string::npos)  // else spaces separate
    split.erase(std::remove(split.begin(), split.end(), ' '), split.end());
  draft.set("data.split", toml(std::string_view(split)), original.where("split", kMegatrons));
  if (original.json != nullptr) {
    draft.set("data.split_rule", toml("per_share"), "Megatron-DeepSpeed's rule");
  } else {
    draft.set("data.split_rule", toml("cumulative"), "Megatron-LM's rule since November 2023");
    draft.alternative("data.split_rule", toml("per_share"), "Megatron-LM before, and Megatron-DeepSpeed");
  }
}

}  // namespace

void translate_megatron_data(Original& original, Draft& draft) {
  Arguments& flags = original.flags;
  set_datasets(flags.has("train_data_path") ? "train_data_path" : "data_path", "data.train", original, draft);
  if (flags.has("valid_data_path")) set_datasets("valid_data_path", "data.valid", original, draft);
  set_split(original, draft);
  if (const std::string type = flags.word("dataloader_type").value_or("single"); type != "single")
    draft.say(Section::no_equivalent, fmt::format("{}: the order of samples is that of `single`",
                                                  original.where("dataloader_type", kMegatrons)));
  for (const char* const flag : {"reset_attention_mask", "reset_position_ids", "eod_mask_loss"}) {
    if (flags.truth(flag)) draft.set(fmt::format("data.{}", flag), toml(true), original.where(flag, kMegatrons));
  }
}

}  // namespace ridgeline::migrate
