#include "ridgeline/data/tokenizer_output.h"

#include <fmt/format.h>

#include <string>
#include <string_view>

#include "ridgeline/base/output.h"
#include "ridgeline/data/tokenizer_files.h"

namespace ridgeline::data {
namespace {

namespace fs = std::filesystem;

// Hugging Face's tools write every member on lines of its own.
bool is_own(std::string_view start) {
  return start.starts_with(
             "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [\n") &&
         start.find("\n  \"normalizer\": null,\n  \"pre_tokenizer\": {\"type\":\"ByteLevel\",") !=
             std::string_view::npos;
}

}  // namespace

void require_replaceable_tokenizer(const fs::path& folder, std::span<const fs::path> inputs) {
  if (!fs::is_directory(folder)) return;
  const bool own = is_own(start_of(folder / "tokenizer.json"));
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (!TokenizerFiles::is_one(entry.path().filename().string())) continue;
    require_replaceable(entry.path(), fmt::format("--out {}", folder.string()), inputs,
                        [&](std::string_view) { return own; });
  }
}

}  // namespace ridgeline::data
