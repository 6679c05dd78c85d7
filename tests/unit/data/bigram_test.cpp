#include "ridgeline/data/bigram.h"

#include <cmath>
#include <random>

#include "support.h"

namespace ridgeline::data {
namespace {

using test::TemporaryFolder;

std::shared_ptr<const IndexedDataset> store(const TemporaryFolder& folder,
                                            const std::vector<std::vector<int32_t>>& documents, int64_t vocabulary) {
  IndexedDatasetWriter writer(folder / "d", vocabulary);
  for (const auto& document : documents) writer.add_document(document);
  writer.finish(std::nullopt);
  return IndexedDataset::open(folder / "d");
}

// A random Markov chain over `vocabulary` tokens with `branches` successors each.
std::vector<int32_t> chain(size_t length, int32_t vocabulary, int32_t branches, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(length);
  int32_t state = 0;
  for (int32_t& token : tokens) {
    state = (state * 7 + 3 + static_cast<int32_t>(random() % static_cast<uint32_t>(branches)) * 5) % vocabulary;
    token = state;
  }
  return tokens;
}

TEST(Bigram, ProbabilitiesSumToOne) {
  const TemporaryFolder folder;
  const auto data = store(folder, {chain(3000, 50, 4, 1)}, 60);
  const BigramModel model = BigramModel::fit(*data, {0, 1}, 60);
  for (int32_t previous = 0; previous < 60; ++previous) {
    double sum = 0;
    for (int32_t next = 0; next < 60; ++next) {
      EXPECT_GT(model.probability(previous, next), 0);
      sum += model.probability(previous, next);
    }
    EXPECT_NEAR(sum, 1, 1e-9) << previous;
  }
}

TEST(Bigram, ReachesTheEntropyOfAMarkovChain) {
  const TemporaryFolder folder;
  const auto data = store(folder, {chain(60000, 50, 4, 1), chain(20000, 50, 4, 2)}, 50);
  const BigramModel model = BigramModel::fit(*data, {0, 1}, 50);
  const BigramModel::Loss loss = model.evaluate(*data, {1, 2});
  EXPECT_EQ(loss.tokens, 19999);
  // Four equally likely successors: ln 4. Estimated from 60,000 tokens, about 0.2 % above; below it would be a mistake.
  EXPECT_NEAR(loss.nats_per_token(), std::log(4.0), 0.01);
}

TEST(Bigram, FallsBackToUnigramsWhereOrderMeansNothing) {
  const TemporaryFolder folder;
  std::mt19937 random(5);
  std::vector<int32_t> train(3000), valid(3000);
  for (auto* tokens : {&train, &valid}) {
    for (int32_t& token : *tokens) token = static_cast<int32_t>(std::min(random() % 300, random() % 300));
  }
  const auto data = store(folder, {train, valid}, 300);
  const BigramModel model = BigramModel::fit(*data, {0, 1}, 300);
  const double loss = model.evaluate(*data, {1, 2}).nats_per_token();
  // The triangular distribution's entropy is ln 300 - (ln 2 - 1/2) = 5.511 nats; pairs seen once must not be believed.
  EXPECT_GT(loss, 5.45);
  EXPECT_LT(loss, 5.65);
}

TEST(Bigram, RefusesTooLittleText) {
  const TemporaryFolder folder;
  const auto data = store(folder, {chain(99, 50, 4, 1)}, 50);
  EXPECT_ERROR("99 tokens are too few", BigramModel::fit(*data, {0, 1}, 50));
  EXPECT_ERROR("0 tokens are too few", BigramModel::fit(*data, {1, 1}, 50));
}

TEST(Bigram, BitsPerByte) {
  EXPECT_DOUBLE_EQ(bits_per_byte(8 * std::log(2.0), 4), 2.0);
}

}  // namespace
}  // namespace ridgeline::data
