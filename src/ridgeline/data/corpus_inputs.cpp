#include "ridgeline/data/corpus_inputs.h"

#include <fmt/format.h>
#include <glob.h>
#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <optional>
#include <system_error>
#include <utility>

#include "ridgeline/base/count.h"
#include "ridgeline/base/error.h"
#include "ridgeline/base/output.h"
#include "ridgeline/data/dataset_output.h"
#include "ridgeline/data/file_kind.h"

namespace ridgeline::data {
namespace {

namespace fs = std::filesystem;

bool has_packed_name(const fs::path& path) {
  const fs::path ending = path.extension();
  return ending == ".gz" || ending == ".zst" || ending == ".xz";
}

bool is_json_name(const fs::path& plain) {
  const fs::path ending = plain.extension();
  return ending == ".jsonl" || ending == ".ndjson" || ending == ".json";
}

// Whether the first line with something in it is a JSON object, or the start of one.
bool begins_with_object(std::string_view text) {
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  const auto skip_space = [&] { text.remove_prefix(std::min(text.find_first_not_of(" \t\r\n"), text.size())); };
  skip_space();
  if (!text.starts_with('{')) return false;
  text.remove_prefix(1);
  skip_space();
  return text.starts_with('"') || text.starts_with('}');
}

// OSCAR 21.09 has the metadata of its .txt files beside them, in JSON lines without text.
bool is_metadata_alone(std::string_view text) {
  const std::string_view line = text.substr(0, text.find('\n'));
  const auto has = [&](std::string_view key) { return line.find(key) != std::string_view::npos; };
  return begins_with_object(line) && has("\"nb_sentences\"") && has("\"offset\"") && !has("\"content\"");
}

// Empty when the name is that of neither; what has no name is known by its first line.
std::optional<RecordFormat> format_of(std::string_view text, const fs::path& plain) {
  if (is_json_name(plain)) return RecordFormat::json_lines;
  if (plain.extension() == ".txt") return RecordFormat::text;
  if (plain.has_extension()) return std::nullopt;
  return begins_with_object(text) ? RecordFormat::json_lines : RecordFormat::text;
}

void require_text(std::string_view text, const CorpusFile& file, const fs::path& plain, bool json) {
  if (file.compression == Compression::none) {
    require_documents(text, file.path, json);
    return;
  }
  try {
    require_documents(text, plain, json);
  } catch (const Error& error) {
    throw Error(fmt::format("in '{}', unpacked: {}", file.name, error.message()),
                fmt::format("Unpack it first. {}", error.next_step()));
  }
}

// Looks at the start of `source`, which is decompressed from then on, and still begins there; returns that start.
std::string look_at(CorpusFile& file, std::unique_ptr<ByteSource>& source) {
  std::string text = look_ahead(source, kKindBytes);
  file.compression = compression_of(text);
  if (file.compression != Compression::none) {
    source = decompress(file.compression, std::move(source), file.name);
    text = look_ahead(source, kKindBytes);
  } else if (has_packed_name(file.path)) {
    throw Error(fmt::format("'{}' is not compressed, whatever its name says", file.name),
                "Get it again if it is empty or a page with an error; rename it if it is the text.");
  }
  // What a file is, is said before what it is called. A wrong name is an error too: it decides where documents end.
  const fs::path plain = unpacked_name(file.path);
  const std::optional<RecordFormat> format = format_of(text, plain);
  require_text(text, file, plain, format == RecordFormat::json_lines);
  if (!format) {
    throw Error(fmt::format("'{}': documents are read from .txt and .jsonl files, not from '{}'", file.name,
                            plain.extension().string()),
                "Rename it: .txt has blank lines between documents, .jsonl one object per line; .gz, .zst or .xz may "
                "follow.");
  }
  file.format = *format;
  return text;
}

int64_t ticks_of(fs::file_time_type time) {
  return time.time_since_epoch().count();
}

CorpusFile look_at_file(const fs::path& path, std::string& start) {
  CorpusFile file{path, path.string()};
  if (fs::exists(path) && !fs::is_regular_file(path)) {
    throw Error(fmt::format("'{}' is not a regular file", path.string()),
                fmt::format("Standard input may be a pipe: name it - and redirect it, < {}", path.string()));
  }
  std::unique_ptr<ByteSource> source = read_file(path);
  file.bytes = static_cast<int64_t>(fs::file_size(path));
  file.modified = ticks_of(fs::last_write_time(path));
  start = look_at(file, source);
  return file;
}

void add_file(const fs::path& path, CorpusInputs& inputs) {
  std::string start;
  CorpusFile file = look_at_file(path, start);
  if (is_metadata_alone(start)) {
    throw Error(fmt::format("'{}' has the metadata of OSCAR 21.09, without its text", file.name),
                "The text stands in the .txt files beside it: name those, or their folder.");
  }
  inputs.files.push_back(std::move(file));
}

void add_standard_input(CorpusInputs& inputs) {
  if (inputs.standard_input) throw Error("standard input (-) is named twice", "Name it once: it can be read once.");
  CorpusFile file{kStandardInput, "standard input"};
  inputs.standard_input = read_standard_input();
  look_at(file, inputs.standard_input);
  inputs.files.push_back(std::move(file));
}

// Why a file in a folder is none of a corpus, "" when it is.
std::string why_not(const fs::path& path) {
  const std::string name = path.filename().string();
  const fs::path plain = unpacked_name(path);
  if (name.starts_with('.')) return "hidden";
  if (!fs::is_regular_file(path)) return "not a regular file";
  if (!is_json_name(plain) && plain.extension() != ".txt") return "not called .txt or .jsonl";
  if (name.ends_with("_sha256.txt")) return "checksums";
  if (path.extension() == ".json" && is_dataset_note(start_of(path))) return "the note of a token dataset";
  return "";
}

// Files below a folder, sorted. What is hidden, and links to folders, are not gone into.
std::vector<fs::path> files_below(const fs::path& folder, CorpusInputs& inputs) {
  std::vector<fs::path> found;
  for (auto entry = fs::recursive_directory_iterator(folder); entry != fs::recursive_directory_iterator(); ++entry) {
    if (!entry->is_directory()) {
      found.push_back(entry->path());
    } else if (entry->is_symlink() || entry->path().filename().string().starts_with('.')) {
      entry.disable_recursion_pending();
      inputs.passed_over.push_back(
          fmt::format("{} ({})", entry->path().string(), entry->is_symlink() ? "a link to a folder" : "hidden"));
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

void add_folder(const fs::path& folder, CorpusInputs& inputs) {
  const size_t before = inputs.files.size();
  const std::vector<fs::path> found = files_below(folder, inputs);
  for (const fs::path& path : found) {
    std::string reason = why_not(path), start;
    if (reason.empty()) {
      CorpusFile file = look_at_file(path, start);
      if (!is_metadata_alone(start)) {
        inputs.files.push_back(std::move(file));
        continue;
      }
      reason = "OSCAR's metadata, without text";
    }
    inputs.passed_over.push_back(fmt::format("{} ({})", path.string(), reason));
  }
  if (inputs.files.size() > before) return;
  throw Error(fmt::format("'{}' is a folder with {}, and none is a corpus", folder.string(),
                          format_counted(std::ssize(found), "file")),
              "A corpus is called .txt or .jsonl; .gz, .zst or .xz may follow.");
}

void add_path(const fs::path& path, CorpusInputs& inputs) {
  if (fs::is_directory(path)) {
    add_folder(path, inputs);
  } else {
    add_file(path, inputs);
  }
}

}  // namespace

bool is_pattern(const fs::path& path) {
  std::error_code unknown;  // too long for a file's name, too
  return path.string().find_first_of("*?[") != std::string::npos && !fs::exists(path, unknown);
}

std::vector<fs::path> files_matching(const std::string& pattern) {
  glob_t found{};
  const int code = ::glob(pattern.c_str(), GLOB_NOSORT | GLOB_ERR, nullptr, &found);
  std::vector<fs::path> paths(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  ::globfree(&found);
  if (code != 0 && code != GLOB_NOMATCH)
    throw Error(fmt::format("cannot look for '{}'", pattern), "Are all its folders readable?");
  std::sort(paths.begin(), paths.end());
  return paths;
}

void refuse_pattern(const fs::path& pattern) {
  throw Error(fmt::format("no file matches '{}'", pattern.string()), "See what there is with ls.");
}

fs::path unpacked_name(fs::path path) {
  return has_packed_name(path) ? path.replace_extension() : path;
}

std::vector<fs::path> CorpusInputs::paths() const {
  std::vector<fs::path> result;
  for (const CorpusFile& file : files) result.push_back(file.path);
  return result;
}

std::vector<std::string> repeated_files(std::span<const fs::path> files) {
  std::map<std::pair<dev_t, ino_t>, const fs::path*> first;
  std::vector<std::string> repeated;
  for (const fs::path& file : files) {
    struct stat found {};
    if (file == kStandardInput || ::stat(file.c_str(), &found) != 0) continue;
    const auto [known, is_new] = first.try_emplace({found.st_dev, found.st_ino}, &file);
    if (!is_new) repeated.push_back(fmt::format("{} ({})", file.string(), known->second->string()));
  }
  return repeated;
}

CorpusInputs look_at_inputs(std::span<const fs::path> named) {
  if (named.empty()) throw Error("no input files", "Name one or more .txt or .jsonl files, or their folder.");
  CorpusInputs inputs;
  try {
    for (const fs::path& path : named) {
      if (path == kStandardInput) {
        add_standard_input(inputs);
      } else if (is_pattern(path)) {
        const std::vector<fs::path> matches = files_matching(path.string());
        if (matches.empty()) refuse_pattern(path);
        for (const fs::path& match : matches) add_path(match, inputs);
      } else {
        add_path(path, inputs);
      }
    }
  } catch (const fs::filesystem_error& error) {
    throw system_error(fmt::format("cannot look at '{}'", error.path1().string()), error.code().value());
  }
  inputs.repeated = repeated_files(inputs.paths());
  return inputs;
}

void require_unchanged(const CorpusFile& file) {
  if (file.path == kStandardInput) return;
  std::error_code code;
  const auto bytes = static_cast<int64_t>(fs::file_size(file.path, code));
  const fs::file_time_type modified = code ? fs::file_time_type() : fs::last_write_time(file.path, code);
  if (!code && bytes == file.bytes && ticks_of(modified) == file.modified) return;
  throw Error(fmt::format("'{}' was changed while it was read: {}", file.name,
                          code                  ? "it is not there any more"
                          : bytes == file.bytes ? "it was written to"
                                                : fmt::format("it had {} bytes, and has {}", file.bytes, bytes)),
              "Start again when nobody writes to the inputs any more; --fresh removes what was made of them before.");
}

}  // namespace ridgeline::data
