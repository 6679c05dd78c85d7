// Token ids as inputs of `prepare`.
#include "ridgeline/data/token_inputs.h"

#include <gmock/gmock.h>

#include <cstring>

#include "ridgeline/data/fingerprint.h"
#include "support.h"

namespace ridgeline::data {
namespace {

namespace fs = std::filesystem;
using test::gpt2;
using test::TemporaryFolder;
using testing::ElementsAre;

using TokenDocuments = std::vector<std::vector<int32_t>>;

TokenDocuments documents_of(const fs::path& prefix) {
  const auto dataset = IndexedDataset::open(prefix);
  TokenDocuments documents;
  for (int64_t d = 0; d < dataset->documents(); ++d) {
    documents.emplace_back(static_cast<size_t>(dataset->length(d)));
    dataset->read(dataset->begin(d), documents.back(), gpt2().vocab_size());
  }
  return documents;
}

std::string llmc_bytes(const std::vector<uint16_t>& ids, int32_t said = -1, int32_t version = 1) {
  std::string bytes(1024, '\0');
  const int32_t header[3] = {20240520, version, said < 0 ? static_cast<int32_t>(ids.size()) : said};
  std::memcpy(bytes.data(), header, sizeof header);
  bytes.append(reinterpret_cast<const char*>(ids.data()), 2 * ids.size());
  return bytes;
}

fs::path write_pair(const fs::path& prefix, const TokenDocuments& documents,
                    const std::optional<DatasetNote>& note = {}) {
  IndexedDatasetWriter writer(prefix, 50257);
  for (const auto& document : documents) writer.add_document(document);
  writer.finish(note);
  return prefix;
}

// As Megatron's preprocess_data.py wrote it with --append-eod before August 2023: a token of each document, the last,
// is not in its length.
void omit_ends(const fs::path& prefix, size_t documents) {
  std::string index = read_text(prefix.string() + ".idx");
  int64_t offset = 0;
  for (size_t d = 0; d < documents; ++d) {
    int32_t length = 0;
    std::memcpy(&length, index.data() + 34 + 4 * d, 4);
    --length;
    std::memcpy(index.data() + 34 + 4 * d, &length, 4);
    std::memcpy(index.data() + 34 + 4 * documents + 8 * d, &offset, 8);
    offset += 2 * length;
  }
  write_atomically(prefix.string() + ".idx", index);
}

TEST(TokenInputs, AreKnownByWhatTheyHold) {
  const TemporaryFolder folder;
  const fs::path llmc = folder.write("fineweb.bin", llmc_bytes({50256, 1})), text = folder.write("a.txt", "text"),
                 pair = write_pair(folder / "pair", {{1}});
  EXPECT_TRUE(are_token_inputs(std::vector<fs::path>{llmc, pair, folder / "pair.bin"}));
  EXPECT_FALSE(are_token_inputs(std::vector<fs::path>{text, "-", folder / "nothing"}));
  EXPECT_ERROR("'" + text.string() + "' does not", are_token_inputs(std::vector<fs::path>{llmc, text}));
  write_pair(text, {{1}});  // a.txt.bin and a.txt.idx
  EXPECT_FALSE(are_token_inputs(std::vector<fs::path>{text}));
  EXPECT_TRUE(are_token_inputs(std::vector<fs::path>{text.string() + ".idx"}));
}

TEST(TokenInputs, OfLlmCGoOnInTheNextFile) {
  const TemporaryFolder folder;
  PrepareSettings settings;
  settings.inputs = {folder.write("1.bin", llmc_bytes({7, 50256, 1, 2, 50256, 3})),
                     folder.write("2.bin", llmc_bytes({4, 50256, 50256, 5}))};
  settings.prefix = folder / "d";
  settings.tokenizer = "gpt2";
  PrepareProgress last;
  const PrepareResult result = prepare_from_tokens(gpt2(), settings, [&](const PrepareProgress& now) { last = now; });
  EXPECT_THAT(documents_of(folder / "d"),
              ElementsAre(std::vector{7}, std::vector{50256, 1, 2}, std::vector{50256, 3, 4}, std::vector{50256},
                          std::vector{50256, 5}));
  EXPECT_EQ(result.note.documents, 5);
  EXPECT_EQ(result.note.end_of_document, -1) << "they begin with it";
  EXPECT_EQ(result.note.text_bytes, 6);
  EXPECT_EQ(result.lengths, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(last.bytes_done, last.bytes_total);
  EXPECT_EQ(IndexedDataset::open(folder / "d")->note()->tokenizer_hash, gpt2().hash());

  const auto refused = [&](const char* why, const std::string& bytes) {
    settings.inputs = {folder.write("3.bin", bytes)};
    EXPECT_ERROR(why, prepare_from_tokens(gpt2(), settings));
  };
  refused("token id 50257 at position 1", llmc_bytes({50256, 50257}));
  refused("the header speaks of 3 tokens, and 2 follow", llmc_bytes({50256, 1}, 3));
  refused("are no whole tokens", llmc_bytes({50256, 1}) + "x");
  refused("its version is 2", llmc_bytes({50256, 1}, 2, 2));
  refused("would be empty", llmc_bytes({}));
  std::string llama = llmc_bytes({0, 2}, 1, 7);
  const int32_t magic = 20240801;
  std::memcpy(llama.data(), &magic, 4);
  refused("id 128000 ends or begins no document", llama);
}

TEST(TokenInputs, OfLlmCAreADatasetAsTheyAre) {
  const TemporaryFolder folder;
  // More tokens than are looked at together; an empty file, and ends of files within documents.
  std::vector<uint16_t> first = {7, 50256}, second;
  for (int i = 0; i < 2000; ++i) first.push_back(static_cast<uint16_t>(i % 700 == 3 ? 50256 : i));
  for (int i = 0; i < 300; ++i) second.push_back(static_cast<uint16_t>(i % 256 == 255 ? 50256 : i));
  folder.write("x_000001.bin", llmc_bytes(first));
  folder.write("x_000002.bin", llmc_bytes({}));
  folder.write("x_000003.bin", llmc_bytes(second));
  PrepareSettings settings;
  settings.inputs = {folder / "x_000001.bin", folder / "x_000002.bin", folder / "x_000003.bin"};
  settings.prefix = folder / "pair";
  prepare_from_tokens(gpt2(), settings);
  const auto pair = IndexedDataset::open(folder / "pair"), raw = IndexedDataset::open(folder / "x_*.bin");
  EXPECT_EQ(raw->files(), settings.inputs);
  EXPECT_EQ(raw->tokens(), 2302);
  EXPECT_EQ(raw->documents(), 6);
  EXPECT_THAT(raw->lengths(), testing::ElementsAreArray(pair->lengths()));
  EXPECT_EQ(documents_of(folder / "x_*.bin"), documents_of(folder / "pair"));
  EXPECT_EQ(fingerprint(*raw), fingerprint(*pair)) << "a run may go on with the other";
  EXPECT_FALSE(raw->note());
  std::vector<int32_t> part(20), same(20);
  raw->read(1992, part, 50257);  // over the end of a file
  pair->read(1992, same, 50257);
  EXPECT_EQ(part, same);
  EXPECT_ERROR("x_000003.bin': token id 50256 at position 2257 (document 5, token 0)", [&] {
    std::vector<int32_t> all(300);
    raw->read(2002, all, 50256);
  }());
  for (const char* name : {"x_000001.bin", "x_000001", "x_00000[1].bin"}) {
    EXPECT_EQ(IndexedDataset::open(folder / name)->tokens(), 2002) << name;
    EXPECT_TRUE(IndexedDataset::is_there(folder / name)) << name;
  }
  EXPECT_FALSE(IndexedDataset::is_there(folder / "y_*.bin"));
  EXPECT_ERROR("no file matches", IndexedDataset::open(folder / "y_*.bin"));
  EXPECT_ERROR("pair.bin', and is no token file of llm.c", IndexedDataset::open(folder / "*.bin"));
  folder.write("x_000002.bin", llmc_bytes({1, 2}, 3));
  EXPECT_ERROR("the header speaks of 3 tokens, and 2 follow", IndexedDataset::open(folder / "x_*.bin"));
  std::string llama = llmc_bytes({0, 2}, 1, 7);
  const int32_t magic = 20240801;
  std::memcpy(llama.data(), &magic, 4);
  folder.write("x_000002.bin", llama);
  EXPECT_ERROR("name those of one tokenizer", IndexedDataset::open(folder / "x_*.bin"));
  const auto of_llama = IndexedDataset::open(folder / "x_000002.bin");
  EXPECT_EQ(of_llama->token_type(), TokenType::i32);
  std::vector<int32_t> ids(1);
  of_llama->read(0, ids, 200000);
  EXPECT_EQ(ids.front(), 2 << 16);
}

TEST(TokenInputs, PairsAreJoined) {
  const TemporaryFolder folder;
  PrepareSettings settings;
  settings.inputs = {write_pair(folder / "a", {{1, 50256}, {2, 3, 50256}}), write_pair(folder / "b", {{50256}})};
  settings.prefix = folder / "d";
  EXPECT_EQ(prepare_from_tokens(gpt2(), settings).note.end_of_document, 50256) << "all end with it";
  EXPECT_THAT(documents_of(folder / "d"),
              ElementsAre(std::vector{1, 50256}, std::vector{2, 3, 50256}, std::vector{50256}));
  settings.inputs.push_back(
      write_pair(folder / "c", {{4}},
                 DatasetNote{.tokens = 1, .documents = 1, .vocabulary = 50257, .tokenizer_hash = gpt2().hash()}));
  EXPECT_EQ(prepare_from_tokens(gpt2(), settings).note.end_of_document, -1);
  settings.inputs = {write_pair(folder / "e", {{4}}, DatasetNote{.tokens = 1, .documents = 1, .vocabulary = 9})};
  EXPECT_ERROR("was prepared with a vocabulary of 9", prepare_from_tokens(gpt2(), settings));
  settings.inputs = {write_pair(folder / "f", {{1, 2}},
                                DatasetNote{.tokens = 2,
                                            .documents = 1,
                                            .blocks = {.tokens = 2, .corpus_documents = 1},
                                            .vocabulary = 50257,
                                            .tokenizer_hash = gpt2().hash()})};
  EXPECT_ERROR("holds blocks of 2 tokens", prepare_from_tokens(gpt2(), settings));
  settings.inputs = {folder / "e"};
  settings.prefix = folder / "e";
  EXPECT_ERROR("is the input", prepare_from_tokens(gpt2(), settings));
  settings.corpus.key = "text";
  EXPECT_ERROR("--key: the inputs are token ids", prepare_from_tokens(gpt2(), settings));
  settings.corpus.key.clear();
  settings.block = 8;
  EXPECT_ERROR("--blocks: the inputs are token ids", prepare_from_tokens(gpt2(), settings));
}

TEST(TokenInputs, LengthsWithoutTheirEndsAreRepaired) {
  const TemporaryFolder folder;
  const TokenDocuments documents = {{1, 2, 50256}, {50256}, {3, 50256}};
  write_pair(folder / "whole", documents);
  omit_ends(write_pair(folder / "broken", documents), 3);
  EXPECT_ERROR("ridgeline prepare --tokenizer DIR", IndexedDataset::open(folder / "broken"));
  PrepareSettings settings;
  settings.inputs = {folder / "broken"};
  settings.prefix = folder / "d";
  std::string said;
  settings.say = [&](const std::string& text) { said = text; };
  prepare_from_tokens(gpt2(), settings);
  EXPECT_EQ(documents_of(folder / "d"), documents);
  EXPECT_EQ(read_text(folder / "d.idx"), read_text(folder / "whole.idx"));
  EXPECT_NE(said.find("they are repaired"), std::string::npos);
  // One token too few for each document, and yet not that mistake.
  omit_ends(write_pair(folder / "broken", {{1, 2}, {3, 50256}}), 2);
  EXPECT_ERROR("do not all end with this tokenizer's", prepare_from_tokens(gpt2(), settings));
}

}  // namespace
}  // namespace ridgeline::data
