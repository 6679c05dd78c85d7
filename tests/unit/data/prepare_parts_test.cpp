// What `prepare` keeps of an unfinished dataset, and how several processes share one.
#include <gmock/gmock.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <fstream>
#include <functional>
#include <mutex>
#include <random>
#include <thread>

#include "ridgeline/base/checksum.h"
#include "ridgeline/data/partial_dataset.h"
#include "ridgeline/data/prepare.h"
#include "support.h"

namespace ridgeline::data {
namespace {

namespace fs = std::filesystem;
using test::fixture;
using test::gpt2;
using test::TemporaryFolder;
using testing::ElementsAre;
using testing::HasSubstr;

// Files of some hundred kilobytes: plain ones that are cut, and packed ones that are not; with lines that are skipped.
std::vector<fs::path> write_corpus(const TemporaryFolder& folder) {
  std::string text, lines;
  for (int i = 0; i < 4000; ++i)
    text += "Line " + std::to_string(i * 7919) + " of many words; ünd ñ.\r\n" + (i % 7 == 0 ? " \t\r\n" : "");
  for (int i = 0; i < 1500; ++i) {
    lines += i % 400 == 399 ? "{\"text\": cut\n"
                            : "{\"content\": \"document " + std::to_string(i) + "\\nof two lines, 漢字\", \"id\": 1}\n";
  }
  return {folder.write("a.txt", text),
          fixture("corpora/members.txt.gz"),
          folder.write("b.jsonl", lines),
          folder.write("c.txt", "\n\n"),
          fixture("corpora/oscar_2301.jsonl.zst"),
          folder.write("d.txt", text.substr(0, 9000))};
}

std::string files_of(const fs::path& prefix) {
  std::string all;
  for (const char* suffix : {".bin", ".idx", ".json"}) all += read_text(prefix.string() + suffix) + suffix;
  return all;
}

std::vector<std::string> places_of(const CorpusCounts& counts) {
  std::vector<std::string> places;
  for (const CorpusProblem& problem : counts.problems) places.push_back(problem.text());
  return places;
}

struct Whole {
  TemporaryFolder folder;
  PrepareSettings settings;
  PrepareResult result;
  std::string files;

