#include "ridgeline/migrate/original.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "ridgeline/base/error.h"
#include "ridgeline/model/transformer_config.h"

namespace ridgeline::migrate {
namespace {

const FlagRow* row_of(std::span<const FlagRow> rows, std::string_view name) {
  const auto found = std::find_if(rows.begin(), rows.end(), [&](const FlagRow& row) { return row.name == name; });
  return found == rows.end() ? nullptr : &*found;
}

// "GPT-J-6B" -> "gptj6b"
std::string letters_of(std::string_view name) {
  std::string result;
  for (const char c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0)
      result += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return result;
}

std::string translated(const FlagRow& row, Arguments& flags) {
  switch (row.translation) {
    case Translation::whole:
      return toml(*flags.whole(row.name));
    case Translation::number:
      return toml(*flags.number(row.name));
    case Translation::text:
      return toml(std::string_view(*flags.word(row.name)));
    case Translation::combined:
    case Translation::nothing:
      break;
  }
  RL_NO_CASE(row.translation);
}

}  // namespace

std::string Original::spelled(std::string_view flag) const {
  std::string text = fmt::format("--{}", flag);
  std::replace(text.begin(), text.end(), '_', joint);
  return text;
}

std::string Original::where(std::string_view flag, std::string_view default_of) {
  const Flag* const given = flags.find(flag);
  return given == nullptr ? fmt::format("{} default of {}", default_of, spelled(flag)) : given->where();
}

void translate_rows(std::span<const FlagRow> rows, std::string_view default_of, Original& original, Draft& draft) {
  for (const FlagRow& row : rows) {
    if (row.translation == Translation::combined) continue;
    const Flag* const flag = original.flags.find(row.name);
    if (flag == nullptr) {
      if (!row.fallback.empty()) draft.set(row.target, std::string(row.fallback), original.where(row.name, default_of));
    } else if (row.translation == Translation::nothing) {
      draft.say(Section::no_equivalent, fmt::format("{}: {}", flag->where(), row.target));
    } else {
      draft.set(row.target, translated(row, original.flags), flag->where());
    }
  }
}

void complete_abbreviations(std::span<const FlagRow> rows, Original& original, Draft& draft) {
  constexpr size_t kShortest = 4;
  for (const Flag& flag : std::vector<Flag>(original.flags.all())) {
    if (flag.name.size() < kShortest || row_of(rows, flag.name) != nullptr) continue;
    std::vector<const FlagRow*> meant;
    for (const FlagRow& row : rows) {
      if (row.name.starts_with(flag.name)) meant.push_back(&row);
    }
    if (meant.size() != 1) continue;
    draft.say(Section::notice, fmt::format("{}: an abbreviation, which argparse completes to {}", flag.where(),
                                           original.spelled(meant.front()->name)));
    for (const Flag& own : original.flags.all()) {
      if (own.name == flag.name) original.flags.rename(own, std::string(meant.front()->name));
    }
  }
}

void report_flags(std::span<const FlagRow> rows, const Original& original, Draft& draft) {
  for (const std::vector<const Flag*>& flags : original.flags.repeated()) {
    std::vector<std::string> places;
    for (const Flag* flag : flags) places.push_back(flag->where());
    draft.say(Section::disagreement, fmt::format("{}: given more than once; argparse takes the last, and so does the "
                                                 "configuration",
                                                 fmt::join(places, ", then ")));
  }
  for (const Flag* flag : original.flags.unevaluated()) {
    const FlagRow* const row = row_of(rows, flag->name);
    if (row != nullptr && row->translation == Translation::nothing) {
      draft.say(Section::no_equivalent, fmt::format("{}: {}", flag->where(), row->target));
      continue;
    }
    draft.say(Section::fill_in,
              fmt::format("{}: only a running shell knows this value; it is left at its default", flag->where()));
  }
  std::vector<std::string> names;
  for (const FlagRow& row : rows) names.emplace_back(row.name);
  for (const Flag* flag : original.flags.unread()) {
    if (row_of(rows, flag->name) != nullptr) {
      draft.say(Section::dead, fmt::format("{}: beside the other settings it changes nothing", flag->where()));
      continue;
    }
    const std::string guess = nearest(flag->name, names);
    draft.say(Section::unknown,
              fmt::format("{}: not translated{}", flag->where(),
                          guess.empty() ? "; no known flag has a similar name"
                                        : fmt::format("; the nearest known flag is {}", original.spelled(guess))));
  }
}

std::string preset_of(std::string_view name) {
  const std::string wanted = letters_of(file_name(name));
  std::string found;
  for (const std::string& preset : ridgeline::model::preset_names()) {
    const std::string letters = letters_of(preset);
    if (wanted == letters) return preset;
    // "Meta-Llama-3-8B": a maker's name before it. The smallest GPT-2's name is the beginning of all of them.
    if (letters != "gpt2" && wanted.ends_with(letters)) found = preset;
  }
  return found;
}

void set_model(const std::string& name, const std::string& from, Draft& draft) {
  const std::string preset = preset_of(name);
  if (preset.empty()) {
    draft.set("train.init_from", toml(std::string_view(name)), from,
              "A Hugging Face folder on your disk: its config.json says the model.");
    return;
  }
  draft.set("model.preset", toml(std::string_view(preset)), from);
  if (preset.starts_with("gpt2"))
    draft.set("model.dropout", toml(0.1), "the published config.json of the model",
              "embd_pdrop, resid_pdrop and "
              "attn_pdrop, which the Trainer "
              "trains with.");
  draft.say(Section::fill_in,
            fmt::format("Weights: the original starts from those of '{}'. For the same: train.init_from and "
                        "data.tokenizer = the model's folder on your disk.",
                        name));
}

}  // namespace ridgeline::migrate
