#include "ridgeline/data/dataset_output.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string>
#include <system_error>

#include "ridgeline/base/error.h"
#include "ridgeline/base/json.h"
#include "ridgeline/base/output.h"
#include "ridgeline/data/dataset_writer.h"

namespace ridgeline::data {

namespace fs = std::filesystem;

fs::path dataset_prefix(const fs::path& path) {
  const fs::path extension = path.extension();
  if (extension != ".bin" && extension != ".idx") return path;
  fs::path prefix = path;
  return prefix.replace_extension();
}

bool is_of_dataset(const fs::path& path, const fs::path& prefix) {
  std::error_code code;
  const auto plain = [&](const fs::path& any) { return fs::weakly_canonical(fs::absolute(any, code), code); };
  const fs::path asked = plain(path);
  constexpr std::array kSuffixes = {".bin", ".idx", ".json", ".lock", ".partial"};
  return std::any_of(kSuffixes.begin(), kSuffixes.end(), [&](const char* suffix) {
    const fs::path own = with_suffix(prefix, suffix);
    return same_file(path, own) || (!asked.empty() && asked == plain(own));
  });
}

bool is_dataset_note(std::string_view start) {
  auto note = parse_json_if_any(start);
  // Of some hundred gigabytes of tokens the start ends among their checksums, behind all else.
  const size_t checksums = start.find(fmt::format("\"{}\"", kNoteChecksums));
  if (note.is_discarded() && checksums != std::string_view::npos)
    note = parse_json_if_any(fmt::format("{}\"\": 0}}", start.substr(0, checksums)));
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
  const std::string option = fmt::format("--out {}", prefix.string());
  // The note first: what it names is what a mistake usually meets (the corpus web.json of --out web).
  require_replaceable(with_suffix(prefix, ".json"), option, inputs, is_dataset_note);
  const bool noted = is_dataset_note(start_of(with_suffix(prefix, ".json")));
  for (const char* suffix : {".bin", ".idx"})
    require_replaceable(with_suffix(prefix, suffix), option, inputs, [&](std::string_view) { return noted; });
}

}  // namespace ridgeline::data
