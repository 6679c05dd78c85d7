#include "ridgeline/data/indexed_dataset.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/resource.h>

#include <csignal>
#include <cstring>

#include "support.h"

namespace ridgeline::data {
namespace {

using test::TemporaryFolder;
using testing::ElementsAre;

std::vector<int32_t> read_all(const IndexedDataset& dataset, int64_t vocabulary) {
  std::vector<int32_t> tokens(static_cast<size_t>(dataset.tokens()));
  dataset.read(0, tokens, vocabulary);
  return tokens;
}

void write_small(const std::filesystem::path& prefix, int64_t vocabulary = 100,
                 const std::optional<DatasetNote>& note = std::nullopt) {
  IndexedDatasetWriter writer(prefix, vocabulary);
  writer.add_document(std::vector<int32_t>{1, 2, 3});
  writer.add_document(std::vector<int32_t>{4, 99});
  writer.finish(note);
}

std::string hex(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) text += fmt::format("{:02x}", static_cast<uint8_t>(c));
  return text;
}

TEST(IndexedDataset, WritesMegatronsBytes) {
  const TemporaryFolder folder;
  write_small(folder / "d");
  EXPECT_EQ(hex(read_text(folder / "d.idx")),
            "4d4d4944494458000001000000000000000802000000000000000300000000000000030000000200000000000000000000000600"
            "000000000000000000000000000001000000000000000200000000000000");
  EXPECT_EQ(hex(read_text(folder / "d.bin")), "01000200030004006300");
  EXPECT_EQ(folder.files(), 2U);
}

TEST(IndexedDataset, ReadsWhatWasWritten) {
  const TemporaryFolder folder;
  for (const int64_t vocabulary : {int64_t{100}, int64_t{65499}, int64_t{65500}, int64_t{200000}}) {
    write_small(folder / "d", vocabulary);
    for (const char* name : {"d", "d.bin", "d.idx"}) {
      const auto dataset = IndexedDataset::open(folder / name);
      EXPECT_EQ(dataset->token_type(), vocabulary < 65500 ? TokenType::u16 : TokenType::i32);
      EXPECT_EQ(dataset->documents(), 2);
      EXPECT_EQ(dataset->tokens(), 5);
      EXPECT_EQ(dataset->length(0), 3);
      EXPECT_EQ(dataset->begin(1), 3);
      EXPECT_EQ(dataset->begin(2), 5);
      EXPECT_THAT(read_all(*dataset, vocabulary), ElementsAre(1, 2, 3, 4, 99));
      EXPECT_FALSE(dataset->note());
    }
  }
}

// Files of this process are no longer than so many bytes while it lives: the next one fails, as on a full disk.
class ShortFiles {
 public:
  explicit ShortFiles(rlim_t bytes) : signal_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~ShortFiles() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, signal_);
  }
  ShortFiles(const ShortFiles&) = delete;
  ShortFiles& operator=(const ShortFiles&) = delete;

 private:
  rlimit before_{};
  void (*signal_)(int);
};

TEST(IndexedDataset, ANoteForWhichThereIsNoRoomCostsNothing) {
  const TemporaryFolder folder;
  write_small(folder / "d");
  IndexedDatasetWriter writer(folder / "d", 100);
  writer.add_document(std::vector<int32_t>{5});
  std::string error;
  {
    const ShortFiles limit(100);  // the index has 62
    error = test::error_of([&] { writer.finish(DatasetNote{.tokens = 1, .documents = 1, .vocabulary = 100}); });
  }
  EXPECT_NE(error.find("d.json"), std::string::npos) << error;
  EXPECT_EQ(IndexedDataset::open(folder / "d")->documents(), 2) << "the dataset of before";
}

