#include "ridgeline/hub/selection.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "ridgeline/base/error.h"

namespace ridgeline::hub {
namespace {

using Paths = std::vector<std::string>;

bool contains(const Paths& paths, std::string_view path) {
  return std::find(paths.begin(), paths.end(), path) != paths.end();
}

template <typename Condition>
Paths those(const Paths& paths, const Condition& condition) {
  Paths result;
  std::copy_if(paths.begin(), paths.end(), std::back_inserter(result), condition);
  return result;
}

// "a, b, c and 7 more".
std::string some_of(const Paths& names) {
  constexpr size_t kMost = 8;
  const Paths first(names.begin(), names.begin() + static_cast<ptrdiff_t>(std::min(names.size(), kMost)));
  return names.size() <= kMost ? fmt::format("{}", fmt::join(first, ", "))
                               : fmt::format("{} and {} more", fmt::join(first, ", "), names.size() - kMost);
}

void require_match(const Paths& paths, const std::string& pattern, std::string_view option) {
  if (std::any_of(paths.begin(), paths.end(), [&](const std::string& path) { return matches(pattern, path); })) return;
  const std::string guess = nearest(pattern, paths);
  throw Error(fmt::format("{} '{}' matches no file of the repository", option, pattern),
              guess.empty() ? fmt::format("It has {}.", some_of(paths)) : fmt::format("The nearest is '{}'.", guess));
}

bool matches_any(const Paths& patterns, const std::string& path) {
  return std::any_of(patterns.begin(), patterns.end(), [&](auto& pattern) { return matches(pattern, path); });
}

// Patterns, applied to what was chosen of `all`.
void apply_patterns(const Paths& all, const Wanted& wanted, Paths& chosen) {
  for (const std::string& pattern : wanted.include) require_match(chosen, pattern, "--include");
  for (const std::string& pattern : wanted.exclude) require_match(all, pattern, "--exclude");
  chosen = those(chosen, [&](const std::string& path) {
    return (wanted.include.empty() || matches_any(wanted.include, path)) && !matches_any(wanted.exclude, path);
  });
  if (chosen.empty()) throw Error("--exclude leaves no file to fetch", "Exclude less.");
}

void require_files(const Paths& paths) {
  if (paths.empty()) throw Error("the repository has no files", "Check its name and --revision.");
}

// ---- models

// Forms of weights, by how a file's name ends; the index of pieces ends so too, before ".index.json".
constexpr std::array<std::string_view, 18> kWeightEndings = {
    ".safetensors", ".bin",  ".pt",     ".pth",     ".ckpt", ".h5",  ".msgpack", ".ot",        ".onnx",
    ".onnx_data",   ".gguf", ".tflite", ".mlmodel", ".npz",  ".pkl", ".pickle",  ".llamafile", ".engine"};

// The one form of the weights that is fetched; `top`: the weights that lie at the repository's top.
Paths weights_of(const Paths& top, Paths& notes) {
  if (contains(top, "model.safetensors")) return {"model.safetensors"};
  if (contains(top, "model.safetensors.index.json")) {
    return those(top, [](const std::string& path) {
      return path == "model.safetensors.index.json" || matches("model-*-of-*.safetensors", path);
    });
  }
  Paths others = those(top, [](const std::string& path) { return path.ends_with(".safetensors"); });
  if (!others.empty()) return others;
  Paths pickles = those(top, [](const std::string& path) {
    return matches("pytorch_model*.bin", path) || path == "pytorch_model.bin.index.json";
  });
  if (!pickles.empty()) {
    notes.emplace_back(
        "the weights are PyTorch's pickles, which Ridgeline does not read: `ridgeline train` with this folder as "
        "train.init_from says how to convert them once");
  } else if (!top.empty()) {
    notes.push_back(fmt::format("no weights are fetched: there are only {}; --include fetches them", some_of(top)));
  }
  return pickles;
}

// ---- datasets

// "af.txt.gz", "af_part_2.txt.gz", "af-train.parquet", "af_sha256.txt" are files of "af"; "af_ZA.txt" is not.
bool file_is_of(std::string_view file, std::string_view name) {
  if (!file.starts_with(name)) return false;
  const std::string_view rest = file.substr(name.size());
  constexpr std::array<std::string_view, 5> kAfter = {".", "-", "_part_", "_sha256", "_meta"};
  return rest.empty() || std::any_of(kAfter.begin(), kAfter.end(), [&](auto after) { return rest.starts_with(after); });
}

// Whether folders of `path`, one after another, or such folders and then the file, spell `name`.
bool spells(const std::string& path, const std::string& name) {
  const Paths parts = components_of(path);
  for (size_t first = 0; first < parts.size(); ++first) {
    std::string text;
    for (size_t i = first; i + 1 < parts.size(); ++i) {
      text += (text.empty() ? "" : "_") + parts[i];
      if (text == name || text == name + "_meta") return true;
    }
    if (file_is_of((text.empty() ? "" : text + "_") + parts.back(), name)) return true;
  }
  return false;
}

struct OscarName {
  std::string_view begins;
  std::array<std::string_view, 2> folders;
};
constexpr std::array<OscarName, 4> kOscarNames = {{{"unshuffled_deduplicated_", {"deduplicated", "packaged"}},
                                                   {"unshuffled_original_", {"original", "packaged_nondedup"}},
                                                   {"deduplicated_", {"packaged", "deduplicated"}},
                                                   {"original_", {"packaged_nondedup", "original"}}}};

Paths oscar_files(const Paths& paths, const std::string& config) {
  for (const OscarName& form : kOscarNames) {
    if (!config.starts_with(form.begins)) continue;
    const std::string language = config.substr(form.begins.size());
    const Paths named = those(paths, [&](const std::string& path) { return spells(path, language); });
    for (const std::string_view folder : form.folders) {
      Paths found = those(named, [&](const std::string& path) { return contains(components_of(path), folder); });
      if (!found.empty()) return found;
    }
    std::set<std::string> places;
    for (const std::string& path : named) places.insert(path.substr(0, path.rfind('/') + 1));
    return places.size() == 1 ? named : Paths();
  }
  return {};
}

bool card_names(const std::string& pattern, const std::string& path) {
  return in_folders(pattern, path) || path.starts_with(pattern + "/");
}

// What the card says of `config` (empty: of all) and `split` (empty: of all).
Paths card_files(const Paths& paths, const std::vector<DataFiles>& card, const Wanted& wanted) {
  return those(paths, [&](const std::string& path) {
    return std::any_of(card.begin(), card.end(), [&](const DataFiles& files) {
      return (wanted.config.empty() || files.config == wanted.config) &&
             (wanted.split.empty() || files.split == wanted.split) &&
             std::any_of(files.patterns.begin(), files.patterns.end(),
                         [&](const std::string& pattern) { return card_names(pattern, path); });
    });
  });
}

bool has_word(const std::string& path, std::string_view word) {
  for (size_t at = path.find(word); at != std::string::npos; at = path.find(word, at + 1)) {
    const auto inside = [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    };
    const size_t end = at + word.size();
    if ((at == 0 || !inside(path[at - 1])) && (end == path.size() || !inside(path[end]))) return true;
  }
  return false;
}

Paths split_files(const Paths& files, const std::string& split) {
  Paths result = those(files, [&](const std::string& path) { return has_word(path, split); });
  if (!result.empty()) return result;
  constexpr std::array<std::string_view, 7> kSplits = {"train", "test", "validation", "valid", "val", "dev", "eval"};
  std::set<std::string> there;
  for (const std::string& path : files) {
    for (const std::string_view word : kSplits) {
      if (has_word(path, word)) there.insert(std::string(word));
    }
  }
  if (split == "train" && there.empty()) return files;
  throw Error(fmt::format("--split: no file is of '{}'", split),
              there.empty() ? "The files name no split: all of them are 'train'."
                            : fmt::format("There are {}.", fmt::join(there, ", ")));
}

Paths names_in(const std::vector<DataFiles>& card, std::string DataFiles::*member, const std::string& config) {
  std::set<std::string> names;
  for (const DataFiles& files : card) {
    if (config.empty() || files.config == config) names.insert(files.*member);
  }
  names.erase("");
  return {names.begin(), names.end()};
}

[[noreturn]] void refuse_config(const Paths& paths, const std::vector<DataFiles>& card, const std::string& config) {
  Paths names = names_in(card, &DataFiles::config, "");
  if (names.empty()) {
    std::set<std::string> folders;
    for (const std::string& path : paths) {
      std::string folder = path.substr(0, path.rfind('/') + 1);
      if (folder.empty()) continue;
      folder.pop_back();
      std::replace(folder.begin(), folder.end(), '/', '_');
      folders.insert(folder);
    }
    names = {folders.begin(), folders.end()};
  }
  const bool scripted = std::any_of(paths.begin(), paths.end(), [](auto& path) { return path.ends_with(".py"); });
  const std::string guess = nearest(config, names);
  throw Error(fmt::format("--config: no file of the repository is of configuration '{}'", config),
              !guess.empty()   ? fmt::format("Did you mean {}?", guess)
              : !names.empty() ? fmt::format("There are {}; --include takes patterns of paths.", some_of(names))
              : scripted
                  ? "Its loading script takes the data from elsewhere; `--revision refs/convert/parquet` may have "
                    "it as files."
                  : "--include takes patterns of paths.");
}

Paths config_files(const Paths& paths, const std::vector<DataFiles>& card, const Wanted& wanted) {
  const bool in_card = contains(names_in(card, &DataFiles::config, ""), wanted.config);
  if (in_card) {
    Paths found = card_files(paths, card, wanted);
    const Paths splits = names_in(card, &DataFiles::split, wanted.config);
    if (!found.empty() && (wanted.split.empty() || !splits.empty())) return found;
    if (found.empty() && !wanted.split.empty() && !splits.empty()) {
      throw Error(fmt::format("--split: configuration '{}' has no split '{}'", wanted.config, wanted.split),
                  fmt::format("It has {}.", some_of(splits)));
    }
    Wanted any = wanted;
    any.split.clear();
    found = card_files(paths, card, any);
    if (!found.empty()) return wanted.split.empty() ? found : split_files(found, wanted.split);
  }
  Paths found = those(paths, [&](const std::string& path) { return spells(path, wanted.config); });
  if (found.empty()) found = oscar_files(paths, wanted.config);
  if (found.empty()) refuse_config(paths, card, wanted.config);
  return wanted.split.empty() ? found : split_files(found, wanted.split);
}

Paths dataset_files(const Paths& paths, const std::vector<DataFiles>& card, const Wanted& wanted) {
  if (!wanted.config.empty()) return config_files(paths, card, wanted);
  if (!wanted.include.empty() && wanted.split.empty()) return paths;
  const Paths configs = names_in(card, &DataFiles::config, "");
  if (contains(configs, "default") && configs.size() > 1) {
    Wanted by_default = wanted;
    by_default.config = "default";
    return config_files(paths, card, by_default);
  }
  if (configs.size() > 1) {
    throw Error(fmt::format("the dataset has {} configurations", configs.size()),
                fmt::format("Choose one with --config: {}.", some_of(configs)));
  }
  if (wanted.split.empty()) return paths;
  const Paths found = card_files(paths, card, wanted);
  return found.empty() ? split_files(paths, wanted.split) : found;
}

}  // namespace

bool is_weights(std::string_view path) {
  constexpr std::string_view kIndex = ".index.json";
  if (path.ends_with(kIndex)) path.remove_suffix(kIndex.size());
  return std::any_of(kWeightEndings.begin(), kWeightEndings.end(),
                     [&](std::string_view ending) { return path.ends_with(ending); });
}

Selection select_model(const std::vector<std::string>& paths, const Wanted& wanted) {
  require_files(paths);
  Selection result;
  result.paths = paths;
  if (wanted.include.empty()) {
    const Paths top =
        those(paths, [](const std::string& path) { return path.find('/') == std::string::npos && is_weights(path); });
    const Paths weights = weights_of(top, result.notes);
    result.paths = those(paths, [&](const std::string& path) {
      return path.find('/') == std::string::npos && (!is_weights(path) || contains(weights, path));
    });
    result.left_out = those(paths, [&](const std::string& path) { return !contains(result.paths, path); });
    if (result.paths.empty()) {
      throw Error("the repository has no file of a model at its top",
                  fmt::format("It has {}; --include takes patterns.", some_of(paths)));
    }
  }
  apply_patterns(paths, wanted, result.paths);
  return result;
}

Selection select_dataset(const std::vector<std::string>& paths, const std::vector<DataFiles>& card,
                         const Wanted& wanted) {
  require_files(paths);
  Selection result;
  result.paths = dataset_files(paths, card, wanted);
  apply_patterns(paths, wanted, result.paths);
  return result;
}

}  // namespace ridgeline::hub
