#include "ridgeline/checkpoint/lineage.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "ridgeline/base/error.h"
#include "ridgeline/base/json.h"

namespace ridgeline::checkpoint {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kLineageFormat = "ridgeline lineage";
constexpr std::string_view kAside = "branch_";

bool same_folder(const fs::path& a, const fs::path& b) {
  std::error_code code;
  return fs::equivalent(a, b, code) && !code;
}

// `folder` without a slash behind it, absolute.
fs::path plain(const fs::path& folder) {
  const fs::path absolute = fs::absolute(folder).lexically_normal();
  return absolute.has_filename() ? absolute : absolute.parent_path();
}

// Relative where `folder` lies in `parent`, so that a run's folder can be moved.
fs::path within(const fs::path& parent, const fs::path& folder) {
  const fs::path relative = folder.lexically_relative(plain(parent));
  return relative.empty() || *relative.begin() == ".." ? folder : relative;
}

// Of the folder of a branch; none for any other name.
std::optional<int64_t> number_of(const fs::path& folder) {
  const std::string name = folder.filename().string();
  if (!name.starts_with(kAside)) return {};
  int64_t number = 0;
  const char* const end = name.data() + name.size();
  const auto [last, error] = std::from_chars(name.data() + kAside.size(), end, number);
  if (error != std::errc{} || last != end || number < 0) return {};
  return number;
}

void write_lineage(const fs::path& parent, const Lineage& lineage) {
  make_folder(parent);
  write_atomically(parent / kLineageName, to_text(lineage));
}

std::vector<CheckpointEntry> of_run(const fs::path& parent, const Lineage& lineage) {
  std::vector<CheckpointEntry> entries = list_checkpoints(parent);
  std::erase_if(entries, [&](const CheckpointEntry& entry) {
    return std::find(lineage.moving.begin(), lineage.moving.end(), entry.step) != lineage.moving.end();
  });
  return entries;
}

}  // namespace

std::string to_text(const Lineage& lineage) {
  json document;
  document["format"] = kLineageFormat;
  document["branch"] = lineage.branch;
  if (lineage.from_step) document["from"] = {{"step", *lineage.from_step}, {"checkpoint", lineage.from.string()}};
  if (!lineage.moving.empty()) document["moving"] = {{"to", lineage.aside}, {"steps", lineage.moving}};
  return json_text(document, 1) + "\n";
}

Lineage parse_lineage(std::string_view text, std::string_view file) try {
  const json document = parse_json(text);
  if (document.at("format") != kLineageFormat) throw Error("it belongs to another program");
  Lineage lineage;
  lineage.branch = document.at("branch").get<int64_t>();
  if (document.contains("from")) {
    lineage.from_step = document.at("from").at("step").get<int64_t>();
    lineage.from = document.at("from").at("checkpoint").get<std::string>();
  }
  if (document.contains("moving")) {
    lineage.aside = document.at("moving").at("to").get<std::string>();
    lineage.moving = document.at("moving").at("steps").get<std::vector<int64_t>>();
    const std::string& name = lineage.aside;
    if (!name.starts_with(kAside) || name.find('/') != std::string::npos)
      throw Error(fmt::format("it moves checkpoints to '{}'", name));
  }
  return lineage;
} catch (const std::exception& error) {
  throw Error(
      fmt::format("'{}' does not say on which branch the run is: {}", file, error.what()),
      "Remove it: the checkpoint of the highest step beside it is then the run's newest. Or name a checkpoint.");
}

Lineage read_lineage(const fs::path& parent) {
  const fs::path path = parent / kLineageName;
  std::error_code code;
  if (!fs::exists(path, code)) return {};
  return parse_lineage(read_text(path), path.string());
}

std::vector<CheckpointEntry> run_checkpoints(const fs::path& parent) {
  return of_run(parent, read_lineage(parent));
}

std::optional<CheckpointEntry> newest(const fs::path& parent) {
  const Lineage lineage = read_lineage(parent);
  const std::vector<CheckpointEntry> entries = of_run(parent, lineage);
  if (!entries.empty()) return entries.back();
  if (!lineage.from_step) return std::nullopt;
  return CheckpointEntry{*lineage.from_step, parent / lineage.from};  // an absolute path stays what it is
}

std::vector<fs::path> branches_aside(const fs::path& parent) {
  std::vector<fs::path> folders;
  std::error_code code;
  for (const fs::directory_entry& entry : fs::directory_iterator(parent, code)) {
    if (number_of(entry.path())) folders.push_back(entry.path());
  }
  std::sort(folders.begin(), folders.end(),
            [](const fs::path& a, const fs::path& b) { return *number_of(a) < *number_of(b); });
  return folders;
}

std::optional<fs::path> checkpoint_of(const fs::path& path) {
  if (fs::exists(path / kManifestName)) return path;
  for (const fs::path& parent : {path / "checkpoints", path}) {
    if (const std::optional<CheckpointEntry> entry = newest(parent)) return entry->folder;
  }
  return std::nullopt;
}

std::optional<Branch> plan_branch(const fs::path& parent, const fs::path& from) {
  const std::optional<CheckpointEntry> now = newest(parent);
  const fs::path chosen = plain(from);
  if (now && same_folder(now->folder, chosen)) return std::nullopt;
  const Lineage before = read_lineage(parent);
  std::vector<CheckpointEntry> entries = of_run(parent, before);
  const auto own = std::find_if(entries.begin(), entries.end(),
                                [&](const CheckpointEntry& entry) { return same_folder(entry.folder, chosen); });
  Branch branch;
  if (own == entries.end()) {
    const fs::path manifest = chosen / kManifestName;
    branch.lineage.from = within(parent, chosen);
    branch.lineage.from_step = parse_manifest(read_text(manifest), manifest.string()).step;
    branch.leaving = std::move(entries);
  } else {
    branch.lineage.from = chosen.filename();
    branch.lineage.from_step = own->step;
    branch.leaving.assign(own + 1, entries.end());
  }
  int64_t number = before.branch;
  // Should the record of them be lost.
  for (const fs::path& left : branches_aside(parent)) number = std::max(number, *number_of(left) + 1);
  branch.lineage.branch = now ? number + 1 : number;
  if (branch.leaving.empty()) return branch;
  branch.lineage.aside = fmt::format("{}{}", kAside, number);
  branch.aside = parent / branch.lineage.aside;
  for (const CheckpointEntry& entry : branch.leaving) branch.lineage.moving.push_back(entry.step);
  return branch;
}

void begin_branch(const fs::path& parent, const Branch& branch) {
  write_lineage(parent, branch.lineage);
  finish_branch(parent);
}

void finish_branch(const fs::path& parent) {
  Lineage lineage = read_lineage(parent);
  if (lineage.moving.empty()) return;
  const fs::path aside = parent / lineage.aside;
  make_folder(aside);
  for (const int64_t step : lineage.moving) {
    const fs::path folder = parent / folder_name(step);
    if (fs::exists(folder)) rename_durably(folder, aside / folder.filename());
  }
  lineage.moving.clear();
  lineage.aside.clear();
  write_lineage(parent, lineage);
}

}  // namespace ridgeline::checkpoint
