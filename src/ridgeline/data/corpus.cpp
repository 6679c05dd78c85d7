#include "ridgeline/data/corpus.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <cstring>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/data/corpus_problems.h"
#include "ridgeline/data/file_kind.h"
#include "ridgeline/data/unicode.h"

namespace ridgeline::data {
namespace {

namespace fs = std::filesystem;

bool is_blank(std::string_view line) {
  while (!line.empty()) {
    const Utf8Char character = decode_utf8(line);
    if (character.status != Utf8Char::Status::valid || !is_python_space(character.code)) return false;
    line.remove_prefix(character.length);
  }
  return true;
}

class TextDocuments final : public DocumentSource {
 public:
  TextDocuments(std::string_view bytes, std::string name, const CorpusOptions& options)
      : bytes_(bytes), problems_(std::move(name), options.strict) {}

  bool next(std::string& text, CorpusCounts& counts) override {
    size_t begin = 0, end = 0;
    int64_t first_line = 0;
    bool carriage_returns = false;
    while (position_ < bytes_.size()) {
      const Line line = next_line();
      if (is_blank(bytes_.substr(line.begin, line.end - line.begin))) {
        if (first_line != 0) break;
        continue;
      }
      if (first_line == 0) {
        begin = line.begin;
        first_line = line_;
      }
      end = line.end;
      carriage_returns |= line.ends_in_carriage_return;
    }
    if (first_line == 0) return false;
    append(bytes_.substr(begin, end - begin), carriage_returns, first_line, text, counts);
    return true;
  }

  int64_t position() const override { return static_cast<int64_t>(position_); }

 private:
  struct Line {
    size_t begin, end;
    bool ends_in_carriage_return;
  };

  // Universal newlines. The next \n is remembered, so that files with only \r are not searched once per line.
  Line next_line() {
    const auto find = [&](char c, size_t from, size_t to) {
      const void* found = std::memchr(bytes_.data() + from, c, to - from);
      return found == nullptr ? to : static_cast<size_t>(static_cast<const char*>(found) - bytes_.data());
    };
    ++line_;
    const size_t begin = position_;
    if (line_feed_ < begin || line_ == 1) line_feed_ = find('\n', begin, bytes_.size());
    const size_t end = find('\r', begin, line_feed_);
    if (end == line_feed_) {
      position_ = std::min(end + 1, bytes_.size());
      return {begin, end, false};
    }
    position_ = end + (end + 1 < bytes_.size() && bytes_[end + 1] == '\n' ? 2 : 1);
    return {begin, end, true};
  }

  void append(std::string_view raw, bool carriage_returns, int64_t first_line, std::string& text,
              CorpusCounts& counts) {
    const size_t before = text.size();
    if (carriage_returns) {
      joined_.clear();
      for (size_t i = 0; i < raw.size(); ++i) {
        if (raw[i] == '\r') {
          joined_.push_back('\n');
          if (i + 1 < raw.size() && raw[i + 1] == '\n') ++i;
        } else {
          joined_.push_back(raw[i]);
        }
      }
      raw = joined_;
    }
    if (simdjson::validate_utf8(raw.data(), raw.size())) {
      text.append(raw);
    } else {
      const size_t bad = valid_utf8_prefix(raw);
      const int64_t line = first_line + std::count(raw.begin(), raw.begin() + static_cast<std::ptrdiff_t>(bad), '\n');
      problems_.report(line, fmt::format("byte 0x{:02x} is not UTF-8", static_cast<uint8_t>(raw[bad])), counts);
      counts.replaced += append_as_utf8(raw, text);
    }
    while (text.size() > before) {
      const Utf8Char last = decode_last_utf8(std::string_view(text).substr(before));
      if (!is_python_space(last.code)) break;
      text.erase(text.size() - last.length);
    }
    ++counts.documents;
    counts.text_bytes += static_cast<int64_t>(text.size() - before);
  }

