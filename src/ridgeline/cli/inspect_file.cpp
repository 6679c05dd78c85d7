#include "ridgeline/cli/inspect_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/base/json.h"
#include "ridgeline/base/output.h"
#include "ridgeline/checkpoint/manifest.h"
#include "ridgeline/checkpoint/safetensors.h"
#include "ridgeline/data/corpus_inputs.h"
#include "ridgeline/data/file_kind.h"
#include "ridgeline/data/token_file.h"
#include "ridgeline/data/tokenizer.h"
#include "ridgeline/observe/format.h"

namespace ridgeline::cli {
namespace {

namespace fs = std::filesystem;
using data::FileKind;

void print_kind(const fs::path& path, const std::string& what) {
  fmt::print("{}: {}, {}\n", path.string(), what,
             observe::format_counted(static_cast<int64_t>(fs::file_size(path)), "byte"));
}

void print_weights(const fs::path& path) {
  const checkpoint::SafetensorsFile file(path);
  int64_t elements = 0;
  std::map<std::string, int64_t> types;
  for (const checkpoint::FileTensor& tensor : file.tensors()) {
    elements += tensor.count;
    ++types[tensor.type];
  }
  print_kind(path, "weights in a safetensors file");
  fmt::print("  tensors     {} with {}\n", file.tensors().size(), observe::format_counted(elements, "element"));
  for (const auto& [type, count] : types)
    fmt::print("  type        {}: {}\n", type, observe::format_counted(count, "tensor"));
  fmt::print("  A model is inspected by its folder: ridgeline inspect {}\n",
             path.parent_path().empty() ? "." : path.parent_path().string());
}

void print_tokenizer(const fs::path& path) {
  const data::Tokenizer tokenizer = data::Tokenizer::load(path);
  fmt::print("{}: a tokenizer (BPE)\n", path.string());
  fmt::print("  vocabulary  {} (model.vocab at least this)\n", tokenizer.vocab_size());
  if (const auto end = tokenizer.end_of_document())
    fmt::print("  end of document  '{}', id {}\n", tokenizer.token_bytes(*end), *end);
  fmt::print("  hash        {}\n", tokenizer.hash());
}

// JSON files that tools write as one object. False when it is none of those.
bool print_json(const fs::path& path) {
  const nlohmann::json object = parse_json_if_any(read_text(path));
  if (!object.is_object()) return false;
  if (object.contains("model") && object.contains("added_tokens")) {
    print_tokenizer(path);
  } else if (object.contains("tokenizer_hash") && object.contains("end_of_document")) {
    fs::path prefix = path;
    prefix.replace_extension();
    print_kind(path, "the note of a token dataset");
    fmt::print("  The dataset: ridgeline inspect {}\n", prefix.string());
  } else {
    return false;
  }
  return true;
}

void print_tokens(const fs::path& path, const data::TokenFile& tokens) {
  print_kind(path, tokens.kind);
  fmt::print("  tokens      {} of {} bytes, from byte {} on\n  largest id  {} among the first {}\n",
             observe::format_integer(tokens.count), tokens.item_bytes, tokens.begin, tokens.largest,
             observe::format_integer(tokens.examined));
  if (!tokens.problem.empty()) fmt::print("  problem     {}\n", tokens.problem);
  fmt::print("  {}\n", tokens.next);
}

bool print_file(const fs::path& path) {
  const std::string start = start_of(path);
  const FileKind kind = data::kind_of(start, path);
  if (const auto tokens = data::token_file(start, static_cast<int64_t>(fs::file_size(path)), path)) {
    print_tokens(path, *tokens);
    return true;
  }
  if (kind.family == FileKind::Family::model && kind.name.find("safetensors") != std::string::npos) {
    print_weights(path);
    return true;
  }
  if (start.starts_with('{') && path.extension() == ".json" && print_json(path)) return true;
  print_kind(path, kind.name);
  if (kind.family == FileKind::Family::text) {
    fmt::print(
        "  `ridgeline prepare` makes a token dataset of text files called .txt (blank lines between documents) or "
        ".jsonl (an object per line).\n");
  } else if (!kind.way_out.empty()) {
    fmt::print("  {}\n", kind.way_out);
  }
  return true;
}

bool print_folder(const fs::path& folder) {
  if (fs::exists(folder / "tokenizer.json") || fs::exists(folder / "vocab.json") ||
      fs::exists(folder / "tokenizer.model")) {
    print_tokenizer(folder);
    return true;
  }
  std::vector<std::string> datasets, texts;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const fs::path extension = entry.path().extension();
    fs::path prefix = entry.path();
    if (extension == ".idx") datasets.push_back(prefix.replace_extension().string());
    const fs::path text = data::unpacked_name(entry.path()).extension();
    if (text == ".txt" || text == ".jsonl") texts.push_back(entry.path().string());
  }
  if (datasets.empty() && texts.empty()) return false;
  std::sort(datasets.begin(), datasets.end());
  std::sort(texts.begin(), texts.end());
  fmt::print("{}: a folder with {} and {}\n", folder.string(),
             observe::format_counted(std::ssize(datasets), "token dataset"),
             observe::format_counted(std::ssize(texts), "text file"));
  for (const std::string& dataset : datasets) fmt::print("  ridgeline inspect {}\n", dataset);
  for (const std::string& text : texts) fmt::print("  {}\n", text);
  return true;
}

}  // namespace

fs::path owner_of(const fs::path& path) {
  const std::string name = path.filename().string();
  if (!fs::is_regular_file(path)) return path;
  for (const char* part : {checkpoint::kManifestName, "config.json", "model.safetensors.index.json"}) {
    if (name == part) return path.has_parent_path() ? path.parent_path() : fs::path(".");
  }
  return path;
}

bool inspect_file(const fs::path& path) {
  if (fs::is_regular_file(path)) return print_file(path);
  return fs::is_directory(path) && print_folder(path);
}

}  // namespace ridgeline::cli
