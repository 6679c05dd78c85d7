// Text and JSON lines: whatever the bytes, every document is valid UTF-8 without trailing white space (text), counts
// add up, and strict mode refuses exactly what is counted otherwise.
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

using Open = std::unique_ptr<DocumentSource> (*)(std::string_view, std::string, const CorpusOptions&);

void drive(Open open, std::string_view bytes, bool is_text) {
  CorpusCounts counts;
  const auto source = open(bytes, "input", {});
  int64_t documents = 0, text_bytes = 0;
  for (std::string text; source->next(text, counts); text.clear()) {
    RL_CHECK(valid_utf8_prefix(text), ==, text.size());
    RL_REQUIRE(!text.empty(), "an empty document");
    if (is_text) {
      RL_REQUIRE(!is_python_space(decode_last_utf8(text).code), "a document ends in white space");
      RL_REQUIRE(text.find('\r') == std::string::npos, "a carriage return is left");
    }
    ++documents;
    text_bytes += static_cast<int64_t>(text.size());
  }
  RL_CHECK(source->position(), ==, static_cast<int64_t>(bytes.size()));
  RL_CHECK(documents, ==, counts.documents);
  RL_CHECK(text_bytes, ==, counts.text_bytes);

  bool refused = false;
  try {
    CorpusCounts strict_counts;
    const auto strict = open(bytes, "input", {.strict = true});
    for (std::string text; strict->next(text, strict_counts); text.clear()) {
    }
  } catch (const Error&) {
    refused = true;
  }
  RL_CHECK(refused, ==, (counts.replaced > 0 || counts.skipped_lines > 0));
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
  drive(read_text_documents, bytes, true);
  drive(read_json_lines, bytes, false);
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
          "plain\n\n{\"text\": \"漢字 😀\", \"x\": [[[[]]]], \"big\": 123456789012345678901234567890}\n"};
}
