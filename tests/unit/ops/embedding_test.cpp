#include "ridgeline/ops/embedding.h"

#include <gtest/gtest.h>

#include "fixture.h"

namespace ridgeline::ops {
namespace {

// All tokens the same: additions to one row happen in ascending order of the tokens, for any team.
TEST(EmbeddingBackward, AddsRepeatedTokensInAscendingOrder) {
  const int64_t n = 300, c = 260, v = 3;
  const std::vector<int32_t> tokens(n, 1);
  const auto dout = random_values<float>(n * c, 1, 1e3F);
  std::vector<float> expected(v * c);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < c; ++j) expected[c + j] += dout[i * c + j];
  }
  for (const int members : {1, 2, 3, 4, 5, 7}) {
    device::WorkerTeam team(members);
    device::Stream stream(team);
    std::vector<float> dtable(v * c);
    embedding_backward(stream, n, c, IndexRange::all(v), tokens.data(), dout.data(), dtable.data(), {});
    EXPECT_TRUE(same_bits(dtable, expected)) << members;
  }
}

TEST(EmbeddingBackward, EveryTeamCoversEveryRowAndColumn) {
  const int64_t n = 700, c = 45, v = 50;
  std::vector<int32_t> tokens(n);
  for (int32_t i = 0; i < n; ++i) tokens[i] = i * 7 % 50;
  const auto dout = random_values<bf16>(n * c, 2);
  std::vector<float> expected(v * c);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < c; ++j) expected[tokens[i] * c + j] += static_cast<float>(dout[i * c + j]);
  }
  for (const int members : {1, 2, 3, 4, 6}) {
    device::WorkerTeam team(members);
    device::Stream stream(team);
    std::vector<float> dtable(v * c);
    embedding_backward(stream, n, c, IndexRange::all(v), tokens.data(), dout.data(), dtable.data(), {});
    EXPECT_TRUE(same_bits(dtable, expected)) << members;
  }
}

TEST(EmbeddingDeathTest, ATokenBeyondTheTableIsABrokenInvariant) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // the team has threads
  TwoThreads two;
  std::vector<float> table(8), out(4);
  for (const int32_t token : {2, -1}) {
    EXPECT_DEATH(
        embedding_forward(two.stream, 1, 4, IndexRange::all(2), 0, &token, nullptr, table.data(), {}, out.data()),
        "rows\\[i\\]");
    EXPECT_DEATH(embedding_backward(two.stream, 1, 4, IndexRange::all(2), &token, out.data(), table.data(), {}),
                 "rows\\[i\\]");
  }
}

// A table of no rows needs no memory; all that there is are positions.
TEST(EmbeddingForward, ASliceMayBeEmpty) {
  TwoThreads two;
  const std::vector<int32_t> tokens = {2, 0}, positions = {1, 0};
  const std::vector<float> positions_table = {1, 2, 3, 4};
  const ConstRef none(nullptr, DType::f32);
  std::vector<float> out(4, -1.0F);
  embedding_forward(two.stream, 2, 2, {1, 0, 3}, 2, tokens.data(), positions.data(), none, positions_table.data(),
                    out.data());
  EXPECT_EQ(out, (std::vector<float>{3, 4, 1, 2}));
  embedding_forward(two.stream, 2, 2, {3, 0, 3}, 0, tokens.data(), nullptr, none, {}, out.data());
  EXPECT_EQ(out, std::vector<float>(4));
  embedding_backward(two.stream, 2, 2, {3, 0, 3}, tokens.data(), out.data(), nullptr, {});
}

TEST(EmbeddingDeathTest, ASliceLiesInTheVocabulary) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // the team has threads
  TwoThreads two;
  const int32_t token = 1;
  std::vector<float> table(8), out(4);
  for (const IndexRange& held : {IndexRange{1, 2, 2}, IndexRange{-1, 2, 2}, IndexRange{1, -1, 2}}) {
    EXPECT_DEATH(embedding_forward(two.stream, 1, 4, held, 0, &token, nullptr, table.data(), {}, out.data()), "range");
    EXPECT_DEATH(embedding_backward(two.stream, 1, 4, held, &token, out.data(), table.data(), {}), "range");
  }
  // Beyond the vocabulary, not only beyond the slice.
  const int32_t beyond = 3;
  EXPECT_DEATH(embedding_forward(two.stream, 1, 4, {0, 2, 3}, 0, &beyond, nullptr, table.data(), {}, out.data()),
               "rows\\[i\\]");
}

}  // namespace
}  // namespace ridgeline::ops
