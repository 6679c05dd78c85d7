// Orders of runs that are made longer: what was consumed stays, and what is appended is balanced.
#include "ridgeline/data/sample_index.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <limits>
#include <map>

#include "support.h"

namespace ridgeline::data {
namespace {

std::vector<int32_t> some_lengths(int count, uint32_t seed) {
  std::vector<int32_t> lengths;
  uint32_t state = seed * 2654435761U + 1;
  for (int i = 0; i < count; ++i) {
    state = state * 1664525U + 1013904223U;
    lengths.push_back(static_cast<int32_t>(state >> 24) % 23);
  }
  lengths[0] = 5;  // never all empty
  return lengths;
}

template <typename T>
bool begins_with(const std::vector<T>& longer, const std::vector<T>& shorter) {
  return longer.size() >= shorter.size() && std::equal(shorter.begin(), shorter.end(), longer.begin());
}

// Tokens of the concatenation of the listed documents that sample `i` of the order predicts, as [first, last).
std::pair<int64_t, int64_t> predicted(const SampleIndex& index, const std::vector<int32_t>& lengths, int64_t i,
                                      int64_t sequence) {
  const SampleStart at = index.starts[static_cast<size_t>(index.order[static_cast<size_t>(i)])];
  int64_t begin = at.offset;
  for (uint32_t p = 0; p < at.position; ++p) begin += lengths[static_cast<size_t>(index.documents[p])];
  return {begin + 1, begin + 1 + sequence};
}

TEST(LongerOrder, BeginsWithTheShorterOne) {
  for (uint32_t seed = 0; seed < 30; ++seed) {
    const std::vector<int32_t> lengths = some_lengths(7 + static_cast<int>(seed), seed);
    const DocumentRange range{0, static_cast<int64_t>(lengths.size())};
    for (const int64_t sequence : {1, 4, 50}) {
      for (const int64_t begun : {1, 10, 60}) {
        const SampleIndex first = build_sample_index(lengths, range, sequence, begun, seed);
        SampleIndex before = first;
        for (const int64_t wanted : {begun - 1, begun + 1, 2 * begun, 3 * begun + 5, 7 * begun + 5}) {
          const SampleIndex longer = build_sample_index(lengths, range, sequence, begun, seed, wanted);
          ASSERT_GE(static_cast<int64_t>(longer.order.size()), wanted);
          ASSERT_TRUE(begins_with(longer.order, before.order)) << seed << " " << sequence << " " << begun;
          ASSERT_TRUE(begins_with(longer.starts, before.starts));
          ASSERT_TRUE(begins_with(longer.documents, before.documents));
          before = longer;
        }
        EXPECT_EQ(build_sample_index(lengths, range, sequence, begun, seed, begun).order, first.order)
            << "a run of its own length keeps Megatron's order";
      }
    }
  }
}

TEST(LongerOrder, HasEveryDocumentAndEveryTokenOncePerEpoch) {
  const std::vector<int32_t> lengths = some_lengths(400, 3);
  int64_t tokens = 0;
  for (const int32_t length : lengths) tokens += length;
  constexpr int64_t kSequence = 32;
  const int64_t begun = tokens / kSequence / 2;  // half an epoch
  // Not extended, once, twice: the last one is the order of a run made longer two times, since prefixes stay.
  for (const int64_t epochs : {1, 3, 6}) {
    const int64_t wanted = (epochs * tokens - 1) / kSequence;
    const SampleIndex index = build_sample_index(lengths, {0, 400}, kSequence, begun, 1234, wanted);
    ASSERT_EQ(index.epochs, epochs);
    for (int64_t epoch = 0; epoch < epochs; ++epoch) {
      std::vector<int> seen(400);
      for (int64_t d = 0; d < 400; ++d)
        ++seen[static_cast<size_t>(index.documents[static_cast<size_t>(epoch * 400 + d)])];
      EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), 400) << "epoch " << epoch;
    }
    std::vector<int> times(static_cast<size_t>(epochs * tokens));
    for (int64_t i = 0; i < wanted; ++i) {
      const auto [first, last] = predicted(index, lengths, i, kSequence);
      for (int64_t t = first; t < last; ++t) ++times[static_cast<size_t>(t)];
    }
    // All but the very first and what does not fill a sample at the end.
    EXPECT_EQ(std::count(times.begin(), times.end(), 1), wanted * kSequence);
    EXPECT_EQ(std::count(times.begin(), times.end(), 0), epochs * tokens - wanted * kSequence);
    EXPECT_LE(epochs * tokens - wanted * kSequence, kSequence);
  }
}

TEST(LongerOrder, AppendsEpochsInOrdersOfTheirOwn) {
  const std::vector<int32_t> lengths(50, 9);
  const SampleIndex index = build_sample_index(lengths, {0, 50}, 9, 40, 7, 149);
  ASSERT_EQ(index.epochs, 3);
  std::map<std::vector<int32_t>, int> orders;
  for (int64_t epoch = 0; epoch < 3; ++epoch)
    ++orders[{index.documents.begin() + epoch * 50, index.documents.begin() + (epoch + 1) * 50}];
  EXPECT_EQ(orders.size(), 3U);
  // A sample of an appended epoch comes after all samples of the epochs before.
  const std::vector<int64_t> bounds{0, 49, 99, 149};
  for (size_t part = 0; part < 3; ++part) {
    std::vector<int64_t> own(index.order.begin() + bounds[part], index.order.begin() + bounds[part + 1]);
    EXPECT_FALSE(std::is_sorted(own.begin(), own.end()));
    std::sort(own.begin(), own.end());
    EXPECT_EQ(own.front(), bounds[part]);
    EXPECT_EQ(own.back(), bounds[part + 1] - 1);
  }
}

TEST(SampleIndexSize, IsThatOfTheIndex) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const std::vector<int32_t> lengths = some_lengths(3 + static_cast<int>(seed), seed);
    const int64_t count = static_cast<int64_t>(lengths.size());
    int64_t tokens = 0;
    for (const int32_t length : lengths) tokens += length;
    for (const int64_t sequence : {1, 7, 100}) {
      for (const int64_t samples : {1, 30, 200}) {
        for (const int64_t wanted : {0, 100, 500}) {
          const SampleIndexSize size = sample_index_size(tokens, count, sequence, samples, wanted);
          const SampleIndex index = build_sample_index(lengths, {0, count}, sequence, samples, 1, wanted);
          ASSERT_EQ(size.epochs + size.appended_epochs, index.epochs);
          ASSERT_EQ(size.separate_last_epoch, index.separate_last_epoch);
          ASSERT_EQ(size.samples, static_cast<int64_t>(index.order.size()));
          ASSERT_EQ(size.bytes, static_cast<int64_t>(index.documents.size() * 4 + index.starts.size() * 8 +
                                                     index.order.size() * 8 + 8));
        }
      }
    }
  }
}

TEST(SampleIndexSize, OfRunsThatNobodyCanCountIsAnError) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  for (const int64_t samples : {int64_t{1} << 40, int64_t{1} << 53, kMost / 1024, kMost}) {
    EXPECT_ERROR("train.steps", sample_index_size(1000, 10, 1024, samples));
    EXPECT_ERROR("train.steps", sample_index_size(1000, 10, 1024, 1, samples));
  }
  // A dataset as long as the run: countable, and as large as it says.
  EXPECT_GT(sample_index_size(int64_t{1} << 60, 1, 1, int64_t{1} << 59).bytes, int64_t{1} << 62);
}

}  // namespace
}  // namespace ridgeline::data
