// Documents from JSON lines. The fast parser reads nearly every line; what it refuses is repaired where Python's json
// would read it (lone surrogates, NaN, Infinity, numbers of any size), since that is what wrote it.
#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "ridgeline/base/json.h"
#include "ridgeline/data/corpus.h"
#include "ridgeline/data/corpus_problems.h"
#include "ridgeline/data/unicode.h"

namespace ridgeline::data {
namespace {

constexpr size_t kLongestKey = 64;  // that is remembered

// Whether `word` is a number as JSON writes it, or one of the three more of Python and JavaScript.
bool is_number(std::string_view word) {
  if (word == "NaN" || word == "Infinity" || word == "-Infinity") return true;
  const auto digits = [&] {
    const size_t count = std::min(word.find_first_not_of("0123456789"), word.size());
    word.remove_prefix(count);
    return count;
  };
  if (word.starts_with('-')) word.remove_prefix(1);
  const bool zero = word.starts_with('0');
  const size_t whole = digits();
  if (whole == 0 || (zero && whole > 1)) return false;
  if (word.starts_with('.')) {
    word.remove_prefix(1);
    if (digits() == 0) return false;
  }
  if (word.starts_with('e') || word.starts_with('E')) {
    word.remove_prefix(1);
    if (word.starts_with('+') || word.starts_with('-')) word.remove_prefix(1);
    if (digits() == 0) return false;
  }
  return word.empty();
}

// Whether the fast parser can read such a number: one that a double holds, and no integer that is too long.
bool is_readable(std::string_view word) {
  double value = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  const bool integer = word.find_first_of(".eE") == std::string_view::npos;
  return error == std::errc() && end == word.data() + word.size() && std::isfinite(value) &&
         !(integer && word.size() > 18);
}

// Every number outside of strings that the fast parser refuses becomes [], without moving anything else: a value that
// is neither a text nor a number. (They have three characters at least.)
void replace_numbers(std::string& line) {
  constexpr std::string_view kWord = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-._";
  for (size_t i = 0; i < line.size();) {
    if (line[i] == '"') {
      for (++i; i < line.size() && line[i] != '"'; ++i) {
        if (line[i] == '\\') ++i;
      }
      ++i;
      continue;
    }
    const size_t end = std::min(line.find_first_not_of(kWord, i), line.size());
    if (end == i) {
      ++i;
      continue;
    }
    const std::string_view word = std::string_view(line).substr(i, end - i);
    if (is_number(word) && !is_readable(word)) {
      std::fill(line.begin() + static_cast<std::ptrdiff_t>(i), line.begin() + static_cast<std::ptrdiff_t>(end), ' ');
      line[i] = '[';
      line[i + 1] = ']';
    }
    i = end;
  }
}

// Value of the \uXXXX at i, -1 when there is none.
int escape_at(std::string_view line, size_t i) {
  if (i + 6 > line.size() || line[i] != '\\' || line[i + 1] != 'u') return -1;
  int value = 0;
  for (size_t k = i + 2; k < i + 6; ++k) {
    const char c = line[k];
    const int digit = c >= '0' && c <= '9'                     ? c - '0'
                      : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10
                                                               : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

// \ud800 without its other half -> \ufffd, in place; returns how many.
int64_t replace_lone_surrogates(std::string& line) {
  int64_t count = 0;
  for (size_t i = 0; i + 1 < line.size(); ++i) {
    if (line[i] != '\\') continue;
    const int value = escape_at(line, i);
    if (value < 0) {
      ++i;  // an escape of one character
      continue;
    }
    const int following = escape_at(line, i + 6);
    if (value >= 0xD800 && value < 0xDC00 && following >= 0xDC00 && following < 0xE000) {
      i += 11;
      continue;
    }
    if (value >= 0xD800 && value < 0xE000) {
      line.replace(i, 6, "\\ufffd");
      ++count;
    }
    i += 5;
  }
  return count;
}

std::optional<double> number_at(simdjson::dom::element object, std::string_view key) {
  double value = 0;
  return object[key].get(value) == simdjson::SUCCESS ? std::optional(value) : std::nullopt;
}

// As the function of that name for nlohmann's JSON (corpus_filters.h).
RecordMetadata metadata_of(simdjson::dom::element metadata) {
  RecordMetadata result;
  for (const char* key : {"quality_warnings", "annotation"}) {
    simdjson::dom::element found;
    if (metadata[key].get(found) != simdjson::SUCCESS || !(found.is_array() || found.is_null())) continue;
    std::vector<std::string>& warnings = result.warnings ? *result.warnings : result.warnings.emplace();
    if (!found.is_array()) continue;
    for (const simdjson::dom::element warning : simdjson::dom::array(found)) {
      std::string_view name;
      if (warning.get(name) == simdjson::SUCCESS) warnings.emplace_back(name);
    }
  }
  result.harmful_pp = number_at(metadata, "harmful_pp");
  simdjson::dom::element identification;
  if (metadata["identification"].get(identification) == simdjson::SUCCESS)
    result.language_probability = number_at(identification, "prob");
  return result;
}

class JsonLines final : public DocumentSource {
 public:
  JsonLines(std::string_view bytes, const std::string& key, const CorpusOptions& options)
      : bytes_(bytes), key_(key), options_(options) {}

  bool next(std::string& text, CorpusCounts& counts) override {
    while (position_ < bytes_.size()) {
      const size_t end = std::min(bytes_.find('\n', position_), bytes_.size());
      const std::string_view line = bytes_.substr(position_, end - position_);
      position_ = std::min(end + 1, bytes_.size());
      ++line_;
      if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
      if (static_cast<int64_t>(line.size()) > options_.longest_record) throw too_long(line_, options_);
      const size_t before = text.size();
      const Problem problem = read_line(line, text, counts);
      if (problem.reason.empty() && text.size() > before && keeps(counts)) {
        ++counts.documents;
        counts.text_bytes += static_cast<int64_t>(text.size() - before);
        return true;
      }
      if (!problem.reason.empty()) {
        ++counts.skipped_lines;
        ++counts.skipped[problem.reason];
        report_problem(options_, line_, problem.reason + problem.details, counts);
      } else if (text.size() == before) {
        ++counts.empty_documents;
      }
      text.resize(before);
    }
    return false;
  }

  int64_t lines() const override { return line_; }

 private:
  // Why a line has no document: the same words for all like it, and what else to say of this one.
  struct Problem {
    std::string reason, details;
  };

  static bool is_final(simdjson::error_code code) {
    return code == simdjson::SUCCESS || code == simdjson::NO_SUCH_FIELD || code == simdjson::INCORRECT_TYPE;
  }

  // Whether the filters keep the document just read.
  bool keeps(CorpusCounts& counts) const {
    if (!options_.filters.any()) return true;
    const Judgement judgement = judge(options_.filters, metadata_);
    for (const std::string& name : judgement.unknown) ++counts.unjudged[name];
    if (judgement.dropped_by.empty()) return true;
    ++counts.filtered[judgement.dropped_by];
    return false;
  }

  // Appends the document of `line` to `text`; returns what is wrong with the line, or nothing.
  Problem read_line(std::string_view line, std::string& text, CorpusCounts& counts) {
    const auto following = static_cast<size_t>(bytes_.data() + bytes_.size() - (line.data() + line.size()));
    const bool in_place = following >= simdjson::SIMDJSON_PADDING;  // which is read, and does not count
    if (!in_place) line_text_.assign(line);
    simdjson::error_code code = in_place ? parse(line, text, counts) : parse_line_text(text, counts);
    if (is_final(code)) [[likely]]
      return meaning(code);
    line_text_.assign(line);
    if (code == simdjson::UTF8_ERROR) {
      line_text_.clear();
      replaced(append_as_utf8(line, line_text_), "bytes that are not UTF-8", counts);
      code = parse_line_text(text, counts);
      if (is_final(code)) return meaning(code);
    }
    // The parser names one reason and there may be several: numbers that it refuses, then halves of surrogate pairs.
    replace_numbers(line_text_);
    code = parse_line_text(text, counts);
    if (is_final(code)) return meaning(code);
    const int64_t lone = replace_lone_surrogates(line_text_);
    if (lone > 0) code = parse_line_text(text, counts);
    Problem problem = is_final(code) ? meaning(code) : parse_slowly(text);
    if (problem.reason.empty() || lone > 0) replaced(lone, "half of a surrogate pair", counts);
    return problem;
  }

  Problem meaning(simdjson::error_code code) const {
    if (code == simdjson::SUCCESS) return {};
    if (code == simdjson::NO_SUCH_FIELD) return {fmt::format("the object has no '{}'", key_), ""};
    return {fmt::format("not an object whose '{}' is a string", key_), ""};
  }

  void replaced(int64_t count, const char* what, CorpusCounts& counts) {
    if (count == 0) return;
    counts.replaced += count;
    report_problem(options_, line_, fmt::format("{} in the line", what), counts);
  }

  simdjson::error_code parse_line_text(std::string& text, CorpusCounts& counts) {
    const size_t length = line_text_.size();
    line_text_.resize(length + simdjson::SIMDJSON_PADDING);
    const simdjson::error_code code = parse(std::string_view(line_text_).substr(0, length), text, counts);
    line_text_.resize(length);
    return code;
  }

  // Parses `line`, behind which SIMDJSON_PADDING bytes more can be read, and appends the value of the last member
  // called key_, as Python's json.loads would choose.
  simdjson::error_code parse(std::string_view line, std::string& text, CorpusCounts& counts) {
    simdjson::dom::element root;
    simdjson::error_code code = parser_.parse(line.data(), line.size(), false).get(root);
    simdjson::dom::object object;
    if (code == simdjson::SUCCESS) code = root.get(object);
    if (code != simdjson::SUCCESS) return code;
    std::optional<simdjson::dom::element> found;
    metadata_ = {};
    for (const auto field : object) {
      if (field.key == key_) found = field.value;
      if (options_.filters.any() && field.key == "metadata") metadata_ = metadata_of(field.value);
    }
    std::string_view value;
    code = found ? found->get(value) : simdjson::NO_SUCH_FIELD;
    if (code == simdjson::SUCCESS) [[likely]] {
      text.append(value);
      return code;
    }
    for (const auto field : object) {
      if (field.value.is_string() && field.key != key_) remember_key(field.key, counts);
    }
    return code;
  }

  static void remember_key(std::string_view key, CorpusCounts& counts) {
    if (key.size() > kLongestKey) return;
    if (const auto known = counts.other_keys.find(key); known != counts.other_keys.end()) {
      ++known->second;
    } else if (counts.other_keys.size() < kMostKeys) {
      counts.other_keys.emplace(key, 1);
    }
  }

  // What the fast parser refuses may still be JSON (depth of any measure): the last word is here.
  Problem parse_slowly(std::string& text) {
    constexpr const char* kInvalid = "not valid JSON";
    try {
      const auto root = parse_json(line_text_);
      const auto found = root.is_object() ? root.find(key_) : root.end();
      if (!root.is_object() || (found != root.end() && !found->is_string())) return meaning(simdjson::INCORRECT_TYPE);
      if (found == root.end()) return meaning(simdjson::NO_SUCH_FIELD);
      metadata_ = root.contains("metadata") ? data::metadata_of(root["metadata"]) : RecordMetadata();
      text.append(found->get_ref<const std::string&>());
      return {};
    } catch (const nlohmann::json::parse_error& error) {
      if (error.byte > line_text_.size()) return {kInvalid, fmt::format(", cut after {} bytes", line_text_.size())};
      return {kInvalid, fmt::format(", at byte {} of {} in the line", error.byte, line_text_.size())};
    } catch (const nlohmann::json::exception& error) {
      return {kInvalid, fmt::format(": {}", error.what())};
    }
  }

  std::string_view bytes_;
  const std::string& key_;
  const CorpusOptions& options_;
  simdjson::dom::parser parser_;
  std::string line_text_;    // a copy of the line, where it is repaired or ends with the bytes
  RecordMetadata metadata_;  // of the line last read; only where there are filters
  size_t position_ = 0;
  int64_t line_ = 0;
};

}  // namespace

std::unique_ptr<DocumentSource> read_json_lines(std::string_view bytes, const std::string& key,
                                                const CorpusOptions& options) {
  return std::make_unique<JsonLines>(bytes, key, options);
}

std::string document_key(std::string_view bytes) {
  bytes.remove_prefix(std::min(bytes.find_first_not_of(" \t\r\n"), bytes.size()));
  const CorpusOptions options;
  for (std::string key : {"text", "content"}) {
    std::string text;
    CorpusCounts counts;
    JsonLines first(bytes.substr(0, bytes.find('\n')), key, options);
    first.next(text, counts);
    if (counts.skipped_lines == 0) return key;
  }
  return "text";
}

}  // namespace ridgeline::data
