#include "ridgeline/data/corpus.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/data/unicode.h"

namespace ridgeline::data {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostProblems = 10;

// Counts a problem, or throws it when the corpus must be clean.
class Problems {
 public:
  Problems(std::string name, bool strict) : name_(std::move(name)), strict_(strict) {}

  void report(int64_t line, const std::string& what, CorpusCounts& counts) const {
    std::string text = fmt::format("{}:{}: {}", name_, line, what);
    if (strict_) {
      throw Error(std::move(text),
                  "Repair the file, or leave out --strict: then such places are counted and passed over.");
    }
    if (counts.problems.size() < kMostProblems) counts.problems.push_back(std::move(text));
  }

 private:
  std::string name_;
  bool strict_;
};

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
  Problems problems_;
  std::string joined_;
  size_t position_ = 0, line_feed_ = 0;
  int64_t line_ = 0;  // number of the line last read, from 1
};

class JsonLines final : public DocumentSource {
 public:
  JsonLines(std::string_view bytes, std::string name, const CorpusOptions& options)
      : bytes_(bytes), key_(options.key), problems_(std::move(name), options.strict) {
    if (bytes_.starts_with("\xEF\xBB\xBF")) position_ = 3;  // a byte order mark is no part of the first object
  }

  bool next(std::string& text, CorpusCounts& counts) override {
    while (position_ < bytes_.size()) {
      const size_t end = std::min(bytes_.find('\n', position_), bytes_.size());
      const std::string_view line = bytes_.substr(position_, end - position_);
      position_ = std::min(end + 1, bytes_.size());
      ++line_;
      if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
      const size_t before = text.size();
      const std::string problem = read_line(line, text, counts);
      if (!problem.empty()) {
        text.resize(before);
        ++counts.skipped_lines;
        problems_.report(line_, problem, counts);
      } else if (text.size() == before) {
        ++counts.empty_documents;
      } else {
        ++counts.documents;
        counts.text_bytes += static_cast<int64_t>(text.size() - before);
        return true;
      }
    }
    return false;
  }

  int64_t position() const override { return static_cast<int64_t>(position_); }

 private:
  // Appends the document of `line` to `text`; returns what is wrong with the line, or "".
  std::string read_line(std::string_view line, std::string& text, CorpusCounts& counts) {
    line_text_.assign(line);
    simdjson::error_code code = parse(text);
    if (code == simdjson::UTF8_ERROR) {
      line_text_.clear();
      replaced(append_as_utf8(line, line_text_), "bytes that are not UTF-8", counts);
      code = parse(text);
    }
    if (code == simdjson::STRING_ERROR) {
      if (const int64_t lone = replace_lone_surrogates(); lone > 0) {
        replaced(lone, "half of a surrogate pair", counts);
        code = parse(text);
      }
    }
    switch (code) {
      case simdjson::SUCCESS:
        return "";
      case simdjson::NO_SUCH_FIELD:
        return fmt::format("the object has no '{}'", key_);
      case simdjson::INCORRECT_TYPE:
        return fmt::format("not an object whose '{}' is a string", key_);
      default:
        return parse_slowly(text);
    }
  }

  void replaced(int64_t count, const char* what, CorpusCounts& counts) {
    if (count == 0) return;
    counts.replaced += count;
    problems_.report(line_, fmt::format("{} in the line", what), counts);
  }

  // Parses line_text_ and appends the value of the last member called key_, as Python's json.loads would choose.
  simdjson::error_code parse(std::string& text) {
    const size_t length = line_text_.size();
    line_text_.resize(length + simdjson::SIMDJSON_PADDING);
    simdjson::dom::element root;
    simdjson::error_code code = parser_.parse(line_text_.data(), length, false).get(root);
    line_text_.resize(length);
    simdjson::dom::object object;
    if (code == simdjson::SUCCESS) code = root.get(object);
    if (code != simdjson::SUCCESS) return code;
    std::optional<simdjson::dom::element> found;
    for (const auto field : object) {
      if (field.key == key_) found = field.value;
    }
    if (!found) return simdjson::NO_SUCH_FIELD;
    std::string_view value;
    code = found->get(value);
    if (code == simdjson::SUCCESS) text.append(value);
    return code;
  }

