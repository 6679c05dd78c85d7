// Launch scripts of the kind that people have, in scripts/, with what they name.
#pragma once

#include <algorithm>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/migrate/migration.h"

namespace ridgeline::migrate {

inline Source script_file(const std::string& name) {
  return {name, read_text(std::filesystem::path(RIDGELINE_SCRIPTS) / name)};
}

// A launch script and the files that it names, as the program finds them.
inline std::vector<Source> script_with_files(const std::string& name) {
  std::vector<Source> sources = {script_file(name)};
  for (const std::string& file : named_files(sources.front())) {
    if (std::filesystem::exists(std::filesystem::path(RIDGELINE_SCRIPTS) / file)) sources.push_back(script_file(file));
  }
  return sources;
}

// The text with every `from` replaced, which must be there.
inline void edit(std::vector<Source>& sources, const std::string& name, const std::string& from,
                 const std::string& to) {
  const auto source = std::find_if(sources.begin(), sources.end(), [&](const Source& s) { return s.name == name; });
  RL_REQUIRE(source != sources.end() && source->text.find(from) != std::string::npos, "no '{}' in {}", from, name);
  for (size_t at = 0; (at = source->text.find(from, at)) != std::string::npos; at += to.size())
    source->text.replace(at, from.size(), to);
}

// The item of that section that holds the words; "" for none.
inline std::string item_with(const Migration& migration, Section section, std::string_view words) {
  for (const Item& item : migration.items) {
    if (item.section == section && item.text.find(words) != std::string::npos) return item.text;
  }
  return "";
}

}  // namespace ridgeline::migrate
