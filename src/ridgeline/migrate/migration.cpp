#include "ridgeline/migrate/migration.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>

#include "ridgeline/base/error.h"
#include "ridgeline/migrate/arguments.h"
#include "ridgeline/migrate/deepspeed_json.h"
#include "ridgeline/migrate/original.h"
#include "ridgeline/migrate/python_script.h"
#include "ridgeline/migrate/shell_script.h"
#include "ridgeline/train/config.h"

namespace ridgeline::migrate {
namespace {

// The JSON that a command names, "" for none.
std::string json_of(const Launch& launch) {
  std::string name;
  for (const Flag& flag : launch.flags) {
    const bool asks = flag.name == "deepspeed_config" || flag.name == "deepspeed" || flag.name == "ds_config";
    if (asks && flag.known && flag.value().ends_with(".json")) name = flag.value();
  }
  return name;
}

// Everything that the sources hold, sorted by kind.
struct Sources {
  std::vector<Launch> launches;
  std::vector<Source> jsons;
  std::vector<PythonScript> scripts;
  std::vector<std::pair<std::string, ShellScript>> shells;
};

Sources sorted(std::span<const Source> sources) {
  Sources result;
  for (const Source& source : sources) {
    switch (kind_of(source)) {
      case SourceKind::deepspeed_json:
        result.jsons.push_back(source);
        break;
      case SourceKind::python_script:
        result.scripts.push_back(read_python_script(source));
        break;
      case SourceKind::shell_script:
        result.shells.emplace_back(source.name, read_shell_script(source.text, source.name));
        for (Launch& launch : launches_of(result.shells.back().second, source.name))
          result.launches.push_back(std::move(launch));
        for (const auto& [name, text] : result.shells.back().second.documents) {
          const Source inner{fmt::format("{} in {}", name, source.name), text};
          if (kind_of(inner) == SourceKind::deepspeed_json) result.jsons.push_back(inner);
        }
        break;
    }
  }
  return result;
}

// The one that trains, where a script starts several programs: the last with flags that say so.
const Launch* training_launch(const Sources& sources, Draft& draft) {
  const Launch* chosen = nullptr;
  for (const Launch& launch : sources.launches) {
    const Arguments flags(launch.flags);
    const bool trains = is_megatron(flags) || flags.has("per_device_train_batch_size") || flags.has("output_dir") ||
                        flags.has("learning_rate") || flags.has("max_steps");
    const bool program = !launch.script.empty();
    if (chosen == nullptr || (trains && (program || chosen->script.empty()))) chosen = &launch;
  }
  for (const Launch& launch : sources.launches) {
    if (&launch == chosen) continue;
    if (launch.script.empty()) {
      draft.say(
          Section::disagreement,
          fmt::format("`{}` ({}): begins a command of its own, which the shell would not find; not translated. Most "
                      "often a blank stands behind the backslash of the line before",
                      launch.flags.front().text(), launch.origin.text()));
    } else {
      draft.say(Section::no_equivalent,
                fmt::format("`{}` ({}): another program than the one that trains; not looked at", launch.script,
                            launch.origin.text()));
    }
  }
  return chosen;
}

// Names of documents inside a script carry its name behind theirs.
bool is_called(const Source& source, std::string_view name) {
  const std::string_view own = file_name(std::string_view(source.name).substr(0, source.name.find(" in ")));
  return own == file_name(name);
}

const Source* json_for(const Sources& sources, const Launch* launch, Draft& draft) {
  const std::string name = launch == nullptr ? "" : json_of(*launch);
  const Source* chosen = nullptr;
  for (const Source& json : sources.jsons) {
    if (!name.empty() && is_called(json, name)) chosen = &json;
  }
  if (chosen == nullptr && !name.empty())
    draft.say(Section::fill_in, fmt::format("{}: named by the command line, and not found: give it, too", name));
  if (chosen == nullptr && !sources.jsons.empty()) {
    chosen = &sources.jsons.back();
    if (launch != nullptr)
      draft.say(
          Section::notice,
          fmt::format("{}: the command line does not name it; taken as the run's, since it was given", chosen->name));
  }
  for (const Source& json : sources.jsons) {
    if (&json != chosen)
      draft.say(Section::no_equivalent,
                fmt::format("{}: one JSON to a run; {} is that of this one", json.name, chosen->name));
  }
  return chosen;
}

void report_script(const std::string& name, const ShellScript& script, Draft& draft) {
  for (const ShellVariable& variable : script.variables) {
    const bool flags = variable.value.find("--") != std::string::npos;
    if (variable.used) continue;
    std::string value = variable.value.substr(0, 60);
    std::replace(value.begin(), value.end(), '\n', ' ');
    draft.say(Section::dead, fmt::format("`{}={}` ({}:{}): set, and used by no command{}", variable.name, value, name,
                                         variable.line, flags ? ": its flags are not passed" : ""));
  }
  if (!script.directives.empty())
    draft.say(
        Section::no_equivalent,
        fmt::format("`#SBATCH` ({}:{} and below), modules and the environment: matters of the launch, not of the run",
                    name, script.directives.front().line));
  for (const ShellRemark& remark : script.remarks)
    draft.say(Section::notice, fmt::format("{}:{}: {}", name, remark.line, remark.text));
}

// Nothing is dropped silently: what was read, and has not been spoken of, because it says what others say.
void report_silent(Original& original, Draft& draft) {
  const std::vector<Item> items = draft.items();
  const auto spoken_of = [&](const std::string& where) {
    return std::any_of(items.begin(), items.end(),
                       [&](const Item& item) { return item.text.find(where) != std::string::npos; });
  };
  for (const Flag& flag : original.flags.all()) {
    if (!spoken_of(flag.where()))
      draft.say(Section::translated, flag.where() + ": read; it adds nothing to the other settings");
  }
  if (original.json == nullptr) return;
  for (const std::string& path : original.json->paths()) {
    const std::string where = original.json->where(path);
    if (spoken_of(where)) continue;
    draft.say(Section::translated,
              where + (original.json->is_auto(path) ? ": filled in from the command line"
                                                    : ": read; it adds nothing to the other settings"));
  }
}

std::string count_of(size_t count, const char* what) {
  return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s");
}

std::string heading(std::span<const Source> sources) {
  std::vector<std::string> names;
  for (const Source& source : sources) names.push_back(source.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

// What a reader of the configuration must know, before its keys.
std::string summary(const std::vector<Item>& items, std::span<const Source> sources, int64_t world) {
  std::string text =
      fmt::format("{} from {}, for {}.\n", kMark, heading(sources), count_of(static_cast<size_t>(world), "rank"));
  for (const Section section : {Section::fill_in, Section::disagreement, Section::notice, Section::unknown}) {
    bool first = true;
    for (const Item& item : items) {
      if (item.section != section) continue;
      if (first) text += fmt::format("#\n# {}:\n", title_of(section));
      first = false;
      text += wrapped(item.text, "# - ", "#   ");
    }
  }
  const auto number = [&](Section section) {
    return std::count_if(items.begin(), items.end(), [&](const Item& item) { return item.section == section; });
  };
  return text + fmt::format(
                    "#\n# Besides: {} dead, {} without an equivalent; the report lists them. Keys at their default "
                    "are left out.\n\n",
                    number(Section::dead), number(Section::no_equivalent));
}

std::string why_refused(const std::string& toml, int64_t world) {
  try {
    train::check(train::parse_config_text(toml, "the configuration"), static_cast<int>(world));
  } catch (const Error& error) {
    return fmt::format("{}. {}", error.message(), error.next_step());
  }
  return "";
}

std::vector<Item> in_order(std::vector<Item> items) {
  std::stable_sort(items.begin(), items.end(), [](const Item& a, const Item& b) { return a.section < b.section; });
  return items;
}

}  // namespace

std::vector<std::string> named_files(const Source& source) {
  std::vector<std::string> names;
  if (kind_of(source) != SourceKind::shell_script) return names;
  const ShellScript script = read_shell_script(source.text, source.name);
  for (const Launch& launch : launches_of(script, source.name)) {
    for (const std::string& name : {launch.script, json_of(launch)}) {
      if (!name.empty() && !script.documents.contains(std::string(file_name(name)))) names.push_back(name);
    }
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

Migration migrate(std::span<const Source> sources, const MigrationOptions& options) {
  const Sources all = sorted(sources);
  Draft draft;
  const Launch* const launch = training_launch(all, draft);
  const Source* const json_source = json_for(all, launch, draft);
  if (launch == nullptr && json_source == nullptr) {
    throw Error(fmt::format("{}: no training run: neither a command with flags nor DeepSpeed's JSON", heading(sources)),
                "Give a launch script, a file with the command line, or the JSON.");
  }
  std::optional<DeepSpeedJson> json;
  if (json_source != nullptr) json.emplace(*json_source);
  Original original{.json = json ? &*json : nullptr, .model = options.model, .world = options.world};
  if (launch != nullptr) {
    original.flags = Arguments(launch->flags);
    original.script = std::string(file_name(launch->script));
    if (original.world == 0) original.world = launch->ranks;
    for (const PythonScript& script : all.scripts) {
      if (file_name(script.name) == original.script) original.python = &script;
    }
  }
  if (launch == nullptr) {
    if (original.world == 0) {
      original.world = 1;
      draft.say(Section::fill_in, "Ranks: the JSON does not say how many; taken as 1. Otherwise: --world N");
    }
    translate_deepspeed_alone(original, draft);
    if (!options.model.empty()) set_model(options.model, "--model", draft);
  } else if (is_megatron(original.flags)) {
    translate_megatron(original, draft);
  } else {
    translate_hugging_face(original, draft);
  }
  report_silent(original, draft);
  for (const auto& [name, script] : all.shells) report_script(name, script, draft);
  Migration migration;
  migration.world = original.world;
  migration.items = in_order(draft.items());
  const std::string keys = draft.keys_as_toml();
  migration.incomplete = why_refused(keys, original.world);
  if (!migration.incomplete.empty())
    migration.items.push_back(
        {Section::fill_in, fmt::format("As it stands `train` refuses it: {}", migration.incomplete)});
  migration.toml = summary(migration.items, sources, original.world) + keys;
  return migration;
}

std::string report_text(const Migration& migration, std::span<const Source> sources) {
  std::string text = fmt::format("{} {}, for {}\n", kReportMark, heading(sources),
                                 count_of(static_cast<size_t>(migration.world), "rank"));
  for (int number = 0; number < kSections; ++number) {
    const auto section = static_cast<Section>(number);
    bool first = true;
    for (const Item& item : migration.items) {
      if (item.section != section) continue;
      if (first) text += fmt::format("\n{}\n", title_of(section));
      first = false;
      text += fmt::format("- {}\n", item.text);
    }
  }
  return text;
}

}  // namespace ridgeline::migrate
