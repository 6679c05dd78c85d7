#include "ridgeline/data/sampler.h"

#include <gmock/gmock.h>

#include <numeric>

#include "support.h"

namespace ridgeline::data {
namespace {

using test::TemporaryFolder;
using testing::ElementsAre;
using testing::ElementsAreArray;

std::vector<int64_t> shuffled(uint32_t seed, size_t count, size_t shown) {
  std::vector<int64_t> values(count);
  std::iota(values.begin(), values.end(), int64_t{0});
  NumpyShuffle(seed).shuffle(std::span(values));
  values.resize(shown);
  return values;
}

// Golden values of NumPy 1.24.2.
TEST(NumpyShuffle, EqualsRandomState) {
  EXPECT_THAT(shuffled(1234, 10, 10), ElementsAre(7, 2, 9, 1, 0, 8, 4, 5, 6, 3));
  EXPECT_THAT(shuffled(1234, 1000, 10), ElementsAre(681, 990, 155, 768, 438, 363, 688, 555, 620, 99));
  EXPECT_THAT(shuffled(1234, 100000, 10),
              ElementsAre(13504, 72599, 42217, 97650, 99120, 13165, 56244, 72729, 10979, 11794));
  EXPECT_THAT(shuffled(42, 70001, 10), ElementsAre(46730, 48393, 41416, 34506, 43725, 11615, 24656, 22411, 936, 56364));
}

TEST(SampleIndex, EqualsMegatron) {
  const std::vector<int32_t> lengths{5, 3, 7, 2, 9};
  const SampleIndex index = build_sample_index(lengths, {0, 5}, 4, 14, 1234);
  EXPECT_EQ(index.epochs, 3);
  EXPECT_TRUE(index.separate_last_epoch);
  EXPECT_THAT(index.documents, ElementsAre(2, 2, 4, 1, 0, 3, 4, 0, 1, 3, 0, 4, 3, 2, 1));
  const std::vector<SampleStart> starts{{0, 0},  {0, 4},  {1, 1},  {1, 5},  {2, 2},  {2, 6}, {3, 1},
                                        {4, 2},  {5, 1},  {6, 3},  {6, 7},  {7, 2},  {8, 1}, {10, 0},
                                        {10, 4}, {11, 3}, {11, 7}, {13, 0}, {13, 4}, {14, 1}};
  EXPECT_EQ(index.starts, starts);
  EXPECT_THAT(index.order, ElementsAre(7, 11, 2, 3, 1, 9, 5, 4, 0, 8, 6, 10, 18, 16, 13, 17, 15, 12, 14));
}

TEST(SampleIndex, RangeShiftsDocumentsOnly) {
  const std::vector<int32_t> lengths{100, 5, 3, 7, 2, 9, 1};
  const SampleIndex index = build_sample_index(lengths, {1, 6}, 4, 14, 1234);
  EXPECT_THAT(index.documents, ElementsAre(3, 3, 5, 2, 1, 4, 5, 1, 2, 4, 1, 5, 4, 3, 2));
}

TEST(SampleIndex, GivesAtLeastTheSamplesAskedFor) {
  for (int64_t samples = 1; samples < 60; ++samples) {
    for (int64_t sequence = 1; sequence < 9; ++sequence) {
      const std::vector<int32_t> lengths{0, 5, 3, 0, 7, 2, 9};
      const SampleIndex index = build_sample_index(lengths, {0, 7}, sequence, samples, 1);
      ASSERT_GE(static_cast<int64_t>(index.order.size()), samples);
      ASSERT_LT((((index.epochs - 1) * 26) - 1) / sequence, samples) << "one epoch too many";
      ASSERT_EQ(index.starts.size(), index.order.size() + 1);
      std::vector<int64_t> sorted = index.order;
      std::sort(sorted.begin(), sorted.end());
      for (size_t i = 0; i < sorted.size(); ++i) ASSERT_EQ(sorted[i], static_cast<int64_t>(i));
    }
  }
}

TEST(SampleIndex, RefusesAnEmptySplit) {
  const std::vector<int32_t> lengths{0, 0, 4};
  EXPECT_ERROR("hold no tokens", build_sample_index(lengths, {0, 2}, 4, 1, 1));
  EXPECT_ERROR("hold no tokens", build_sample_index(lengths, {1, 1}, 4, 1, 1));
}

class Samples : public testing::Test {
 protected:
  // Token = its place in the dataset, so that every sample shows where it came from.
  std::shared_ptr<const IndexedDataset> dataset(const std::vector<int32_t>& lengths) {
    IndexedDatasetWriter writer(folder_ / "d", 1000);
    int32_t token = 0;
    for (const int32_t length : lengths) {
      std::vector<int32_t> document(static_cast<size_t>(length));
      for (int32_t& t : document) t = token++;
      writer.add_document(document);
    }
    writer.finish(std::nullopt);
    return IndexedDataset::open(folder_ / "d");
  }
  TemporaryFolder folder_;
};

TEST_F(Samples, FollowTheIndex) {
  const GptDataset samples(dataset({5, 3, 7, 2, 9}), {{0, 5}, 4, 14, 1234, 1000});
  ASSERT_EQ(samples.end(), 19);
  std::vector<int32_t> tokens(5);
  // order[8] = 0: document 2 (tokens 8 … 14) from its start.
  samples.sample(8, tokens);
  EXPECT_THAT(tokens, ElementsAre(8, 9, 10, 11, 12));
  // order[0] = 7, starts at (4, 2): document 0 from token 2, document 3 (15, 16).
  samples.sample(0, tokens);
  EXPECT_THAT(tokens, ElementsAre(2, 3, 4, 15, 16));
  // order[1] = 11, starts at (7, 2): document 0 from token 2, document 1 (5 … 7).
  samples.sample(1, tokens);
  EXPECT_THAT(tokens, ElementsAre(2, 3, 4, 5, 6));
}

TEST_F(Samples, SayWhereTheirTokensLie) {
  const auto data = dataset({5, 0, 3, 7, 2, 9});
  const GptDataset samples(data, {{0, 6}, 5, 5, 7, 1000});
  std::vector<int32_t> tokens(6);
  for (int64_t i = 0; i < samples.end(); ++i) {
    samples.sample(i, tokens);
    std::vector<int32_t> told;
    for (const GptDataset::Part& part : samples.parts(i)) {
      for (int64_t t = 0; t < part.tokens; ++t)
        told.push_back(static_cast<int32_t>(data->begin(part.document) + part.offset + t));
    }
    EXPECT_EQ(told, tokens) << i;
  }
}

TEST_F(Samples, SayWhereTheirDocumentsBegin) {
  const GptDataset samples(dataset({5, 0, 3, 7, 2, 9}), {{0, 6}, 5, 30, 7, 1000});
  ASSERT_GT(samples.epochs(), 1);
  std::vector<int32_t> begins(6);
  size_t several = 0;
  for (int64_t i = 0; i < samples.end(); ++i) {
    samples.document_begins(i, begins);
    std::vector<int32_t> wanted;
    const std::vector<GptDataset::Part> parts = samples.parts(i);
    for (const GptDataset::Part& part : parts)
      wanted.insert(wanted.end(), static_cast<size_t>(part.tokens), static_cast<int32_t>(wanted.size()));
    EXPECT_EQ(begins, wanted) << i;
    if (parts.size() > 2) ++several;
  }
  EXPECT_GT(several, 0U);
}

TEST_F(Samples, MayBeginLaterInTheRun) {
  const auto data = dataset({5, 3, 7, 2, 9});
  const GptDataset from_zero(data, {{0, 5}, 4, 14, 1234, 1000}), later(data, {{0, 5}, 4, 14, 1234, 1000, 0, 100});
  EXPECT_EQ(later.begin(), 100);
  EXPECT_EQ(later.end(), 100 + from_zero.end());
  std::vector<int32_t> tokens(5), same(5);
  for (int64_t i = 0; i < from_zero.end(); ++i) {
    from_zero.sample(i, tokens);
    later.sample(100 + i, same);
    EXPECT_EQ(tokens, same);
  }
}

TEST_F(Samples, OneEpochPredictsEveryTokenOnce) {
  const auto data = dataset({5, 0, 3, 7, 2, 9});
  const GptDataset samples(data, {{0, 6}, 5, 5, 7, 1000});
  ASSERT_EQ(samples.epochs(), 1);
  ASSERT_EQ(samples.end(), 5);
  std::vector<int> predicted(26);
  std::vector<int32_t> tokens(6);
  for (int64_t i = 0; i < samples.end(); ++i) {
    samples.sample(i, tokens);
    for (size_t k = 1; k < tokens.size(); ++k) ++predicted[static_cast<size_t>(tokens[k])];
  }
  EXPECT_EQ(std::count(predicted.begin(), predicted.end(), 1), 25);
  EXPECT_EQ(std::count(predicted.begin(), predicted.end(), 0), 1);
}

TEST_F(Samples, IdsBeyondTheModelAreRefused) {
  const GptDataset samples(dataset({30}), {{0, 1}, 29, 1, 7, 20});
  std::vector<int32_t> tokens(30);
  EXPECT_ERROR("token id 20 at position 20 (document 0, token 20)", samples.sample(0, tokens));
}

TEST_F(Samples, EvaluationPredictsEveryTokenOnceInOrder) {
  const auto data = dataset({3, 4, 0, 6, 2});
  for (int64_t sequence = 1; sequence < 16; ++sequence) {
    const EvaluationWindows windows(data, {1, 4}, sequence, 1000);
    EXPECT_EQ(windows.predictions(), 9);
    std::vector<int32_t> predicted, tokens(static_cast<size_t>(sequence)), labels(static_cast<size_t>(sequence));
    for (int64_t i = 0; i < windows.size() + 2; ++i) {
      windows.window(i, tokens, labels);
      for (size_t k = 0; k < labels.size(); ++k) {
        if (labels[k] == kIgnoredLabel) {
          EXPECT_EQ(tokens[k], 0);
          continue;
        }
        EXPECT_EQ(tokens[k] + 1, labels[k]);
        predicted.push_back(labels[k]);
      }
    }
    EXPECT_THAT(predicted, ElementsAre(4, 5, 6, 7, 8, 9, 10, 11, 12)) << sequence;
  }
}

TEST_F(Samples, WindowsSayWhereTheirDocumentsBegin) {
  const std::vector<int32_t> lengths{3, 4, 0, 0, 6, 1, 2};
  std::vector<int32_t> document_of;  // token
  for (size_t document = 0; document < lengths.size(); ++document)
    document_of.insert(document_of.end(), static_cast<size_t>(lengths[document]), static_cast<int32_t>(document));
  const auto data = dataset(lengths);
  for (int64_t sequence = 1; sequence < 16; ++sequence) {
    const EvaluationWindows windows(data, {1, 7}, sequence, 1000);
    std::vector<int32_t> begins(static_cast<size_t>(sequence));
    for (int64_t i = 0; i < windows.size(); ++i) {
      windows.document_begins(i, begins);
      int32_t begin = 0;
      for (int64_t t = 0; t < sequence; ++t) {
        const auto token = static_cast<size_t>(3 + i * sequence + t);
        if (t > 0 && token < document_of.size() && document_of[token] != document_of[token - 1])
          begin = static_cast<int32_t>(t);
        EXPECT_EQ(begins[static_cast<size_t>(t)], begin) << sequence << " " << i << " " << t;
      }
    }
    windows.document_begins(windows.size(), begins);
    EXPECT_EQ(std::count(begins.begin(), begins.end(), 0), sequence);
  }
}

TEST_F(Samples, EmptySplitsHaveNoWindows) {
  const auto data = dataset({3, 1});
  EXPECT_EQ(EvaluationWindows(data, {1, 1}, 4, 1000).size(), 0);
  EXPECT_EQ(EvaluationWindows(data, {1, 2}, 4, 1000).size(), 0) << "one token: nothing to predict";
  std::vector<int32_t> tokens(4), labels(4);
  EvaluationWindows(data, {2, 2}, 4, 1000).window(0, tokens, labels);
  EXPECT_THAT(labels, ElementsAre(-100, -100, -100, -100));
}

}  // namespace
}  // namespace ridgeline::data