TEST(IndexedDataset, EmptyDocumentsAndLargeOnesSurvive) {
  const TemporaryFolder folder;
  std::vector<int32_t> large(3 << 20);
  for (size_t i = 0; i < large.size(); ++i) large[i] = static_cast<int32_t>(i % 60000);
  {
    IndexedDatasetWriter writer(folder / "d", 60000);
    writer.add_document({});
    writer.add_document(large);
    writer.add_document({});
    writer.add_document(std::vector<int32_t>{7});
    writer.finish(std::nullopt);
  }
  const auto dataset = IndexedDataset::open(folder / "d");
  EXPECT_EQ(dataset->documents(), 4);
  large.push_back(7);
  EXPECT_EQ(read_all(*dataset, 60000), large);
}

TEST(IndexedDataset, UnfinishedWritersLeaveNothing) {
  const TemporaryFolder folder;
  {
    IndexedDatasetWriter writer(folder / "d", 10);
    writer.add_document(std::vector<int32_t>{1});
    EXPECT_ERROR("token id 10", writer.add_document(std::vector<int32_t>{10}));
    EXPECT_ERROR("token id -1", writer.add_document(std::vector<int32_t>{-1}));
  }
  {
    IndexedDatasetWriter writer(folder / "d", 10);
    EXPECT_ERROR("would be empty", writer.finish(std::nullopt));
  }
  EXPECT_EQ(folder.files(), 0U);
  EXPECT_ERROR("does not exist", IndexedDataset::open(folder / "d"));
}

TEST(IndexedDataset, EveryTokenTypeOfTheFormatIsRead) {
  const TemporaryFolder folder;
  write_small(folder / "d");
  const std::string index = read_text(folder / "d.idx");
  const auto with_type = [&](uint8_t code, auto token) {
    std::string changed = index;
    changed[17] = static_cast<char>(code);
    const int64_t offset = 3 * static_cast<int64_t>(sizeof token);
    std::memcpy(changed.data() + 34 + 8 + 8, &offset, 8);
    std::string bin;
    for (const int value : {1, 2, 3, 4, 99}) {
      token = static_cast<decltype(token)>(value);
      bin.append(reinterpret_cast<const char*>(&token), sizeof token);
    }
    folder.write("e.idx", changed);
    folder.write("e.bin", bin);
    EXPECT_THAT(read_all(*IndexedDataset::open(folder / "e"), 100), ElementsAre(1, 2, 3, 4, 99)) << int{code};
  };
  with_type(1, uint8_t{});
  with_type(2, int8_t{});
  with_type(3, int16_t{});
  with_type(4, int32_t{});
  with_type(5, int64_t{});
  with_type(8, uint16_t{});
  for (const char code : {'\0', '\6', '\7', '\11'}) {
    std::string changed = index;
    changed[17] = code;
    folder.write("e.idx", changed);
    EXPECT_ERROR("token type code", IndexedDataset::open(folder / "e"));
  }
}

TEST(IndexedDatasetWriter, WritesEveryTokenOrRefusesIt) {
  const TemporaryFolder folder;
  for (const int64_t vocabulary : {int64_t{65000}, int64_t{70000}}) {  // two bytes each, and four
    std::vector<int32_t> tokens(200);
    for (size_t i = 0; i < tokens.size(); ++i)
      tokens[i] = static_cast<int32_t>(vocabulary) - 1 - static_cast<int32_t>(i);
    IndexedDatasetWriter good(folder / "d", vocabulary);
    good.add_document(tokens);
    good.finish({});
    std::vector<int32_t> read(tokens.size());
    IndexedDataset::open(folder / "d")->read(0, read, vocabulary);
    EXPECT_EQ(read, tokens);
    for (const size_t place : {0, 63, 64, 130, 199}) {
      for (const int32_t id : {static_cast<int32_t>(vocabulary), -1}) {
        std::vector<int32_t> bad = tokens;
        bad[place] = id;
        IndexedDatasetWriter writer(folder / "bad", vocabulary);
        EXPECT_ERROR(fmt::format("token id {} is outside the vocabulary", id), writer.add_document(bad));
      }
    }
  }
}