  explicit Whole(int64_t block) {
    settings.block = block;
    settings.inputs = write_corpus(folder);
    settings.prefix = folder / "whole";
    settings.tokenizer = "gpt2";
    settings.part_bytes = 1 << 15;
    result = prepare_dataset(gpt2(), settings);
    files = files_of(settings.prefix);
    settings.prefix = folder / "d";
  }
};
constexpr int64_t kBlock = 12;

// Whole documents, or blocks of kBlock tokens.
const Whole& at_once(int64_t block = 0) {
  static const Whole documents(0), blocks(kBlock);
  return block == 0 ? documents : blocks;
}

void expect_whole(const PrepareSettings& settings, const PrepareResult& result) {
  const Whole& whole = at_once(settings.block);
  EXPECT_TRUE(files_of(settings.prefix) == whole.files) << "other bytes";
  EXPECT_EQ(result.note.documents, whole.result.note.documents);
  EXPECT_EQ(result.note.blocks, whole.result.note.blocks);
  EXPECT_EQ(result.corpus.skipped, whole.result.corpus.skipped);
  EXPECT_EQ(places_of(result.corpus), places_of(whole.result.corpus));
  EXPECT_EQ(result.lengths, whole.result.lengths);
  EXPECT_FALSE(fs::exists(settings.prefix.string() + ".partial"));
  EXPECT_FALSE(fs::exists(settings.prefix.string() + ".lock"));
}

struct Killed {};

// Prepares until `parts` lines are there, and then no further.
void prepare_some(const PrepareSettings& settings, size_t parts) {
  const fs::path lines = settings.prefix.string() + ".partial/parts-0000";
  const auto stop = [&](const PrepareProgress&) {
    const std::string text = read_text(lines);
    if (static_cast<size_t>(std::count(text.begin(), text.end(), '\n')) >= parts) throw Killed();
  };
  EXPECT_THROW(prepare_dataset(gpt2(), settings, stop), Killed);
}

// Before and after each time that the processes meet, numbered from 1, on the one called `index`.
struct Meetings {
  std::function<void(int index, int meeting)> before, after;
};

// `count` processes, as threads, in rounds of so long. Returns what the first made, or throws what one did.
PrepareResult prepare_shared(PrepareSettings settings, int count,
                             std::chrono::milliseconds round = PrepareSharing().round, const Meetings& meetings = {}) {
  std::barrier meet(count);
  std::mutex mutex;
  std::vector<int64_t> sums;
  std::vector<PrepareResult> results(static_cast<size_t>(count));
  std::vector<std::thread> threads;
  for (int index = 0; index < count; ++index) {
    threads.emplace_back([&, index] {
      PrepareSettings own = settings;
      int meeting = 0;
      own.sharing = {.index = index, .count = count, .round = round, .add_up = [&](std::span<int64_t> values) {
                       ++meeting;
                       if (meetings.before) meetings.before(index, meeting);
                       {
                         const std::lock_guard lock(mutex);
                         sums.resize(values.size());
                         for (size_t i = 0; i < values.size(); ++i) sums[i] += values[i];
                       }
                       meet.arrive_and_wait();
                       std::copy(sums.begin(), sums.end(), values.begin());
                       meet.arrive_and_wait();
                       {
                         const std::lock_guard lock(mutex);
                         sums.clear();
                       }
                       meet.arrive_and_wait();
                       if (meetings.after) meetings.after(index, meeting);
                     }};
      results[static_cast<size_t>(index)] = prepare_dataset(gpt2(), own);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int index = 1; index < count; ++index) EXPECT_EQ(results[static_cast<size_t>(index)].note.documents, 0);
  return results[0];
}

TEST(PrepareParts, DoNotChangeTheFiles) {
  EXPECT_GE(at_once().result.parts, 7);
  EXPECT_THAT(places_of(at_once().result.corpus),
              ElementsAre(HasSubstr("b.jsonl:400: "), HasSubstr("b.jsonl:800: "), HasSubstr("b.jsonl:1200: ")))
      << "lines of the file, not of the part";
  PrepareSettings settings = at_once().settings;
  for (const int64_t bytes : {int64_t{3000}, kPartBytes}) {
    settings.part_bytes = bytes;
    settings.threads = bytes == kPartBytes ? 1 : 3;
    expect_whole(settings, prepare_dataset(gpt2(), settings));
  }
}

TEST(PrepareParts, AreKeptAndVerified) {
  PrepareSettings settings = at_once().settings;
  settings.threads = 2;
  std::vector<std::string> said;
  settings.say = [&](const std::string& text) { said.push_back(text); };
  prepare_some(settings, 4);
  EXPECT_THAT(said, ElementsAre(HasSubstr("d.partial': the same command goes on there")));
  const fs::path tokens = settings.prefix.string() + ".partial/tokens-0000";
  const PartialDataset partial(settings.prefix, TokenType::u16);
  const std::vector<StoredPart> stored = partial.stored();
  ASSERT_GE(stored.size(), 4U);
  // A part that is damaged, and a line that was not written to its end.
  std::string bytes = read_text(tokens);
  bytes[static_cast<size_t>(stored[1].record.tokens_begin)] ^= 1;
  at_once().folder.write("d.partial/tokens-0000", bytes);
  const fs::path lines = settings.prefix.string() + ".partial/parts-0000";
  const std::string text = read_text(lines);
  at_once().folder.write("d.partial/parts-0000", text + text.substr(0, 40));

  said.clear();
  std::vector<int64_t> verified;
  int64_t bytes_verified = 0, bytes_stored = 0;
  settings.verified = [&](int64_t done, int64_t total) {
    verified.push_back(done);
    bytes_verified = total;
  };
  for (const StoredPart& one : stored) bytes_stored += 2 * one.record.tokens + 4 * one.record.documents;
  const PrepareResult result = prepare_dataset(gpt2(), settings);
  expect_whole(settings, result);
  EXPECT_EQ(verified.size(), stored.size()) << "after each part, a damaged one, too";
  EXPECT_TRUE(std::is_sorted(verified.begin(), verified.end()));
  EXPECT_EQ(bytes_verified, bytes_stored);
  EXPECT_EQ(verified.back(), bytes_stored);
  EXPECT_EQ(result.kept_parts, static_cast<int64_t>(stored.size()) - 1);
  EXPECT_GT(result.kept_documents, 0);
  EXPECT_LT(result.kept_documents, result.note.documents);
  EXPECT_THAT(said, ElementsAre(HasSubstr(fmt::format("going on: {} of {} parts", stored.size() - 1, result.parts))));
}

TEST(PrepareParts, OfBlocksAreKeptAndShared) {
  const BlocksNote& blocks = at_once(kBlock).result.note.blocks;
  EXPECT_EQ(blocks.corpus_documents, at_once().result.note.documents);
  EXPECT_GT(blocks.short_documents, 0);
  // Documents are as they were, but for their end-of-document tokens.
  EXPECT_EQ(at_once(kBlock).result.note.tokens + blocks.dropped_tokens,
            at_once().result.note.tokens - at_once().result.note.documents);
  PrepareSettings settings = at_once(kBlock).settings;
  settings.threads = 2;
  prepare_some(settings, 4);
  const PrepareResult result = prepare_shared(settings, 3);
  expect_whole(settings, result);
  EXPECT_GE(result.kept_parts, 4);
  settings.part_bytes = kPartBytes;
  expect_whole(settings, prepare_dataset(gpt2(), settings));
}

TEST(PrepareParts, OfOtherInputsOrArgumentsAreRefused) {
  PrepareSettings settings = at_once().settings;
  prepare_some(settings, 2);
  const auto refused = [&](const char* what, const auto& change) {
    PrepareSettings other = settings;
    change(other);
    EXPECT_ERROR(what, prepare_dataset(gpt2(), other));
  };
  refused("end_of_document was 50256, and is -1", [](PrepareSettings& other) { other.end_of_document = false; });
  refused("block was 0, and is 12", [](PrepareSettings& other) { other.block = kBlock; });
  refused("part was 32768, and is 3000", [](PrepareSettings& other) { other.part_bytes = 3000; });
  refused("there were 6 input files, and are 5", [](PrepareSettings& other) { other.inputs.pop_back(); });
  refused("input 1 was {\"bytes\":", [](PrepareSettings& other) { std::swap(other.inputs[0], other.inputs[3]); });
  refused("--fresh", [](PrepareSettings& other) { other.corpus.strict = true; });
  const fs::path input = settings.inputs[5];
  const fs::file_time_type before = fs::last_write_time(input);
  fs::last_write_time(input, before + std::chrono::seconds(1));
  refused("input 6 was", [](PrepareSettings&) {});
  fs::last_write_time(input, before);

  settings.part_bytes = 20000;
  settings.fresh = true;
  const PrepareResult result = prepare_dataset(gpt2(), settings);
  expect_whole(settings, result);
  EXPECT_EQ(result.kept_parts, 0);
}

TEST(PrepareParts, WhatIsNotOursIsNotTouched) {
  PrepareSettings settings = at_once().settings;
  settings.prefix = at_once().folder / "mine";
  fs::create_directory(at_once().folder / "mine.partial");
  at_once().folder.write("mine.partial/letters.txt", "dear");
  EXPECT_ERROR("letters.txt' is not of an unfinished dataset", prepare_dataset(gpt2(), settings));
  settings.fresh = true;
  EXPECT_ERROR("letters.txt' is not of an unfinished dataset", prepare_dataset(gpt2(), settings));
  EXPECT_EQ(read_text(at_once().folder / "mine.partial/letters.txt"), "dear");
}

TEST(PrepareParts, AreSharedBySeveralProcesses) {
  PrepareSettings settings = at_once().settings;
  for (const int count : {2, 5}) expect_whole(settings, prepare_shared(settings, count));
  // Begun by one, gone on with by three, of which some have nothing to do.
  prepare_some(settings, static_cast<size_t>(at_once().result.parts) - 2);
  const PrepareResult result = prepare_shared(settings, 3);
  expect_whole(settings, result);
  EXPECT_GE(result.kept_parts, at_once().result.parts - 2);
  settings.part_bytes = kPartBytes;  // one part
  expect_whole(settings, prepare_shared(settings, 2));
}

// With a round after every batch: as often as they may meet, however unequal their work is.
TEST(PrepareParts, AreSharedInRounds) {
  PrepareSettings settings = at_once().settings;
  for (const int count : {2, 5}) expect_whole(settings, prepare_shared(settings, count, std::chrono::milliseconds(0)));
  prepare_some(settings, 2);
  expect_whole(settings, prepare_shared(settings, 3, std::chrono::milliseconds(0)));
}

// A host may see late what another one wrote. What is missing all must see alike, or parts are done twice, or by
// nobody.
TEST(PrepareParts, AreSharedAlikeWhateverAHostSeesOfThem) {
  PrepareSettings settings = at_once().settings;
  prepare_some(settings, 4);
  const fs::path lines = settings.prefix.string() + ".partial/parts-0000", hidden = at_once().folder / "hidden";
  std::atomic<bool> gone = false;
  const Meetings meetings = {.before =
                                 [&](int index, int meeting) {
                                   if (index != 0) return;
                                   if (meeting == 2) fs::rename(lines, hidden);  // which this one has read by now
                                   if (meeting == 2) gone = true;
                                   if (meeting == 3) fs::rename(hidden, lines);
                                 },
                             .after =
                                 [&](int index, int meeting) {
                                   while (index == 1 && meeting == 1 && !gone) std::this_thread::yield();
                                 }};
  const PrepareResult result = prepare_shared(settings, 2, PrepareSharing().round, meetings);
  expect_whole(settings, result);
  EXPECT_GE(result.kept_parts, 2) << "of those that the first one verified";
}

TEST(PrepareParts, OfInputsThatChangeMeanwhileAreRefused) {
  const TemporaryFolder folder;
  PrepareSettings settings;
  settings.inputs = {folder.write("a.txt", "one\n\ntwo\n"), folder.write("b.txt", "three\n")};
  settings.prefix = folder / "d";
  const auto append = [&](const PrepareProgress&) { std::ofstream(folder / "b.txt", std::ios::app) << "more\n"; };
  EXPECT_ERROR("b.txt' was changed while it was read: it had 6 bytes, and has",
               prepare_dataset(gpt2(), settings, append));
  EXPECT_EQ(folder.files(), 2U) << "only the inputs";
  const auto touch = [&](const PrepareProgress&) { fs::last_write_time(folder / "a.txt", fs::file_time_type()); };
  EXPECT_ERROR("a.txt' was changed while it was read: it was written to", prepare_dataset(gpt2(), settings, touch));
  const auto remove = [&](const PrepareProgress&) { fs::remove(folder / "a.txt"); };
  EXPECT_ERROR("a.txt' was changed while it was read: it is not there", prepare_dataset(gpt2(), settings, remove));
}

TEST(PrepareParts, LeadNowhereWithoutDocuments) {
  const TemporaryFolder folder;
  PrepareSettings settings;
  settings.inputs = {folder.write("a.txt", "\n\n \n"), folder.write("b.jsonl", "{\"x\": 1}\n")};
  settings.prefix = folder / "d";
  settings.part_bytes = 1;
  EXPECT_ERROR("1 line skipped", prepare_dataset(gpt2(), settings));
  EXPECT_EQ(folder.files(), 2U) << "only the inputs";
  settings.corpus.strict = true;
  EXPECT_ERROR("b.jsonl:1:", prepare_dataset(gpt2(), settings));
}

TEST(PrepareParts, AStrictErrorNamesTheLineOfTheFile) {
  const TemporaryFolder folder;
  PrepareSettings settings;
  std::string text;
  for (int i = 0; i < 300; ++i) text += "line\r\rline\r\n\n";
  settings.inputs = {folder.write("a.txt", text + "bad \xff\n\n" + text)};
  settings.prefix = folder / "d";
  settings.part_bytes = 1000;
  settings.corpus.strict = true;
  EXPECT_ERROR("a.txt:1201: byte 0xff", prepare_dataset(gpt2(), settings));
  EXPECT_TRUE(fs::exists(folder / "d.partial")) << "parts before it are done";
}

std::vector<std::string> documents_in(const fs::path& file, int64_t part_bytes, size_t* parts = nullptr) {
  std::vector<std::string> documents;
  CorpusReader all({file}, {});
  const std::vector<CorpusPart> cut = parts_of(all.inputs(), part_bytes);
  if (parts != nullptr) *parts = cut.size();
  int64_t end = 0;
  for (const CorpusPart& part : cut) {
    CorpusReader reader({file}, {});
    EXPECT_EQ(part.ranges.size(), 1U);
    EXPECT_EQ(part.ranges[0].begin, end);
    end = part.ranges[0].end;
    reader.read_only(part.ranges);
    for (DocumentBatch batch; reader.next(batch); batch = {}) {
      reader.parse(batch);
      reader.add(batch);
      for (size_t i = 0; i < batch.size(); ++i) documents.emplace_back(batch[i]);
    }
  }
  EXPECT_EQ(end, static_cast<int64_t>(fs::file_size(file)));
  return documents;
}

TEST(CorpusParts, CutBetweenDocuments) {
  const TemporaryFolder folder;
  std::mt19937 random(8);
  size_t several = 0;
  for (int i = 0; i < 150; ++i) {
    std::string text;
    const bool json = i % 3 == 0;
    while (text.size() < 400) {
      constexpr std::array kPieces = {"\n", "\r", "\r\n", " ", "\t", "a", "word", "é"};
      text += json ? fmt::format("{{\"text\": \"{}\"}}{}\n", random() % 1000, random() % 4 == 0 ? "\r" : "")
                   : kPieces[random() % kPieces.size()];
    }
    const fs::path file = folder.write(json ? "a.jsonl" : "a.txt", text);
    const std::vector<std::string> expected = documents_in(file, kPartBytes);
    for (const int64_t bytes : {1, 7, 100, 270}) {
      size_t parts = 0;
      ASSERT_EQ(documents_in(file, bytes, &parts), expected) << testing::PrintToString(text) << bytes;
      several += parts > 2 ? 1 : 0;
    }
  }
  EXPECT_GT(several, 300U);
}

TEST(CorpusParts, AreSharedBySize) {
  std::vector<CorpusPart> parts(6);
  for (size_t i = 0; i < parts.size(); ++i) parts[i].work = std::array{5, 9, 1, 1, 4, 9}[i];
  const std::vector<size_t> todo = {0, 1, 2, 3, 4};
  EXPECT_THAT(share_parts(parts, todo, 2), ElementsAre(ElementsAre(1, 2), ElementsAre(0, 3, 4)));
  EXPECT_THAT(share_parts(parts, todo, 7)[5], testing::IsEmpty());
}

PartRecord any_record() {
  PartRecord record{.part = 3,
                    .tokens_begin = kChecksumBlock - 4,
                    .tokens = 5,
                    .sums = {7, 0xFFFFFFFF},
                    .lengths_begin = 12,
                    .documents = 2,
                    .lengths_sum = 1,
                    .lines = 9,
                    .lengths = {0, 1, 1},
                    .counts = {}};
  record.blocks = {.documents = 2, .short_documents = 1, .dropped_tokens = 3, .text_bytes = 7, .longest = 6};
  record.counts.documents = 2;
  record.counts.skipped = {{"not valid JSON", 1}};
  record.counts.markers = {0, 4};
  record.counts.problems = {{"a \"b\".txt", 4, "what\n"}};
  return record;
}

TEST(PartRecord, ComesBackFromItsLine) {
  const std::string line = to_line(any_record());
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  const std::string_view text = std::string_view(line).substr(0, line.size() - 1);
  const auto record = record_of(text, 2);
  ASSERT_TRUE(record);
  EXPECT_EQ(*record, any_record());
  for (size_t size = 0; size < text.size(); ++size) EXPECT_FALSE(record_of(text.substr(0, size), 2)) << size;
  EXPECT_FALSE(record_of(text, 1 << 24)) << "fewer checksums than these tokens have";
  const auto with = [](const std::string& from, const std::string& to) {
    const std::string whole_line = to_line(any_record());
    std::string changed = whole_line.substr(9, whole_line.size() - 10);
    changed.replace(changed.find(from), from.size(), to);
    return record_of(fmt::format("{} {}", checksum_text(crc32c(bytes_of(changed))), changed), 2);
  };
  EXPECT_TRUE(with("\"lines\":9", "\"lines\":8"));
  for (const char* bad :
       {"\"lines\":-1", "\"lines\":1.5", "\"lines\":9223372036854775807", "\"lines\":null", "\"line\":9"})
    EXPECT_FALSE(with("\"lines\":9", bad)) << bad;
  EXPECT_FALSE(with("\"tokens\":5", "\"tokens\":72057594037927936"));
}

TEST(Prepare, LongDocumentsAreCutOverTheThreads) {
  const TemporaryFolder folder;
  std::string text;
  while (text.size() < kLongDocument + (size_t{1} << 20)) text += "Слово и word, 3 漢字。Ein Wort  \n<|endoftext|> ";
  PrepareSettings settings;
  settings.inputs = {folder.write(
      "a.jsonl", "{\"text\": \"one\"}\n" + nlohmann::json{{"text", text}}.dump() + "\n{\"text\": \"three\"}\n")};
  std::vector<int32_t> expected = gpt2().encode(text);
  expected.push_back(50256);
  for (const int threads : {1, 3}) {
    settings.threads = threads;
    settings.prefix = folder / ("d" + std::to_string(threads));
    prepare_dataset(gpt2(), settings);
    const auto dataset = IndexedDataset::open(settings.prefix);
    ASSERT_EQ(dataset->documents(), 3);
    std::vector<int32_t> ids(static_cast<size_t>(dataset->length(1)));
    dataset->read(dataset->begin(1), ids, gpt2().vocab_size());
    EXPECT_TRUE(ids == expected);
  }
}

}  // namespace
}  // namespace ridgeline::data