  // What the fast parser refuses may still be JSON (numbers of any size, depth of any measure): the last word is here.
  std::string parse_slowly(std::string& text) {
    try {
      const auto root = nlohmann::json::parse(line_text_);
      const auto found = root.is_object() ? root.find(key_) : root.end();
      if (!root.is_object() || (found != root.end() && !found->is_string())) {
        return fmt::format("not an object whose '{}' is a string", key_);
      }
      if (found == root.end()) return fmt::format("the object has no '{}'", key_);
      text.append(found->get_ref<const std::string&>());
      return "";
    } catch (const nlohmann::json::parse_error& error) {
      if (error.byte > line_text_.size()) return fmt::format("not valid JSON, cut after {} bytes", line_text_.size());
      return fmt::format("not valid JSON, at byte {} of {} in the line", error.byte, line_text_.size());
    } catch (const nlohmann::json::exception& error) {
      return fmt::format("not valid JSON: {}", error.what());
    }
  }

  // \ud800 without its other half -> \ufffd, in place; returns how many.
  int64_t replace_lone_surrogates() {
    const auto escape_at = [&](size_t i) -> int {  // value of the \uXXXX at i, -1 when there is none
      if (i + 6 > line_text_.size() || line_text_[i] != '\\' || line_text_[i + 1] != 'u') return -1;
      int value = 0;
      for (size_t k = i + 2; k < i + 6; ++k) {
        const char c = line_text_[k];
        const int digit = c >= '0' && c <= '9'                     ? c - '0'
                          : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10
                                                                   : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
      }
      return value;
    };
    int64_t count = 0;
    for (size_t i = 0; i + 1 < line_text_.size(); ++i) {
      if (line_text_[i] != '\\') continue;
      const int value = escape_at(i);
      if (value < 0) {
        ++i;  // an escape of one character
        continue;
      }
      const int following = escape_at(i + 6);
      if (value >= 0xD800 && value < 0xDC00 && following >= 0xDC00 && following < 0xE000) {
        i += 11;
        continue;
      }
      if (value >= 0xD800 && value < 0xE000) {
        line_text_.replace(i, 6, "\\ufffd");
        ++count;
      }
      i += 5;
    }
    return count;
  }

  std::string_view bytes_;
  std::string key_;
  Problems problems_;
  simdjson::dom::parser parser_;
  std::string line_text_;
  size_t position_ = 0;
  int64_t line_ = 0;
};

enum class Format { text, json_lines };

Format format_of(const fs::path& path) {
  const std::string extension = path.extension().string();
  if (extension == ".txt") return Format::text;
  if (extension == ".jsonl" || extension == ".ndjson" || extension == ".json") return Format::json_lines;
  for (const char* packed : {".gz", ".zst", ".xz", ".bz2"}) {
    if (extension == packed) {
      throw Error(fmt::format("'{}' is compressed", path.string()), "Unpack it first (gunzip, unzstd, unxz).");
    }
  }
  throw Error(
      fmt::format("'{}': documents are read from .txt and .jsonl files, not from '{}'", path.string(), extension),
      "Rename it: .txt has blank lines between documents, .jsonl one object per line.");
}

}  // namespace

std::unique_ptr<DocumentSource> read_text_documents(std::string_view bytes, std::string name,
                                                    const CorpusOptions& options) {
  return std::make_unique<TextDocuments>(bytes, std::move(name), options);
}

std::unique_ptr<DocumentSource> read_json_lines(std::string_view bytes, std::string name,
                                                const CorpusOptions& options) {
  return std::make_unique<JsonLines>(bytes, std::move(name), options);
}

struct CorpusReader::OpenFile {
  explicit OpenFile(const fs::path& path, const CorpusOptions& options)
      : file(path, MappedFile::Access::sequential),
        source(format_of(path) == Format::text ? read_text_documents(file.text(), path.string(), options)
                                               : read_json_lines(file.text(), path.string(), options)) {}
  MappedFile file;
  std::unique_ptr<DocumentSource> source;
};

CorpusReader::CorpusReader(std::vector<fs::path> inputs, CorpusOptions options)
    : inputs_(std::move(inputs)), options_(std::move(options)) {
  if (inputs_.empty()) throw Error("no input files", "Name one or more .txt or .jsonl files.");
  // All of them now: a wrong name should not show after an hour.
  for (const fs::path& path : inputs_) {
    if (fs::is_directory(path)) {
      throw Error(fmt::format("'{}' is a folder", path.string()),
                  fmt::format("Name its files: {}/*.txt", path.string()));
    }
    format_of(path);
    // A pipe would block here, and cannot be mapped.
    if (fs::exists(path) && !fs::is_regular_file(path)) {
      throw Error(fmt::format("'{}' is not a regular file", path.string()), "Write the text to a file first.");
    }
    const MappedFile file(path);
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
    if (file_->source->next(text, counts_)) return true;
    bytes_before_ += static_cast<int64_t>(file_->file.bytes().size());
    file_.reset();
  }
}

int64_t CorpusReader::bytes_done() const {
  return bytes_before_ + (file_ ? file_->source->position() : 0);
}

}  // namespace ridgeline::data
