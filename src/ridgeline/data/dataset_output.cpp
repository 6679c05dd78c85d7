#include "ridgeline/data/dataset_output.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string>

#include "ridgeline/base/error.h"
#include "ridgeline/base/json.h"
#include "ridgeline/base/output.h"

namespace ridgeline::data {

namespace fs = std::filesystem;

fs::path dataset_prefix(const fs::path& path) {
  const fs::path extension = path.extension();
  if (extension != ".bin" && extension != ".idx") return path;
  fs::path prefix = path;
  return prefix.replace_extension();
}

bool is_dataset_note(std::string_view start) {
  const auto note = parse_json_if_any(start);
  if (!note.is_object()) return false;
  constexpr std::array kMembers = {"tokens", "documents", "vocabulary", "end_of_document", "tokenizer_hash"};
  return std::all_of(kMembers.begin(), kMembers.end(), [&](const char* key) { return note.contains(key); });
}

void require_replaceable_dataset(const fs::path& out, std::span<const fs::path> inputs) {
  const fs::path name = out.filename();
  if (name.empty() || name == "." || name == "..") {
    throw Error(fmt::format("--out {}: this names a folder", out.string()),
                fmt::format("Name the files in it, without their endings: --out {}", (out / "text").string()));
  }
  const fs::path prefix = dataset_prefix(out);
  const auto with = [&](const char* suffix) {
    fs::path path = prefix;
    path += suffix;
    return path;
  };
  const std::string option = fmt::format("--out {}", prefix.string());
  // The note first: what it names is what a mistake usually meets (the corpus web.json of --out web).
  require_replaceable(with(".json"), option, inputs, is_dataset_note);
  const bool noted = is_dataset_note(start_of(with(".json")));
  for (const char* suffix : {".bin", ".idx"})
    require_replaceable(with(suffix), option, inputs, [&](std::string_view) { return noted; });
}

}  // namespace ridgeline::data