  std::string_view bytes_;
  CorpusProblems problems_;
  std::string joined_;
  size_t position_ = 0, line_feed_ = 0;
  int64_t line_ = 0;  // number of the line last read, from 1
};

bool is_json_lines(const fs::path& path) {
  const fs::path extension = path.extension();
  return extension == ".jsonl" || extension == ".ndjson" || extension == ".json";
}

// What a file is, is said before what it is called. A wrong name is an error too: it decides where documents end.
void require_readable(std::string_view bytes, const fs::path& path) {
  require_documents(bytes.substr(0, kKindBytes), path, is_json_lines(path));
  if (is_json_lines(path) || path.extension() == ".txt") return;
  throw Error(fmt::format("'{}': documents are read from .txt and .jsonl files, not from '{}'", path.string(),
                          path.extension().string()),
              "Rename it: .txt has blank lines between documents, .jsonl one object per line.");
}

}  // namespace

std::unique_ptr<DocumentSource> read_text_documents(std::string_view bytes, std::string name,
                                                    const CorpusOptions& options) {
  return std::make_unique<TextDocuments>(bytes, std::move(name), options);
}

std::string other_keys(const CorpusOptions& options, const CorpusCounts& counts) {
  if (counts.other_keys.empty()) return "";
  std::vector<std::pair<int64_t, std::string>> keys;
  for (const auto& [key, lines] : counts.other_keys) keys.emplace_back(-lines, key);
  std::sort(keys.begin(), keys.end());
  if (keys.size() > 5) keys.resize(5);
  std::string text = fmt::format("Of the lines without text under '{}', these keys have some:", options.key);
  for (const auto& [lines, key] : keys)
    text += fmt::format("{} --key {} ({} lines)", text.back() == ':' ? "" : ",", key, -lines);
  return text + ". ";
}

struct CorpusReader::OpenFile {
  explicit OpenFile(const fs::path& path, const CorpusOptions& options)
      : file(path, MappedFile::Access::sequential),
        source(is_json_lines(path) ? read_json_lines(file.text(), path.string(), options)
                                   : read_text_documents(file.text(), path.string(), options)) {}
  MappedFile file;
  std::unique_ptr<DocumentSource> source;
};

CorpusReader::CorpusReader(std::vector<fs::path> inputs, CorpusOptions options)
    : inputs_(std::move(inputs)), options_(std::move(options)), markers_(options_.markers) {
  counts_.markers.resize(options_.markers.size());
  if (inputs_.empty()) throw Error("no input files", "Name one or more .txt or .jsonl files.");
  // All of them now: a wrong name should not show after an hour.
  for (const fs::path& path : inputs_) {
    if (fs::is_directory(path)) {
      throw Error(fmt::format("'{}' is a folder", path.string()),
                  fmt::format("Name its files: {}/*.txt", path.string()));
    }
    // A pipe would block here, and cannot be mapped.
    if (fs::exists(path) && !fs::is_regular_file(path)) {
      throw Error(fmt::format("'{}' is not a regular file", path.string()), "Write the text to a file first.");
    }
    const MappedFile file(path);
    require_readable(file.text(), path);
    bytes_total_ += static_cast<int64_t>(file.bytes().size());
  }
}

CorpusReader::~CorpusReader() = default;

bool CorpusReader::next(std::string& text) {
  while (true) {
    if (!file_) {
      if (next_input_ == inputs_.size()) return false;
      file_ = std::make_unique<OpenFile>(inputs_[next_input_++], options_);
    }
    const size_t before = text.size();
    if (file_->source->next(text, counts_)) {
      markers_.count(std::string_view(text).substr(before), counts_.markers);
      return true;
    }
    bytes_before_ += static_cast<int64_t>(file_->file.bytes().size());
    file_.reset();
  }
}

void CorpusReader::require_some() const {
  if (counts_.documents > 0) return;
  const std::string names = inputs_.size() == 1
                                ? fmt::format("'{}'", inputs_[0].string())
                                : fmt::format("'{}' and {} more", inputs_[0].string(), inputs_.size() - 1);
  const std::string first = counts_.problems.empty() ? "" : "; first problem: " + counts_.problems.front();
  const std::string keys = other_keys(options_, counts_);
  throw Error(
      fmt::format("no document in {} ({} bytes, {} lines skipped{})", names, bytes_total_, counts_.skipped_lines,
                  first),
      keys.empty() ? "A .txt file needs a line of text, a .jsonl file an object with the key that --key names." : keys);
}

int64_t CorpusReader::bytes_done() const {
  return bytes_before_ + (file_ ? file_->source->position() : 0);
}

}  // namespace ridgeline::data
