#include "ridgeline/data/tokenizer_trainer.h"

#include "support.h"

namespace ridgeline::data {
namespace {

using test::TemporaryFolder;

PieceCounts counts_of(const std::vector<std::string>& texts) {
  PieceCounts counts;
  for (const std::string& text : texts) counts.add(text);
  return counts;
}

TEST(TokenizerTrainer, MergesEqualHuggingFace) {
  std::vector<std::string> texts;
  for (const auto& row : test::json_fixture("data/tokenizer_cases.json")) texts.push_back(row["text"]);
  const auto expected = test::json_fixture("data/trainer_case.json").get<std::vector<std::string>>();
  const Tokenizer tokenizer = train_tokenizer(counts_of(texts), 601);
  EXPECT_EQ(tokenizer.vocab_size(), 601);
  EXPECT_EQ(tokenizer.end_of_document(), 600);
  const TemporaryFolder folder;
  tokenizer.save(folder / "");
  std::string merges = "#version: 0.2\n";
  for (const std::string& merge : expected) merges += merge + "\n";
  EXPECT_EQ(read_text(folder / "merges.txt"), merges);
}

TEST(TokenizerTrainer, MergesTheMostFrequentPairAndBreaksTiesById) {
  // "ab" 3 times; "cd" and "xy" twice each: c has the lower id.
  const Tokenizer tokenizer = train_tokenizer(counts_of({"ab\nab\nab\nxy\nxy\ncd\ncd\nq"}), 260);
  EXPECT_EQ(tokenizer.token_bytes(256), "ab");
  EXPECT_EQ(tokenizer.token_bytes(257), "cd");
  EXPECT_EQ(tokenizer.token_bytes(258), "xy");
  EXPECT_EQ(tokenizer.token_bytes(259), "<|endoftext|>");
}

TEST(TokenizerTrainer, StopsWhenNothingRepeats) {
  const Tokenizer tokenizer = train_tokenizer(counts_of({"abc abc once"}), 5000);
  EXPECT_LT(tokenizer.vocab_size(), 265);
  EXPECT_EQ(tokenizer.end_of_document(), tokenizer.vocab_size() - 1);
  EXPECT_EQ(train_tokenizer(counts_of({""}), 257).vocab_size(), 257);
}

TEST(TokenizerTrainer, RefusesImpossibleVocabularies) {
  EXPECT_ERROR("vocabulary of 256", train_tokenizer(PieceCounts(), 256));
  EXPECT_ERROR("vocabulary of -1", train_tokenizer(PieceCounts(), -1));
}

TEST(TokenizerTrainer, VeryLongPiecesAreCountedInPartsBetweenCharacters) {
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "漢";
  int64_t bytes = 0;
  const PieceCounts counts = counts_of({text});
  for (const auto& [piece, count] : counts.entries()) {
    EXPECT_LE(piece.size(), 256U);
    EXPECT_EQ(piece.size() % 3, 0U);
    bytes += count * static_cast<int64_t>(piece.size());
  }
  EXPECT_EQ(bytes, 3000);
}

TEST(TokenizerTrainer, ThreadsDoNotChangeTheResult) {
  const TemporaryFolder folder;
  std::string corpus;
  for (int i = 0; i < 60000; ++i) {
    corpus += "word" + std::to_string(i * 7919 % 5003) + (i % 11 == 0 ? " tail.\n\n" : " and ");
  }
  ASSERT_GT(corpus.size(), size_t{1} << 19);
  for (int i = 0; i < 3; ++i) corpus += corpus.substr(0, size_t{1} << 19);
  const auto file = folder.write("corpus.txt", corpus);
  std::string hash;
  for (const int threads : {1, 2, 5}) {
    TokenizerTraining training;
    training.inputs = {file};
    training.vocabulary = 700;
    training.threads = threads;
    const TrainedTokenizer trained = train_tokenizer(training);
    EXPECT_EQ(trained.tokenizer.vocab_size(), 700);
    if (hash.empty()) hash = trained.tokenizer.hash();
    EXPECT_EQ(trained.tokenizer.hash(), hash) << threads;
  }
}

TEST(TokenizerTrainer, RefusesAnEmptyCorpus) {
  const TemporaryFolder folder;
  TokenizerTraining training;
  training.inputs = {folder.write("empty.txt", "\n \n")};
  training.vocabulary = 300;
  EXPECT_ERROR("no document", train_tokenizer(training));
}

}  // namespace
}  // namespace ridgeline::data
