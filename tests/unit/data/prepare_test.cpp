#include "ridgeline/data/prepare.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <atomic>
#include <numeric>

#include "ridgeline/data/ordered_pipeline.h"
#include "support.h"

namespace ridgeline::data {
namespace {

using test::fixture;
using test::gpt2;
using test::TemporaryFolder;
using testing::HasSubstr;

std::string document_text(const IndexedDataset& dataset, int64_t document) {
  std::vector<int32_t> ids(static_cast<size_t>(dataset.length(document)));
  dataset.read(dataset.begin(document), ids, gpt2().vocab_size());
  return gpt2().decode(ids);
}

TEST(Prepare, TextGoesInAndComesBack) {
  const TemporaryFolder folder;
  PrepareSettings settings;
  settings.inputs = {
      folder.write("a.txt", "First document,\nof two lines.\n\n  Zweites: Übergröße 漢字 <|endoftext|>\n"),
      folder.write("b.jsonl", "{\"text\": \"third\"}\n{\"text\": \"cut\n")};
  settings.prefix = folder / "out/d";
  settings.tokenizer = "gpt2";
  std::vector<PrepareProgress> seen;
  const PrepareResult result =
      prepare_dataset(gpt2(), settings, [&](const PrepareProgress& now) { seen.push_back(now); });

  const auto dataset = IndexedDataset::open(folder / "out/d");
  ASSERT_EQ(dataset->documents(), 3);
  EXPECT_EQ(document_text(*dataset, 0), "First document,\nof two lines.<|endoftext|>");
  EXPECT_EQ(document_text(*dataset, 1), "  Zweites: Übergröße 漢字 <|endoftext|><|endoftext|>");
  EXPECT_EQ(document_text(*dataset, 2), "third<|endoftext|>");
  ASSERT_TRUE(dataset->note());
  EXPECT_EQ(dataset->note()->tokenizer_hash, gpt2().hash());
  EXPECT_EQ(dataset->note()->vocabulary, 50257);
  EXPECT_EQ(dataset->note()->end_of_document, 50256);
  EXPECT_EQ(dataset->note()->text_bytes, result.corpus.text_bytes);
  EXPECT_EQ(text_bytes(*dataset, 0, 3, gpt2()), result.corpus.text_bytes)
      << "the name in the text is text, not the token";
  EXPECT_EQ(text_bytes(*dataset, 2, 3, gpt2()), 5);
  EXPECT_EQ(text_bytes(*dataset, 1, 1, gpt2()), 0);
  EXPECT_EQ(result.corpus.skipped_lines, 1);
  ASSERT_FALSE(seen.empty());
  EXPECT_EQ(seen.back().documents, 3);
  EXPECT_EQ(seen.back().bytes_done, seen.back().bytes_total);
  EXPECT_EQ(seen.back().tokens, dataset->tokens());
}

TEST(Prepare, OptionsForTheEndOfDocumentsAndSpecials) {
  const TemporaryFolder folder;
  PrepareSettings settings;
  settings.inputs = {folder.write("a.txt", "a<|endoftext|>b")};
  settings.prefix = folder / "d";
  settings.end_of_document = false;
  settings.specials = Specials::recognise;
  EXPECT_EQ(prepare_dataset(gpt2(), settings).note.tokens, 3);
  EXPECT_EQ(IndexedDataset::open(folder / "d")->note()->end_of_document, -1);
}

TEST(Prepare, ThreadsDoNotChangeTheFiles) {
  const TemporaryFolder folder;
  std::string corpus;
  for (int i = 0; i < 90000; ++i) {
    corpus += "Line " + std::to_string(i * 7919) + " of many words; ünd ñ.\n" + (i % 7 == 0 ? "\n" : "");
  }
  ASSERT_GT(corpus.size(), size_t{3} << 20) << "several batches, or the threads have nothing to disorder";
  PrepareSettings settings;
  settings.inputs = {folder.write("a.txt", corpus), fixture("corpora/members.txt.gz"),
                     folder.write("b.txt", corpus.substr(0, 100000)), fixture("corpora/oscar_2301.jsonl.zst")};
  for (const int threads : {1, 2, 7}) {
    settings.threads = threads;
    settings.prefix = folder / ("d" + std::to_string(threads));
    prepare_dataset(gpt2(), settings);
  }
  for (const char* suffix : {".bin", ".idx", ".json"}) {
    const std::string expected = read_text(folder / (std::string("d1") + suffix));
    EXPECT_EQ(read_text(folder / (std::string("d2") + suffix)), expected);
    EXPECT_EQ(read_text(folder / (std::string("d7") + suffix)), expected);
  }
}

TEST(Prepare, FailuresLeaveNothingBehind) {
  const TemporaryFolder folder;
  PrepareSettings settings;
  settings.prefix = folder / "d";
  settings.threads = 3;
  settings.inputs = {folder.write("empty.txt", " \n\n")};
  EXPECT_ERROR("no document in", prepare_dataset(gpt2(), settings));
  settings.inputs = {folder.write("bad.jsonl", "{\"a\": 1}\n{\"b\": 2}\n")};
  EXPECT_ERROR("2 lines skipped; first problem", prepare_dataset(gpt2(), settings));
  settings.corpus.strict = true;
  settings.inputs = {folder.write("half.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b")};
  EXPECT_ERROR("half.jsonl:2:", prepare_dataset(gpt2(), settings));
  EXPECT_EQ(folder.files(), 3U) << "only the inputs";
}

TEST(Prepare, NothingIsOverwrittenThatItDidNotWrite) {
  const TemporaryFolder folder;
  PrepareSettings settings;
  const std::string lines = "{\"text\": \"one\"}\n{\"text\": \"two\"}\n";
  settings.inputs = {folder.write("web.json", lines)};
  const auto refused = [&](const std::filesystem::path& prefix, const std::string& what) {
    settings.prefix = prefix;
    EXPECT_ERROR(what, prepare_dataset(gpt2(), settings));
    EXPECT_EQ(read_text(folder / "web.json"), lines);
  };
  refused(folder / "web", "is the input");
  std::filesystem::create_symlink(folder / "web.json", folder / "soft.json");
  refused(folder / "soft", "is the input");
  std::filesystem::create_hard_link(folder / "web.json", folder / "hard.json");
  refused(folder / "hard", "is the input");
  refused(folder / "./../" / folder.name() / "web.bin", "is the input");

  for (const char* name : {"a.json", "b.bin", "c.idx"}) folder.write(name, lines);
  for (const char* prefix : {"a", "b", "c"}) refused(folder / prefix, "Ridgeline did not write it");
  for (const char* name : {"a.json", "b.bin", "c.idx"}) EXPECT_EQ(read_text(folder / name), lines);
  EXPECT_EQ(folder.files(), 6U) << "nothing was begun";

  for (const char* prefix : {"", ".", "..", "x/"}) refused(folder / prefix, "names a folder");
  // Its own datasets, also half-removed ones, and empty files are in nobody's way.
  folder.write("new.bin", "");
  settings.prefix = folder / "new";
  EXPECT_EQ(prepare_dataset(gpt2(), settings).note.documents, 2);
  std::filesystem::remove(folder / "new.idx");
  EXPECT_EQ(prepare_dataset(gpt2(), settings).note.documents, 2);
  EXPECT_EQ(IndexedDataset::open(folder / "new")->documents(), 2);
  // Also one so large that the checksums in its note are more than is looked at.
  const std::string note = read_text(folder / "new.json");
  std::string sums;
  for (int i = 0; i < 6000; ++i) sums += "\"01234567\",\n";
  folder.write("new.json", note.substr(0, note.rfind('[') + 1) + sums + note.substr(note.rfind('[') + 1));
  EXPECT_EQ(prepare_dataset(gpt2(), settings).note.documents, 2);
  // A dataset of other tools has no note.
  std::filesystem::remove(folder / "new.json");
  refused(folder / "new", "Ridgeline did not write it");
}

TEST(Prepare, ATokenizerWithoutAnEndNeedsNoEod) {
  const TemporaryFolder folder;
  auto without = test::json_fixture("data/llama3_style/tokenizer.json");
  without["added_tokens"] = nlohmann::json::array();
  folder.write("tokenizer.json", without.dump());
  const Tokenizer tokenizer = Tokenizer::load(folder / "");
  EXPECT_FALSE(tokenizer.end_of_document());
  PrepareSettings settings;
  settings.inputs = {folder.write("a.txt", "a")};
  settings.prefix = folder / "d";
  EXPECT_ERROR("--no-eod", prepare_dataset(tokenizer, settings));
  settings.end_of_document = false;
  EXPECT_EQ(prepare_dataset(tokenizer, settings).note.documents, 1);
}

TEST(Prepare, LengthsAndReasonsAreCounted) {
  const TemporaryFolder folder;
  PrepareSettings settings;
  settings.inputs = {folder.write("a.txt", "a\n\na b\n\na b c\n\na b c d\n\na b c d e f g h\n"),
                     fixture("corpora/oscar_2301.jsonl.zst")};
  settings.prefix = folder / "d";
  const PrepareResult result = prepare_dataset(gpt2(), settings);
  EXPECT_EQ(result.note.documents, 9);
  // With the end: 2, 3, 4, 5 and 9 tokens; the four of OSCAR have 4 to 8.
  EXPECT_EQ(result.lengths, (std::vector<int64_t>{0, 2, 5, 2}));
  settings.inputs = {folder.write("e.jsonl", "{\"text\": \"\"}\n{\"text\": \"a\"}\n")};
  settings.end_of_document = false;
  EXPECT_EQ(prepare_dataset(gpt2(), settings).lengths, (std::vector<int64_t>{1}));
}

// The tutorial's script: tokenizer(text, truncation=True, max_length=N, return_overflowing_tokens=True), of which it
// keeps what is exactly N tokens long.
TEST(Prepare, BlocksAreOfOneDocumentAndTheRestIsCounted) {
  const TemporaryFolder folder;
  std::string corpus;
  std::vector<std::vector<int32_t>> documents;
  for (int i = 0; i < 60; ++i) {
    std::string text = "Document " + std::to_string(i) + ":";
    for (int word = 0; word < i * i % 97; ++word) text += " wörd " + std::to_string(word * 31);
    documents.emplace_back();
    Encoder(gpt2()).encode(text, documents.back(), Specials::as_text);
    corpus += nlohmann::json{{"text", text}}.dump() + "\n";
  }
  PrepareSettings settings;
  settings.inputs = {folder.write("a.jsonl", corpus)};
  settings.prefix = folder / "d";
  settings.block = 32;
  settings.threads = 3;
  const PrepareResult result = prepare_dataset(gpt2(), settings);

  std::vector<int32_t> expected;
  BlocksNote counts{.tokens = 32, .corpus_documents = 60};
  for (const std::vector<int32_t>& ids : documents) {
    const size_t kept = ids.size() / 32 * 32;
    expected.insert(expected.end(), ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(kept));
    counts.dropped_tokens += static_cast<int64_t>(ids.size() - kept);
    counts.short_documents += kept == 0 ? 1 : 0;
  }
  ASSERT_GT(counts.short_documents, 0);
  const auto dataset = IndexedDataset::open(folder / "d");
  EXPECT_EQ(dataset->block(), 32);
  EXPECT_EQ(dataset->note()->blocks, counts);
  EXPECT_EQ(result.note.blocks, counts);
  EXPECT_EQ(dataset->note()->end_of_document, -1) << "none is appended";
  EXPECT_EQ(dataset->documents(), std::ssize(expected) / 32);
  std::vector<int32_t> ids(expected.size());
  dataset->read(0, ids, gpt2().vocab_size());
  EXPECT_EQ(ids, expected);
  EXPECT_EQ(dataset->note()->text_bytes, text_bytes(*dataset, 0, dataset->documents(), gpt2())) << "of what is kept";
  EXPECT_EQ(std::accumulate(result.lengths.begin(), result.lengths.end(), int64_t{0}), 60);

  settings.block = 1 << 20;
  settings.prefix = folder / "none";
  EXPECT_ERROR("none of the 60 documents has so many tokens", prepare_dataset(gpt2(), settings));
  EXPECT_FALSE(std::filesystem::exists(folder / "none.bin"));
}

TEST(OrderedPipeline, HoldsNoMoreThanItsWeight) {
  for (const int threads : {2, 5}) {
    std::atomic<int> alive = 0, most = 0;
    int produced = 0;
    ordered_pipeline<int>(
        threads,
        [&](int&) {
          most = std::max(most.load(), ++alive);
          return produced++ < 50;
        },
        [](int) { return kPipelineWeight + 1; }, [](int, int&) {}, [&](int&) { --alive; });
    EXPECT_EQ(most, threads) << "each weighs what one thread may hold";
  }
}

TEST(OrderedPipeline, UsesTheMemoryOfItemsAgain) {
  for (const int threads : {1, 3}) {
    int produced = 0, without_memory = 0;
    ordered_pipeline<std::vector<int>>(
        threads,
        [&](std::vector<int>& item) {
          without_memory += item.capacity() == 0 ? 1 : 0;
          clear_for_reuse(item);
          item.resize(1000);
          return produced++ < 200;
        },
        [](const std::vector<int>&) { return size_t{0}; }, [](int, std::vector<int>&) {}, [](std::vector<int>&) {});
    EXPECT_LE(without_memory, 2 * threads + 1);
  }
  std::string unusual(kPipelineWeight + 1, 'x'), usual(1000, 'x');
  clear_for_reuse(unusual);
  clear_for_reuse(usual);
  EXPECT_EQ(unusual.size() + usual.size(), 0U);
  EXPECT_LT(unusual.capacity(), 1000U);
  EXPECT_GE(usual.capacity(), 1000U);
}

TEST(OrderedPipeline, AnErrorOfTheProducerComesAfterTheItemsBeforeIt) {
  for (const int threads : {1, 2, 8}) {
    int produced = 0, committed = 0;
    EXPECT_ERROR("item 20", ordered_pipeline<int>(
                                threads,
                                [&](int&) {
                                  if (produced++ == 20) throw Error("item 20");
                                  return true;
                                },
                                [](int) { return size_t{0}; }, [](int, int&) {}, [&](int&) { ++committed; }));
    EXPECT_EQ(committed, 20);
  }
}

TEST(OrderedPipeline, CommitsInOrderAndStopsAtTheFirstError) {
  for (const int threads : {1, 2, 8}) {
    for (const int fails_at : {-1, 0, 57, 99}) {
      int produced = 0;
      std::vector<int> committed;
      const auto run = [&] {
        ordered_pipeline<int>(
            threads, [&](int& item) { return (item = produced++) < 100; }, [](int) { return size_t{0}; },
            [&](int, int& item) {
              if (item == fails_at) throw Error(fmt::format("item {}", item));
              item *= 2;
            },
            [&](int& item) { committed.push_back(item); });
      };
      if (fails_at < 0) {
        run();
        EXPECT_EQ(committed.size(), 100U);
      } else {
        EXPECT_ERROR(fmt::format("item {}", fails_at), run());
        EXPECT_EQ(static_cast<int>(committed.size()), fails_at);
      }
      for (size_t i = 0; i < committed.size(); ++i) EXPECT_EQ(committed[i], 2 * static_cast<int>(i));
    }
  }
}

}  // namespace
}  // namespace ridgeline::data