TEST(IndexedDataset, IdsOutsideTheVocabularyAreNamedWithTheirPlace) {
  const TemporaryFolder folder;
  write_small(folder / "d");
  const auto dataset = IndexedDataset::open(folder / "d");
  EXPECT_ERROR("token id 99 at position 4 (document 1, token 1) is outside the vocabulary of 99",
               read_all(*dataset, 99));
  folder.write("d.bin", std::string("\x01\x00\x02\x00\x03\x00\xff\xff\x63\x00", 10));
  EXPECT_ERROR("token id 65535", read_all(*IndexedDataset::open(folder / "d"), 100));
  std::string index = read_text(folder / "d.idx");
  index[17] = 3;  // i16: 0xffff is -1
  folder.write("d.idx", index);
  EXPECT_ERROR("token id -1 at position 3", read_all(*IndexedDataset::open(folder / "d"), 100));
}

TEST(IndexedDataset, ManyTokensAreVisitedInOrder) {
  const TemporaryFolder folder;
  for (const int64_t vocabulary : {int64_t{60'000}, int64_t{200'000}}) {
    IndexedDatasetWriter writer(folder / "d", vocabulary);
    std::vector<int32_t> all;
    for (int32_t document = 0; document < 90; ++document) {
      std::vector<int32_t> tokens(static_cast<size_t>(document) * 331);
      for (int32_t& token : tokens) token = static_cast<int32_t>((std::ssize(all) + (&token - tokens.data())) % 59'999);
      writer.add_document(tokens);
      all.insert(all.end(), tokens.begin(), tokens.end());
    }
    writer.finish(std::nullopt);
    const auto dataset = IndexedDataset::open(folder / "d");
    ASSERT_GT(dataset->bytes(), 2 << 20);
    for (const auto& [begin, end] : {std::pair<size_t, size_t>{0, all.size()}, {1, all.size() - 1}, {77, 77}}) {
      std::vector<int32_t> visited;
      dataset->visit_tokens(
          static_cast<int64_t>(begin), static_cast<int64_t>(end), vocabulary,
          [&](std::span<const int32_t> some) { visited.insert(visited.end(), some.begin(), some.end()); });
      EXPECT_TRUE(std::equal(visited.begin(), visited.end(), all.begin() + static_cast<std::ptrdiff_t>(begin),
                             all.begin() + static_cast<std::ptrdiff_t>(end)));
    }
    // The first that is none, in the second megabyte.
    EXPECT_ERROR("token id 59998 at position 1259978",
                 dataset->visit_tokens(1'200'000, dataset->tokens(), 59'998, [](std::span<const int32_t>) {}));
  }
}

TEST(IndexedDataset, MultimodalModesAreAccepted) {
  const TemporaryFolder folder;
  write_small(folder / "d");
  folder.write("d.idx", read_text(folder / "d.idx") + std::string(2, '\0'));
  EXPECT_EQ(IndexedDataset::open(folder / "d")->tokens(), 5);
}

TEST(IndexedDataset, DamageIsRefused) {
  const TemporaryFolder folder;
  write_small(folder / "d");
  const std::string index = read_text(folder / "d.idx"), bin = read_text(folder / "d.bin");
  const auto expect = [&](const char* part, const std::string& changed) {
    folder.write("d.idx", changed);
    EXPECT_ERROR(part, IndexedDataset::open(folder / "d"));
  };
  const auto changed = [&](size_t at, int64_t value, size_t bytes) {
    std::string copy = index;
    std::memcpy(copy.data() + at, &value, bytes);
    return copy;
  };
  for (size_t cut = 0; cut < index.size(); ++cut) {
    folder.write("d.idx", index.substr(0, cut));
    EXPECT_THROW(IndexedDataset::open(folder / "d"), Error) << cut;
  }
  expect("not a token index", "something else altogether, long enough to be a header");
  expect("old 'lazy'", std::string("TNTIDX\0\0", 8) + index);
  expect("version 2", changed(9, 2, 8));
  expect("cannot hold", changed(18, -1, 8));
  expect("cannot hold", changed(18, int64_t{1} << 62, 8));
  expect("cannot hold", changed(26, int64_t{1} << 61, 8));
  expect("cannot hold", index + "x");
  expect("has -1 tokens", changed(34, -1, 4));
  expect("add up to 6 tokens", changed(34, 4, 4));
  expect("said to start at byte 8", changed(34 + 16, 8, 8));
  expect("document bound 0", changed(34 + 24, 1, 8));
  expect("document bound 2", changed(34 + 24 + 16, 1, 8));
  folder.write("d.idx", index);
  folder.write("d.bin", bin.substr(0, 9));
  EXPECT_ERROR("the .bin file has 9 bytes", IndexedDataset::open(folder / "d"));
}

TEST(IndexedDataset, LengthsWithoutTheirEndTokensAreRecognised) {
  const TemporaryFolder folder;
  write_small(folder / "d");
  folder.write("d.bin", read_text(folder / "d.bin") + std::string(4, '\0'));
  EXPECT_ERROR("--append-eod", IndexedDataset::open(folder / "d"));
}

TEST(IndexedDataset, TheNoteIsKeptAndChecked) {
  const TemporaryFolder folder;
  const DatasetNote note{.tokens = 5,
                         .documents = 2,
                         .text_bytes = 17,
                         .vocabulary = 100,
                         .end_of_document = 99,
                         .tokenizer_hash = "00ff",
                         .tokenizer = "some/folder"};
  write_small(folder / "d", 100, note);
  const auto dataset = IndexedDataset::open(folder / "d");
  ASSERT_TRUE(dataset->note());
  EXPECT_EQ(dataset->note()->text_bytes, 17);
  EXPECT_EQ(dataset->note()->end_of_document, 99);
  EXPECT_EQ(dataset->note()->tokenizer, "some/folder");
  EXPECT_EQ(test::error_of([&] { dataset->require_tokenizer("00ff", 100, 99); }), "");
  EXPECT_ERROR("another tokenizer", dataset->require_tokenizer("00fe", 100, 99));
  EXPECT_ERROR("vocabulary of 100", dataset->require_tokenizer("00ff", 101, 99));
  EXPECT_ERROR("ends its documents with id 99", dataset->require_tokenizer("00ff", 100, 98));
  EXPECT_ERROR("is not named", dataset->require_tokenizer("00ff", 100, {}));

  folder.write("d.json", "{\"tokens\": 5");
  EXPECT_ERROR("not the note of the dataset", IndexedDataset::open(folder / "d"));
  write_small(folder / "d", 100, DatasetNote{.tokens = 6, .documents = 2});
  EXPECT_ERROR("do not belong together", IndexedDataset::open(folder / "d"));
  DatasetNote of_blocks = note;
  of_blocks.blocks = {.tokens = 3, .corpus_documents = 1, .short_documents = 0, .dropped_tokens = 2};
  write_small(folder / "d", 100, of_blocks);  // its documents have 3 and 2 tokens
  EXPECT_ERROR("blocks of 3 tokens", IndexedDataset::open(folder / "d"));
  write_small(folder / "d");
  EXPECT_FALSE(IndexedDataset::open(folder / "d")->note()) << "an old note must not outlive its dataset";
}

TEST(IndexedDatasetDeathTest, RangesOutsideAreOurOwnMistake) {
  const TemporaryFolder folder;
  write_small(folder / "d");
  const auto dataset = IndexedDataset::open(folder / "d");
  std::vector<int32_t> tokens(3);
  EXPECT_DEATH(dataset->read(3, tokens, 100), "6 against 5");
}

}  // namespace
}  // namespace ridgeline::data
