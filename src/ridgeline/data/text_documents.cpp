// Documents between blank lines, as OSCAR 2019's loader reads them.
#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <cstring>

#include "ridgeline/data/corpus.h"
#include "ridgeline/data/corpus_problems.h"
#include "ridgeline/data/unicode.h"

namespace ridgeline::data {
namespace {

class TextDocuments final : public DocumentSource {
 public:
  TextDocuments(std::string_view bytes, const CorpusOptions& options) : bytes_(bytes), options_(options) {}

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

  int64_t lines() const override { return line_; }

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
    if (static_cast<int64_t>(raw.size()) > options_.longest_record) throw too_long(first_line, options_);
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
      report_problem(options_, line, fmt::format("byte 0x{:02x} is not UTF-8", static_cast<uint8_t>(raw[bad])), counts);
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
  const CorpusOptions& options_;
  std::string joined_;
  size_t position_ = 0, line_feed_ = 0;
  int64_t line_ = 0;  // number of the line last read, from 1
};

}  // namespace

std::unique_ptr<DocumentSource> read_text_documents(std::string_view bytes, const CorpusOptions& options) {
  return std::make_unique<TextDocuments>(bytes, options);
}

}  // namespace ridgeline::data
