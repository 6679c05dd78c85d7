#include "ridgeline/data/corpus.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include "../many_cases.h"
#include "support.h"

namespace ridgeline::data {
namespace {

using test::TemporaryFolder;
using testing::ElementsAre;
using testing::HasSubstr;

struct ReadResult {
  std::vector<std::string> documents;
  CorpusCounts counts;
  std::string refused;  // "line: what"
};

ReadResult drain(DocumentSource& source) {
  ReadResult result;
  try {
    for (std::string text; source.next(text, result.counts); text.clear()) result.documents.push_back(text);
  } catch (const CorpusRefusal& refusal) {
    result.refused = fmt::format("{}: {}", refusal.line, refusal.what);
  }
  int64_t bytes = 0, skipped = 0;
  for (const std::string& document : result.documents) bytes += static_cast<int64_t>(document.size());
  for (const auto& [reason, count] : result.counts.skipped) skipped += count;
  EXPECT_EQ(result.counts.documents, static_cast<int64_t>(result.documents.size()));
  EXPECT_EQ(result.counts.text_bytes, bytes);
  EXPECT_EQ(result.counts.skipped_lines, skipped);
  return result;
}

ReadResult text(std::string_view bytes, bool strict = false) {
  const CorpusOptions options{.strict = strict};
  return drain(*read_text_documents(bytes, options));
}

ReadResult jsonl(std::string_view bytes, const std::string& key = "text", bool strict = false) {
  const CorpusOptions options{.strict = strict};
  return drain(*read_json_lines(bytes, key, options));
}

std::string problem(const ReadResult& result, size_t i) {
  const CorpusProblem& problem = result.counts.problems.at(i);
  return fmt::format("{}: {}", problem.line, problem.what);
}

// All documents, through all three hands.
std::vector<std::string> documents_of(CorpusReader& reader) {
  std::vector<std::string> documents;
  for (DocumentBatch batch; reader.next(batch); batch = {}) {
    reader.parse(batch);
    reader.add(batch);
    for (size_t i = 0; i < batch.size(); ++i) documents.emplace_back(batch[i]);
  }
  return documents;
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
  EXPECT_EQ(problem(result, 0), "4: byte 0xff is not UTF-8");
  EXPECT_THAT(problem(result, 1), HasSubstr("6:"));
  EXPECT_THAT(text("good\n\nline\nbad \xff", true).refused, HasSubstr("4: byte 0xff"));
  EXPECT_EQ(text("all\ngood é", true).refused, "");
}

TEST(JsonCorpus, TextUnderTheKey) {
  EXPECT_THAT(jsonl("{\"text\": \"a\\nb\\u00e9\\ud83d\\ude00\"}\n{\"id\": 3, \"text\": \" c \"}").documents,
              ElementsAre("a\nbé😀", " c "));
  EXPECT_THAT(jsonl("{\"content\": \"x\", \"text\": \"y\"}", "content").documents, ElementsAre("x"));
  EXPECT_THAT(jsonl("{\"text\": \"first\", \"text\": \"last\"}").documents, ElementsAre("last"));
  EXPECT_THAT(jsonl("{\"text\": \"crlf\"}\r\n\r\n \n{\"text\":\"b\\u0000c\"}\r\n").documents,
              ElementsAre("crlf", std::string("b\0c", 3)));
}

TEST(JsonCorpus, BadLinesAreSkippedCountedAndNamed) {
  const auto result = jsonl(
      "{\"text\": \"one\"}\n{\"text\": \"cut in ha\n{\"text\": \"whole, but the rest is cut\", \"id\": \n[1, 2]\n"
      "{\"other\": \"x\"}\n{\"text\": 5}\nnonsense\n{\"text\": \"two\"}\n{\"text\": \"x\"} trailing\n{\"text\": null}");
  EXPECT_THAT(result.documents, ElementsAre("one", "two"));
  EXPECT_EQ(result.counts.skipped_lines, 8);
  ASSERT_EQ(result.counts.problems.size(), 8U);
  EXPECT_THAT(problem(result, 0), HasSubstr("2: not valid JSON, cut after 19 bytes"));
  EXPECT_THAT(problem(result, 1), HasSubstr("3: not valid JSON, cut after"));
  EXPECT_THAT(problem(result, 3), HasSubstr("5: the object has no 'text'"));
  EXPECT_THAT(problem(result, 5), HasSubstr("7: not valid JSON, at byte 2 of 8"));
  EXPECT_THAT(result.counts.skipped,
              ElementsAre(testing::Pair("not an object whose 'text' is a string", 3),
                          testing::Pair("not valid JSON", 4), testing::Pair("the object has no 'text'", 1)));
  EXPECT_THAT(jsonl("{\"text\": \"one\"}\n{\"text\": \"cut in ha", "text", true).refused,
              HasSubstr("2: not valid JSON"));
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
  EXPECT_THAT(jsonl("{\"text\": \"b\\ud800\"}", "text", true).refused, HasSubstr("1: half of a surrogate pair"));
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
  EXPECT_THAT(other_keys({}, result.counts), HasSubstr("--key content (2 lines), --key title (1 line)"));
  EXPECT_EQ(other_keys({}, {}), "");
}

TEST(CorpusReader, NamesOfSpecialTokensAreCounted) {
  const TemporaryFolder folder;
  CorpusOptions options;
  options.markers = {"<|endoftext|>", "<|end", "</s>", "", "absent"};
  CorpusReader reader({folder.write("a.txt", "Once.\n<|endoftext|>\nTom <|endof</s>\n\n<|endoftext|><|endoftext|><|e"),
                       folder.write("b.jsonl", "{\"text\": \"x<|endoftext|>\", \"id\": \"</s>\"}")},
                      options);
  documents_of(reader);
  EXPECT_THAT(reader.counts().markers, ElementsAre(4, 1, 1, 0, 0)) << "in the text alone, the longest at a place";
}

TEST(CorpusReader, WithoutAnyDocumentItSaysWhatWasThere) {
  const TemporaryFolder folder;
  CorpusReader reader({folder.write("a.jsonl", "{\"body\": \"x\"}\n{\"body\": \"y\"}\n")}, {});
  EXPECT_THAT(documents_of(reader), ElementsAre());
  EXPECT_ERROR("2 lines skipped; first problem: ", reader.require_some());
  EXPECT_ERROR("--key body (2 lines)", reader.require_some());
}

TEST(CorpusReader, ReadsFilesInOrderAndDocumentsNeverSpanThem) {
  const TemporaryFolder folder;
  CorpusReader reader({folder.write("a.txt", "one\n\ntwo"), folder.write("b.jsonl", "{\"text\": \"three\"}\n"),
                       folder.write("c.txt", ""), folder.write("d.txt", "four\n")},
                      {});
  EXPECT_EQ(reader.bytes_total(), 8 + 18 + 5);
  EXPECT_THAT(documents_of(reader), ElementsAre("one", "two", "three", "four"));
  EXPECT_EQ(reader.bytes_done(), reader.bytes_total());
  EXPECT_EQ(reader.counts().documents, 4);
}

TEST(CorpusReader, ProblemsNameFileAndLineAcrossBatches) {
  const TemporaryFolder folder;
  std::string lines;
  for (int i = 0; i < 40000; ++i)
    lines += i == 7 || i == 31234 ? "{\"text\": 5}\n" : "{\"text\": \"" + std::string(60, 'x') + "\"}\n";
  ASSERT_GT(lines.size(), 2 * kChunkBytes);
  const auto a = folder.write("a.jsonl", "{\"text\": \"a\"}\nbad\n"), b = folder.write("b.jsonl", lines);
  CorpusReader reader({a, b}, {});
  EXPECT_EQ(documents_of(reader).size(), 39999U);
  std::vector<std::string> places;
  for (const CorpusProblem& one : reader.counts().problems) places.push_back(fmt::format("{}:{}", one.file, one.line));
  EXPECT_THAT(places, ElementsAre(a.string() + ":2", b.string() + ":8", b.string() + ":31235"));
  CorpusReader strict({b}, {.strict = true});
  EXPECT_ERROR(b.string() + ":8: not an object", documents_of(strict));
}

TEST(CorpusReader, ChunksDoNotShow) {
  const TemporaryFolder folder;
  uint32_t state = 9;
  const auto draw = [&](uint32_t bound) { return ((state = state * 1664525 + 1013904223) >> 8) % bound; };
  // Lines of every kind, now and then a document of megabytes.
  std::string lines;
  const auto chunks_of_lines = static_cast<size_t>(ManyCases(4).share(48));
  while (lines.size() < chunks_of_lines * kChunkBytes) {
    const uint32_t kind = draw(40000);
    if (kind < 4) {
      for (uint32_t i = 0; i < 200000; ++i) lines += "a long one\n";
    } else if (kind % 5 == 0) {
      lines += kind % 3 == 0 ? "\n" : kind % 3 == 1 ? "\r\n" : " \u3000\r";
    } else {
      lines += "line " + std::to_string(kind) + (kind % 7 == 0 ? "\r\n" : kind % 7 == 1 ? "\r" : "\n");
    }
  }
  const std::vector<std::string> expected = text(lines).documents;
  ASSERT_GT(expected.size(), 1000U);
  const auto plain = folder.write("a.txt", lines);
  EXPECT_EQ(([&] {
              CorpusReader reader({plain}, {});
              return documents_of(reader);
            }()),
            expected);
  std::vector<std::string> read;
  const CorpusOptions options;
  const auto chunks = read_chunks(read_file(plain), RecordFormat::text, size_t{1} << 30);
  const auto mapped = map_chunks(plain, 0, static_cast<int64_t>(std::filesystem::file_size(plain)), RecordFormat::text,
                                 size_t{1} << 30);
  for (CorpusChunk chunk, other; chunks->next(chunk);) {
    ASSERT_TRUE(mapped->next(other));
    EXPECT_EQ(chunk.bytes, other.bytes);
    const ReadResult result = drain(*read_text_documents(chunk.bytes, options));
    read.insert(read.end(), result.documents.begin(), result.documents.end());
  }
  CorpusChunk rest;
  EXPECT_FALSE(mapped->next(rest));
  EXPECT_EQ(read, expected);
}

TEST(CorpusReader, RecordsEndWhereDocumentsDo) {
  // Whatever the bytes: cut there, both parts give the documents of the whole.
  uint32_t state = 3;
  const auto draw = [&](uint32_t bound) { return ((state = state * 1664525 + 1013904223) >> 8) % bound; };
  constexpr const char* kPieces[] = {"a", "b ", "\n", "\r", "\r\n", " ", "\u00a0", "\xff", "\n\n", "\x1c"};
  int cuts = 0;
  for (int trial = 0; trial < 20000; ++trial) {
    std::string bytes;
    for (uint32_t i = draw(14) + 1; i > 0; --i) bytes += kPieces[draw(std::size(kPieces))];
    const size_t from = draw(static_cast<uint32_t>(bytes.size()));
    const size_t end = end_of_records(bytes, from, RecordFormat::text);
    if (end == 0) continue;
    ++cuts;
    EXPECT_GT(end, from);
    ASSERT_LE(end, bytes.size());
    const CorpusOptions options;
    const auto first = read_text_documents(std::string_view(bytes).substr(0, end), options);
    const auto second = read_text_documents(std::string_view(bytes).substr(end), options);
    std::vector<std::string> both = drain(*first).documents;
    for (const std::string& document : drain(*second).documents) both.push_back(document);
    const auto whole = read_text_documents(bytes, options);
    EXPECT_EQ(both, drain(*whole).documents) << testing::PrintToString(bytes) << " at " << end;
    EXPECT_EQ(first->lines() + second->lines(), whole->lines()) << testing::PrintToString(bytes) << " at " << end;
  }
  EXPECT_GT(cuts, 2000);
  EXPECT_EQ(end_of_records("{}\n{}\n{", 0, RecordFormat::json_lines), 6U);
  EXPECT_EQ(end_of_records("{}\n{}", 3, RecordFormat::json_lines), 0U);
}

TEST(CorpusReader, TheKeyIsThatOfTheFirstObject) {
  const TemporaryFolder folder;
  const auto oscar = folder.write("a.jsonl", "\xEF\xBB\xBF{\"content\": \"one\", \"id\": 1}\n{\"content\": \"two\"}\n");
  const auto both = folder.write("b.jsonl", "\n{\"content\": \"x\", \"text\": \"three\"}\n");
  CorpusReader reader({oscar, both}, {});
  EXPECT_THAT(documents_of(reader), ElementsAre("one", "two", "three"));
  CorpusReader named({both}, {.key = "content"});
  EXPECT_THAT(documents_of(named), ElementsAre("x"));
  EXPECT_EQ(document_key("{\"body\": \"x\"}"), "text");
  EXPECT_EQ(document_key("{\"content\": \"\"}\n{\"text\": \"\"}"), "content");
  EXPECT_EQ(document_key(""), "text");
}

TEST(CorpusReader, RecordsLongerThanAllowedAreRefusedWithTheirLine) {
  const TemporaryFolder folder;
  const std::string name = folder / "x";
  const auto refused = [&](const std::string& file, std::string_view bytes, int64_t longest, const std::string& where) {
    const auto path = folder.write(file, bytes);
    CorpusReader reader({path}, {.longest_record = longest});
    EXPECT_ERROR(fmt::format("{}:{}: a document or JSON line of more than {} bytes", path.string(), where, longest),
                 documents_of(reader));
  };
  // Within a chunk: exactly.
  refused("a.txt", "ab\n\n\nabc\nde", 5, "4");
  refused("a.jsonl", "{}\n{\"text\": \"abcdefghij\"}\n", 20, "2");
  CorpusReader fits({folder.write("fits.txt", "ab\n\n\nabc\nd")}, {.longest_record = 5});
  EXPECT_THAT(documents_of(fits), ElementsAre("ab", "abc\nd"));
  // Over chunks: without holding the record.
  std::string lines(3 * kChunkBytes, 'x');
  for (size_t i = 99; i < lines.size(); i += 100) lines[i] = '\n';
  constexpr auto kLongest = static_cast<int64_t>(2 * kChunkBytes);
  refused("b.txt", "one\n\n" + lines, kLongest, "3");
  refused("b.jsonl", "{}\n" + std::string(3 * kChunkBytes, ' ') + "\n{}\n", kLongest, "2");
  refused("c.txt", "one\n\nx\n" + std::string(3 * kChunkBytes, ' ') + "\n\n" + lines, kLongest, "3");
}

TEST(CorpusReader, RefusesWhatItCannotRead) {
  const TemporaryFolder folder;
  EXPECT_ERROR("no input files", CorpusReader({}, {}));
  EXPECT_ERROR("missing.txt", CorpusReader({folder / "missing.txt"}, {}));
  EXPECT_ERROR("is a folder with 0 files, and none is a corpus", CorpusReader({folder / ""}, {}));
  EXPECT_ERROR("is cut: it ends at byte 4", CorpusReader({folder.write("a.txt", "\x1f\x8b\x08\x01")}, {}));
  EXPECT_ERROR("is not compressed, whatever its name says", CorpusReader({folder.write("a.txt.gz", "x")}, {}));
  EXPECT_ERROR("--key body: none of the inputs has JSON lines",
               CorpusReader({folder.write("b.txt", "x")}, {.key = "body"}));
  EXPECT_ERROR("not from '.pdf'", CorpusReader({folder.write("a.pdf", "x")}, {}));
}

}  // namespace
}  // namespace ridgeline::data
