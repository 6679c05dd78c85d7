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
  // Token = its place in the dataset, from `token` on, so that every sample shows where it came from.
  std::shared_ptr<const IndexedDataset> dataset(const std::vector<int32_t>& lengths, int32_t token = 0,
                                                int64_t block = 0) {
    IndexedDatasetWriter writer(folder_ / "d", 1000);
    const int32_t first = token;
    for (const int32_t length : lengths) {
      std::vector<int32_t> document(static_cast<size_t>(length));
      for (int32_t& t : document) t = token++;
      writer.add_document(document);
    }
    DatasetNote note{.tokens = token - first, .documents = std::ssize(lengths)};
    note.blocks.tokens = block;
    writer.finish(block > 0 ? std::optional(note) : std::nullopt);
    return IndexedDataset::open(folder_ / "d");
  }
  // `count` blocks of four tokens each.
  std::shared_ptr<const IndexedDataset> blocks(int count, int32_t token = 0) {
    return dataset(std::vector<int32_t>(static_cast<size_t>(count), 4), token, 4);
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
  const std::vector<BlendPart> data = {{dataset({5, 3, 7, 2, 9}), {0, 5}}};
  const TrainingSamples from_zero(data, {4, 14, 1234, 1000}), later(data, {4, 14, 1234, 1000, 0, 100});
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

TEST_F(Samples, EachBlockIsOneOnceAnEpoch) {
  const auto data = blocks(7);
  ASSERT_EQ(data->block(), 4);
  // Blocks 2 … 6; 12 samples are three epochs of them.
  const GptDataset samples(data, {{2, 7}, 4, 12, 1234, 1000});
  ASSERT_EQ(samples.end(), 15);
  EXPECT_EQ(samples.epochs(), 3);
  EXPECT_EQ(samples.predictions(), 3);
  std::vector<int32_t> tokens(5);
  std::vector<std::vector<int64_t>> epochs(3);
  for (int64_t i = 0; i < samples.end(); ++i) {
    samples.sample(i, tokens);
    const int32_t block = tokens[0] / 4;
    EXPECT_THAT(tokens, ElementsAre(4 * block, 4 * block + 1, 4 * block + 2, 4 * block + 3, kIgnoredLabel));
    EXPECT_EQ(samples.place(i), block - 2);
    ASSERT_EQ(samples.parts(i).size(), 1U);
    EXPECT_EQ(samples.parts(i)[0].document, block);
    EXPECT_EQ(samples.parts(i)[0].tokens, 4);
    epochs[static_cast<size_t>(i / 5)].push_back(block);
  }
  EXPECT_NE(epochs[0], epochs[1]) << "each in an order of its own";
  for (const std::vector<int64_t>& epoch : epochs) EXPECT_THAT(epoch, testing::UnorderedElementsAre(2, 3, 4, 5, 6));
  // The first epoch is NumPy's shuffle of them.
  std::vector<int64_t> expected = shuffled(1234, 5, 5);
  for (int64_t& block : expected) block += 2;
  EXPECT_EQ(epochs[0], expected);
}

TEST_F(Samples, BlocksOfALongerRunBeginWithThoseOfTheShorterOne) {
  const auto data = blocks(7);
  const GptDataset shorter(data, {{0, 7}, 4, 5, 1, 1000}), longer(data, {{0, 7}, 4, 5, 1, 1000, 50});
  ASSERT_EQ(shorter.end(), 7);
  ASSERT_EQ(longer.end(), 56);
  for (int64_t i = 0; i < shorter.end(); ++i) EXPECT_EQ(shorter.place(i), longer.place(i));
  const SampleIndexSize size = sample_index_size(*data, {0, 7}, 4, 5, 50);
  EXPECT_EQ(size.epochs, 1);
  EXPECT_EQ(size.appended_epochs, 7);
  EXPECT_EQ(size.first_samples, 7);
  EXPECT_EQ(size.samples, 56);
  EXPECT_EQ(size.bytes, 56 * 4);
  EXPECT_ERROR("train.steps", block_index_size(7, int64_t{1} << 60));
  EXPECT_ERROR("hold no tokens", build_block_index({3, 3}, 1, 1));
}

TEST_F(Samples, OfABlendAreThoseOfItsDatasets) {
  const auto first = dataset({5, 3, 7, 2, 9}), second = dataset({20, 11, 4}, 500), third = blocks(5, 800);
  const std::vector<BlendPart> parts = {{first, {0, 5}, 0.5}, {second, {0, 2}, 0.2}, {third, {1, 5}, 0.3}};
  constexpr int64_t kSamples = 40;
  const TrainingSamples blend(parts, {4, kSamples, 1234, 1000, 0, 7});
  ASSERT_EQ(blend.begin(), 7);
  ASSERT_EQ(blend.end(), 7 + kSamples);
  // Alone, each begun for Megatron's 0.5 % more than its share.
  const std::vector<GptDataset> alone = {
      {first, {{0, 5}, 4, 21, 1234, 1000}}, {second, {{0, 2}, 4, 9, 1234, 1000}}, {third, {{1, 5}, 4, 13, 1234, 1000}}};
  const std::vector<Draw> draws = blend_order(std::vector{0.5, 0.2, 0.3}, kSamples);
  std::vector<int32_t> tokens(5), same(5);
  for (int64_t i = 0; i < kSamples; ++i) {
    const Draw draw = draws[static_cast<size_t>(i)];
    const auto sample = static_cast<int64_t>(draw.sample);
    blend.sample(7 + i, tokens);
    alone[draw.dataset].sample(sample, same);
    EXPECT_EQ(tokens, same) << i;
    EXPECT_EQ(blend.dataset_of(7 + i), draw.dataset);
    EXPECT_EQ(blend.place(7 + i), alone[draw.dataset].place(sample));
  }
  // A longer run: datasets that are too small for it repeat, and nothing changes before.
  const TrainingSamples longer(parts, {4, kSamples, 1234, 1000, 500, 7});
  ASSERT_EQ(longer.end(), 507);
  for (int64_t i = 7; i < blend.end(); ++i) {
    blend.sample(i, tokens);
    longer.sample(i, same);
    EXPECT_EQ(tokens, same) << i;
  }
  for (int64_t i = blend.end(); i < longer.end(); ++i) longer.sample(i, same);
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

TEST_F(Samples, EvaluationOfBlocksPredictsAllButTheirFirstTokens) {
  const EvaluationWindows windows(blocks(6), {2, 4}, 4, 1000);
  ASSERT_EQ(windows.size(), 2);
  EXPECT_EQ(windows.predictions(), 6);
  std::vector<int32_t> tokens(4), labels(4);
  windows.window(1, tokens, labels);
  EXPECT_THAT(tokens, ElementsAre(12, 13, 14, 15));
  EXPECT_THAT(labels, ElementsAre(13, 14, 15, kIgnoredLabel));
  windows.window(2, tokens, labels);
  EXPECT_THAT(labels, ElementsAre(-100, -100, -100, -100));
}

TEST_F(Samples, EvaluationOfABlendTakesTurnsAndLeavesNothingOut) {
  const auto first = dataset({5, 3, 7, 2, 9}), second = dataset({200}, 500), third = blocks(5, 800);
  const std::vector<BlendPart> parts = {
      {first, {1, 5}, 0.25}, {first, {3, 3}, 0.25}, {second, {0, 1}, 0.25}, {third, {0, 3}, 0.25}};
  const EvaluationWindows windows(parts, 4, 1000);
  EXPECT_EQ(windows.size(), 5 + 50 + 3);
  EXPECT_EQ(windows.predictions(), 20 + 199 + 9);
  std::vector<int32_t> tokens(4), labels(4), predicted, beginnings;
  for (int64_t i = 0; i < windows.size(); ++i) {
    windows.window(i, tokens, labels);
    beginnings.push_back(tokens[0]);
    for (const int32_t label : labels) {
      if (label != kIgnoredLabel) predicted.push_back(label);
    }
  }
  beginnings.resize(6);
  EXPECT_THAT(beginnings, ElementsAre(5, 500, 800, 9, 504, 804));
  std::vector<int32_t> expected;
  for (int32_t token = 6; token < 26; ++token) expected.push_back(token);
  for (int32_t token = 501; token < 700; ++token) expected.push_back(token);
  for (int32_t token = 800; token < 812; ++token) {
    if (token % 4 != 0) expected.push_back(token);
  }
  std::sort(predicted.begin(), predicted.end());
  EXPECT_EQ(predicted, expected);
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
