// Text and JSON lines: whatever the bytes, every document is valid UTF-8 without trailing white space (text), counts
// add up, strict mode refuses exactly what is counted otherwise, and bytes that are cut where a record ends give the
// documents of the whole.
#include <algorithm>

#include "fuzz_driver.h"
#include "ridgeline/base/error.h"
#include "ridgeline/data/corpus.h"
#include "ridgeline/data/file_kind.h"
#include "ridgeline/data/marker_counter.h"
#include "ridgeline/data/token_file.h"
#include "ridgeline/data/unicode.h"

using namespace ridgeline;        // NOLINT
using namespace ridgeline::data;  // NOLINT

namespace {

struct ReadResult {
  std::vector<std::string> documents;
  CorpusCounts counts;
  int64_t lines = 0;
  bool refused = false;
};

ReadResult read(std::string_view bytes, RecordFormat format, const CorpusOptions& options) {
  const std::string key = "text";
  const auto source =
      format == RecordFormat::text ? read_text_documents(bytes, options) : read_json_lines(bytes, key, options);
  ReadResult result;
  try {
    for (std::string text; source->next(text, result.counts); text.clear()) result.documents.push_back(text);
  } catch (const CorpusRefusal& refusal) {
    RL_CHECK(refusal.line, >, 0);
    result.refused = true;
  }
  result.lines = source->lines();
  return result;
}

void drive(std::string_view bytes, RecordFormat format) {
  const ReadResult whole = read(bytes, format, {});
  int64_t text_bytes = 0;
  for (const std::string& text : whole.documents) {
    RL_CHECK(valid_utf8_prefix(text), ==, text.size());
    RL_REQUIRE(!text.empty(), "an empty document");
    if (format == RecordFormat::text) {
      RL_REQUIRE(!is_python_space(decode_last_utf8(text).code), "a document ends in white space");
      RL_REQUIRE(text.find('\r') == std::string::npos, "a carriage return is left");
    }
    text_bytes += static_cast<int64_t>(text.size());
  }
  RL_CHECK(static_cast<int64_t>(whole.documents.size()), ==, whole.counts.documents);
  RL_CHECK(text_bytes, ==, whole.counts.text_bytes);

  const CorpusOptions strict{.strict = true};
  RL_CHECK(read(bytes, format, strict).refused, ==, (whole.counts.replaced > 0 || whole.counts.skipped_lines > 0));

  const CorpusOptions filters{.filters = {{"noisy", "all"}, 0.5, 0.5}};
  const ReadResult kept = read(bytes, format, filters);
  int64_t dropped = 0;
  for (const auto& [name, count] : kept.counts.filtered) dropped += count;
  RL_CHECK(kept.counts.documents + dropped, ==, whole.counts.documents);

  const size_t end = bytes.empty() ? 0 : end_of_records(bytes, bytes.size() / 2, format);
  ReadResult parts = read(bytes.substr(0, end), format, {});
  const ReadResult second = read(bytes.substr(end), format, {});
  parts.documents.insert(parts.documents.end(), second.documents.begin(), second.documents.end());
  RL_REQUIRE(parts.documents == whole.documents, "cut at {}, there are other documents", end);
  RL_CHECK(parts.lines + second.lines, ==, whole.lines);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const FileKind kind = kind_of(bytes, "input.txt");
  RL_REQUIRE(!kind.name.empty(), "a kind without a name");
  RL_CHECK((kind.family == FileKind::Family::text || kind.family == FileKind::Family::empty), ==, kind.way_out.empty());
  for (const char* name : {"input.bin", "input.txt"}) {
    const auto tokens = token_file(bytes, static_cast<int64_t>(size), name);
    if (!tokens) continue;
    RL_CHECK(tokens->begin + tokens->count * tokens->item_bytes, <=, static_cast<int64_t>(size));
    RL_CHECK(tokens->examined, <=, tokens->count);
  }
  std::vector<int64_t> counts(2);
  MarkerCounter({"<|endoftext|>", "\n"}).count(bytes, counts);
  RL_CHECK(counts[1], ==, std::count(bytes.begin(), bytes.end(), '\n'));
  drive(bytes, RecordFormat::text);
  drive(bytes, RecordFormat::json_lines);
  return 0;
}

std::vector<std::string> seeds() {
  return {"First line\nsecond line\n\nanother document\r\nwith\rall newlines \t\n \n\u3000\nend\u00a0",
          std::string("{\"text\": \"a document\", \"id\": 17}\n{\"id\": [1, {\"text\": \"x\"}], \"text\": ") +
              "\"b\\n\\u00e9\\ud83d\\ude00\"}\n",
          std::string("{\"text\": \"\\ud800 lone\"}\n{\"text\": \"caf\xC3\xA9 \xff\"}\n\n{\"text\": null}\n") +
              "{\"n\": 1e5, \"text\": \"\"}",
          std::string("{\"x\": NaN, \"text\": \"a NaN\", \"y\": [-Infinity, 1e999, {\"z\": Infinity}]}\n") +
              "{\"text\": \"\\ude00\", \"n\": -0.5E+400}\n{\"body\": \"x\"}\n",
          std::string("T\0h\0e\0 \0c\0a\0t\0\n\0\n\0<|endoftext|>\0a\0", 34),
          std::string("\x88\xd8\x34\x01\1\0\0\0\3\0\0\0", 12) + std::string(1012, '\0') + "abcdef",
          std::string("\x58\0\0\0\0\0\0\0{\"w\":{\"dtype\":\"F32\"}}PK\3\4", 33),
          std::string("{\"text\": \"a\", \"metadata\": {\"quality_warnings\": [\"noisy\"], \"harmful_pp\": 1e999}}\n") +
              "{\"metadata\": {\"identification\": {\"prob\": 0.25}, \"annotation\": null}, \"text\": \"b\"}\n",
          "plain\n\n{\"text\": \"漢字 😀\", \"x\": [[[[]]]], \"big\": 123456789012345678901234567890}\n"};
}
