#include "ridgeline/data/corpus.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include "support.h"

namespace ridgeline::data {
namespace {

using test::TemporaryFolder;
using testing::ElementsAre;
using testing::HasSubstr;

struct ReadResult {
  std::vector<std::string> documents;
  CorpusCounts counts;
};

ReadResult drain(DocumentSource& source) {
  ReadResult result;
  for (std::string text; source.next(text, result.counts); text.clear()) result.documents.push_back(text);
  int64_t bytes = 0;
  for (const std::string& document : result.documents) bytes += static_cast<int64_t>(document.size());
  EXPECT_EQ(result.counts.documents, static_cast<int64_t>(result.documents.size()));
  EXPECT_EQ(result.counts.text_bytes, bytes);
  return result;
}

ReadResult text(std::string_view bytes, bool strict = false) {
  return drain(*read_text_documents(bytes, "x.txt", {.strict = strict}));
}

ReadResult jsonl(std::string_view bytes, const std::string& key = "text", bool strict = false) {
  return drain(*read_json_lines(bytes, "x.jsonl", {.key = key, .strict = strict}));
}

TEST(TextCorpus, BlankLinesSeparateDocuments) {
  EXPECT_THAT(text("a\nb\n\nc\n").documents, ElementsAre("a\nb", "c"));
  EXPECT_THAT(text("\n\n\na\n\n\n\nb\n\n").documents, ElementsAre("a", "b"));
  EXPECT_THAT(text("a").documents, ElementsAre("a"));
  EXPECT_THAT(text("").documents, ElementsAre());
  EXPECT_THAT(text("\n \t\n").documents, ElementsAre());
}

TEST(TextCorpus, LeadingSpaceIsKeptTrailingSpaceIsDropped) {
  EXPECT_THAT(text("  a \n b\t\u00a0\x1f\u3000\n\nc").documents, ElementsAre("  a \n b", "c"));
}

TEST(TextCorpus, BlankMeansBlankToPython) {
  // U+3000, U+00A0, U+001C are white space to str.strip(), U+200B and U+180E are not.
  EXPECT_THAT(text("a\n \u3000\u00a0\nb\n\x1c\nc").documents, ElementsAre("a", "b", "c"));
  EXPECT_THAT(text("a\n\u200b\nb").documents, ElementsAre("a\n\u200b\nb"));
  // Line breaks inside a line to str.splitlines(), but not to a file.
  EXPECT_THAT(text("a\x0b\x0c\u2028b\n\nc").documents, ElementsAre("a\x0b\x0c\u2028b", "c"));
}

TEST(TextCorpus, UniversalNewlines) {
  EXPECT_THAT(text("a\r\nb\r\n\r\nc\r\n").documents, ElementsAre("a\nb", "c"));
  EXPECT_THAT(text("a\rb\r\rc\r").documents, ElementsAre("a\nb", "c"));
  EXPECT_THAT(text("a\r\n\nb").documents, ElementsAre("a", "b"));
  EXPECT_THAT(text("a\n\rb").documents, ElementsAre("a", "b"));
  EXPECT_THAT(text("a\r\nb\rc\nd").documents, ElementsAre("a\nb\nc\nd"));
}

TEST(TextCorpus, ManyLinesOfEveryKindAreReadInLinearTime) {
  std::string lines;
  for (int i = 0; i < 300000; ++i) lines += "x\r";
  const auto result = text(lines);
  ASSERT_EQ(result.documents.size(), 1U);
  EXPECT_EQ(result.documents[0].size(), 599999U);
}

TEST(TextCorpus, LinesMayBeMegabytesLong) {
  const std::string line(5 << 20, 'x');
  EXPECT_THAT(text(line + "\n\n" + line).documents, ElementsAre(line, line));
}

TEST(TextCorpus, InvalidBytesAreReplacedAndCounted) {
  const auto result = text("good\n\nline\nbad \xff\xfe here\n\ncut \xe6\xbc");
  EXPECT_THAT(result.documents, ElementsAre("good", "line\nbad \uFFFD\uFFFD here", "cut \uFFFD"));
  EXPECT_EQ(result.counts.replaced, 3);
  ASSERT_EQ(result.counts.problems.size(), 2U);
  EXPECT_EQ(result.counts.problems[0], "x.txt:4: byte 0xff is not UTF-8");
  EXPECT_THAT(result.counts.problems[1], HasSubstr("x.txt:6:"));
  EXPECT_ERROR("x.txt:4:", text("good\n\nline\nbad \xff", true));
  EXPECT_EQ(test::error_of([] { text("all\ngood é", true); }), "");
}

TEST(JsonCorpus, TextUnderTheKey) {
  EXPECT_THAT(jsonl("{\"text\": \"a\\nb\\u00e9\\ud83d\\ude00\"}\n{\"id\": 3, \"text\": \" c \"}").documents,
              ElementsAre("a\nbé😀", " c "));
  EXPECT_THAT(jsonl("{\"content\": \"x\", \"text\": \"y\"}", "content").documents, ElementsAre("x"));
  EXPECT_THAT(jsonl("{\"text\": \"first\", \"text\": \"last\"}").documents, ElementsAre("last"));
  EXPECT_THAT(jsonl("{\"text\": \"crlf\"}\r\n\r\n \n{\"text\":\"b\\u0000c\"}\r\n").documents,
              ElementsAre("crlf", std::string("b\0c", 3)));
  EXPECT_THAT(jsonl("\xEF\xBB\xBF{\"text\": \"after a mark\"}").documents, ElementsAre("after a mark"));
}

TEST(JsonCorpus, BadLinesAreSkippedCountedAndNamed) {
  const auto result = jsonl(
      "{\"text\": \"one\"}\n{\"text\": \"cut in ha\n{\"text\": \"whole, but the rest is cut\", \"id\": \n[1, 2]\n"
      "{\"other\": \"x\"}\n{\"text\": 5}\nnonsense\n{\"text\": \"two\"}\n{\"text\": \"x\"} trailing\n{\"text\": null}");
  EXPECT_THAT(result.documents, ElementsAre("one", "two"));
  EXPECT_EQ(result.counts.skipped_lines, 8);
  ASSERT_EQ(result.counts.problems.size(), 8U);
  EXPECT_THAT(result.counts.problems[0], HasSubstr("x.jsonl:2: not valid JSON, cut after 19 bytes"));
  EXPECT_THAT(result.counts.problems[1], HasSubstr("x.jsonl:3: not valid JSON, cut after"));
  EXPECT_THAT(result.counts.problems[3], HasSubstr("x.jsonl:5: the object has no 'text'"));
  EXPECT_THAT(result.counts.problems[5], HasSubstr("x.jsonl:7: not valid JSON, at byte 2 of 8"));
  EXPECT_ERROR("x.jsonl:2: not valid JSON", jsonl("{\"text\": \"one\"}\n{\"text\": \"cut in ha", "text", true));
}

TEST(JsonCorpus, EmptyTextsAreNoDocuments) {
  const auto result = jsonl("{\"text\": \"\"}\n{\"text\": \"a\"}");
  EXPECT_THAT(result.documents, ElementsAre("a"));
  EXPECT_EQ(result.counts.empty_documents, 1);
}

TEST(JsonCorpus, OutputIsAlwaysUtf8) {
  const auto result =
      jsonl("{\"text\": \"a\xff\"}\n{\"text\": \"b\\ud800c\\\\ud800\"}\n{\"text\": \"\\ude00\\ud83d\\ude00\\ud83d\"}");
  EXPECT_THAT(result.documents, ElementsAre("a\uFFFD", "b\uFFFDc\\ud800", "\uFFFD😀\uFFFD"));
  EXPECT_EQ(result.counts.replaced, 4);
  EXPECT_EQ(result.counts.problems.size(), 3U);
  EXPECT_ERROR("x.jsonl:1: half of a surrogate pair", jsonl("{\"text\": \"b\\ud800\"}", "text", true));
}

TEST(JsonCorpus, WhatTheFastParserRefusesIsStillJson) {
  EXPECT_THAT(jsonl("{\"id\": 123456789012345678901234567890, \"text\": \"big\"}").documents, ElementsAre("big"));
  std::string deep = "{\"text\": \"deep\", \"x\": ";
  for (int i = 0; i < 3000; ++i) deep += '[';
  for (int i = 0; i < 3000; ++i) deep += ']';
  EXPECT_THAT(jsonl(deep + "}").documents, ElementsAre("deep"));
}

TEST(JsonCorpus, NumbersThatPythonWritesAreNoReasonToLoseALine) {
  const auto result = jsonl(
      "{\"text\": \"one\", \"ppl\": NaN}\n{\"ppl\": [-Infinity, Infinity, {\"x\": NaN}], \"text\": \"two\"}\n"
      "{\"text\": \"three\", \"ppl\": 1e999}\n{\"a\":-1.5E+400,\"text\":\"four\"}\n{\"text\": \"five \\\"NaN, Infinity "
      "1e999\"}\n"
      "{\"text\": \"first\", \"n\": NaN, \"text\": \"last\"}\n{\"x\": NaN, \"text\": \"half \\ud800\", \"y\": 1e999}\n"
      "{\"text\": \"a \\ude00\", \"big\": 123456789012345678901234567890}\n{\"x\": NaN, \"text\": \"\xff\"}");
  EXPECT_THAT(result.documents, ElementsAre("one", "two", "three", "four", "five \"NaN, Infinity 1e999", "last",
                                            "half \uFFFD", "a \uFFFD", "\uFFFD"));
  EXPECT_EQ(result.counts.skipped_lines, 0);
  EXPECT_EQ(result.counts.replaced, 3);
}

TEST(JsonCorpus, WhatIsNoNumberToPythonEitherIsNone) {
  for (const char* value : {"nan", "-NaN", "+1", "01", "1.", ".5", "1e", "Infinit", "NaN1", "0x1", "--1", "1e+", "- 1",
                            "NaN NaN", "tru", "Infinity-", "-"}) {
    const auto result = jsonl(fmt::format("{{\"text\": \"a\", \"x\": {}}}", value));
    EXPECT_EQ(result.counts.skipped_lines, 1) << value;
  }
  EXPECT_EQ(jsonl("{\"text\": \"a\", NaN: 1}").counts.skipped_lines, 1);
  EXPECT_EQ(jsonl("{\"text\": NaN}").counts.skipped_lines, 1) << "a number is no text";
  EXPECT_EQ(jsonl("{\"text\": \"cut NaN").counts.skipped_lines, 1);
}

TEST(JsonCorpus, OtherKeysWithTextAreRemembered) {
  const auto result =
      jsonl("{\"content\": \"a\", \"id\": 1}\n{\"content\": \"b\", \"title\": \"c\"}\n{\"text\": \"d\"}");
  EXPECT_THAT(result.counts.other_keys, ElementsAre(testing::Pair("content", 2), testing::Pair("title", 1)));
  EXPECT_THAT(other_keys({}, result.counts), HasSubstr("--key content (2 lines), --key title (1 lines)"));
  EXPECT_EQ(other_keys({}, {}), "");
}

TEST(CorpusReader, NamesOfSpecialTokensAreCounted) {
  const TemporaryFolder folder;
  CorpusOptions options;
  options.markers = {"<|endoftext|>", "<|end", "</s>", "", "absent"};
  CorpusReader reader({folder.write("a.txt", "Once.\n<|endoftext|>\nTom <|endof</s>\n\n<|endoftext|><|endoftext|><|e"),
                       folder.write("b.jsonl", "{\"text\": \"x<|endoftext|>\", \"id\": \"</s>\"}")},
                      options);
  for (std::string document; reader.next(document);) {
  }
  EXPECT_THAT(reader.counts().markers, ElementsAre(4, 1, 1, 0, 0)) << "in the text alone, the longest at a place";
}

TEST(CorpusReader, WithoutAnyDocumentItSaysWhatWasThere) {
  const TemporaryFolder folder;
  CorpusReader reader({folder.write("a.jsonl", "{\"body\": \"x\"}\n{\"body\": \"y\"}\n")}, {});
  std::string document;
  EXPECT_FALSE(reader.next(document));
  EXPECT_ERROR("2 lines skipped; first problem: ", reader.require_some());
  EXPECT_ERROR("--key body (2 lines)", reader.require_some());
}

TEST(CorpusReader, ReadsFilesInOrderAndDocumentsNeverSpanThem) {
  const TemporaryFolder folder;
  CorpusReader reader({folder.write("a.txt", "one\n\ntwo"), folder.write("b.jsonl", "{\"text\": \"three\"}\n"),
                       folder.write("c.txt", ""), folder.write("d.txt", "four\n")},
                      {});
  EXPECT_EQ(reader.bytes_total(), 8 + 18 + 5);
  std::vector<std::string> documents;
  for (std::string document; reader.next(document); document.clear()) documents.push_back(document);
  EXPECT_THAT(documents, ElementsAre("one", "two", "three", "four"));
  EXPECT_EQ(reader.bytes_done(), reader.bytes_total());
  EXPECT_EQ(reader.counts().documents, 4);
}

TEST(CorpusReader, RefusesWhatItCannotRead) {
  const TemporaryFolder folder;
  EXPECT_ERROR("no input files", CorpusReader({}, {}));
  EXPECT_ERROR("missing.txt", CorpusReader({folder / "missing.txt"}, {}));
  EXPECT_ERROR("is a folder", CorpusReader({folder / ""}, {}));
  EXPECT_ERROR("a gzip file", CorpusReader({folder.write("a.txt", "\x1f\x8b\x08\x01")}, {}));
  EXPECT_ERROR("not from '.gz'", CorpusReader({folder.write("a.txt.gz", "x")}, {}));
  EXPECT_ERROR("not from '.pdf'", CorpusReader({folder.write("a.pdf", "x")}, {}));
}

}  // namespace
}  // namespace ridgeline::data
