#include "ridgeline/data/sample_index.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>
#include <string>

#include "ridgeline/base/error.h"

namespace ridgeline::data {

NumpyShuffle::NumpyShuffle(uint32_t seed) {
  state_[0] = seed;
  for (uint32_t i = 1; i < 624; ++i) state_[i] = 1812433253U * (state_[i - 1] ^ (state_[i - 1] >> 30)) + i;
}

uint32_t NumpyShuffle::next() {
  if (index_ == 624) {
    for (size_t i = 0; i < 624; ++i) {
      const uint32_t y = (state_[i] & 0x80000000U) | (state_[(i + 1) % 624] & 0x7FFFFFFFU);
      state_[i] = state_[(i + 397) % 624] ^ (y >> 1) ^ ((y & 1U) != 0 ? 0x9908B0DFU : 0U);
    }
    index_ = 0;
  }
  uint32_t y = state_[index_++];
  y ^= y >> 11;
  y ^= (y << 7) & 0x9D2C5680U;
  y ^= (y << 15) & 0xEFC60000U;
  return y ^ (y >> 18);
}

uint64_t NumpyShuffle::bounded(uint64_t limit) {
  if (limit == 0) return 0;
  const uint64_t mask = ~uint64_t{0} >> std::countl_zero(limit);
  while (true) {
    uint64_t value = next();
    if (limit > std::numeric_limits<uint32_t>::max()) value = value << 32 | next();
    if ((value &= mask) <= limit) return value;
  }
}

namespace {

constexpr int64_t kCountable = std::numeric_limits<uint32_t>::max();  // places in the list of documents

[[noreturn]] void too_many_epochs(int64_t samples, const std::string& of, int64_t documents) {
  throw Error(fmt::format("train.steps: {} samples{} are more epochs of {} documents than the sample index can count "
                          "({} documents in all)",
                          samples, of, documents, kCountable),
              "Train for fewer steps (train.steps), or join short documents.");
}

[[noreturn]] void no_tokens(DocumentRange range) {
  throw Error(fmt::format("documents {} to {} of the dataset hold no tokens", range.first, range.last),
              "Give this split a larger share (data.split), or prepare more text.");
}

// Samples that are whole after so many epochs of `tokens` tokens.
int64_t samples_of(int64_t epochs, int64_t tokens, int64_t sequence) {
  return epochs == 0 ? 0 : (epochs * tokens - 1) / sequence;
}

// The smallest number of epochs E with (E * tokens - 1) / T >= samples.
int64_t epochs_for(int64_t samples, int64_t tokens, int64_t documents, int64_t sequence) {
  const bool countable = samples <= (std::numeric_limits<int64_t>::max() / 2 - 1) / sequence;
  const int64_t epochs = countable ? (samples * sequence + tokens) / tokens : kCountable + 1;
  if (epochs > kCountable / documents || documents > std::numeric_limits<int32_t>::max())
    too_many_epochs(samples, fmt::format(" of {} tokens", sequence), documents);
  return epochs;
}

int64_t tokens_of(std::span<const int32_t> lengths, DocumentRange range) {
  int64_t tokens = 0;
  for (int64_t d = range.first; d < range.last; ++d) tokens += lengths[static_cast<size_t>(d)];
  if (tokens < 1) no_tokens(range);
  return tokens;
}

// Row i begins where row i-1 ends, on its last token.
void cut_samples(std::span<const int32_t> lengths, int64_t sequence, SampleIndex& index) {
  int64_t position = 0, offset = 0;
  for (size_t i = 1; i < index.starts.size(); ++i) {
    int64_t remaining = sequence + 1;
    while (true) {
      const int64_t here = lengths[static_cast<size_t>(index.documents[static_cast<size_t>(position)])] - offset;
      remaining -= here;
      if (remaining <= 0) {
        offset += remaining + here - 1;
        break;
      }
      ++position;
      offset = 0;
    }
    index.starts[i] = {static_cast<uint32_t>(position), static_cast<uint32_t>(offset)};
  }
}

}  // namespace

SampleIndexSize sample_index_size(int64_t tokens, int64_t documents, int64_t sequence, int64_t samples,
                                  int64_t wanted) {
  RL_CHECK(tokens, >, 0);
  RL_CHECK(documents, >, 0);
  RL_CHECK(sequence, >, 0);
  samples = std::max<int64_t>(samples, 1);
  SampleIndexSize size;
  size.epochs = epochs_for(samples, tokens, documents, sequence);
  size.first_samples = size.samples = samples_of(size.epochs, tokens, sequence);
  if (size.epochs > 1) {
    const int64_t from_last = samples - samples_of(size.epochs - 1, tokens, sequence);
    const int64_t per_epoch = (tokens - 1) / sequence;
    size.separate_last_epoch = from_last < static_cast<int64_t>(0.80 * static_cast<double>(per_epoch));
  }
  if (wanted > size.first_samples) {
    const int64_t all = epochs_for(wanted, tokens, documents, sequence);
    size.appended_epochs = all - size.epochs;
    size.samples = samples_of(all, tokens, sequence);
  }
  // Products of numbers below 2^32 and 2^63 / T: they fit, but for samples of a few tokens.
  constexpr auto kRow = static_cast<int64_t>(sizeof(SampleStart) + sizeof(int64_t));
  const int64_t list = (size.epochs + size.appended_epochs) * documents * static_cast<int64_t>(sizeof(int32_t));
  size.bytes = size.samples < (std::numeric_limits<int64_t>::max() - list) / kRow - 1
                   ? list + (size.samples + 1) * kRow
                   : std::numeric_limits<int64_t>::max();
  return size;
}

SampleIndexSize block_index_size(int64_t blocks, int64_t samples, int64_t wanted) {
  RL_CHECK(blocks, >, 0);
  samples = std::max<int64_t>(samples, 1);
  const auto epochs_of = [&](int64_t count) { return count / blocks + (count % blocks == 0 ? 0 : 1); };
  SampleIndexSize size;
  size.epochs = epochs_of(samples);
  const int64_t all = std::max(size.epochs, epochs_of(wanted));
  if (all > kCountable / blocks || blocks > std::numeric_limits<int32_t>::max())
    too_many_epochs(std::max(samples, wanted), "", blocks);
  size.appended_epochs = all - size.epochs;
  size.first_samples = size.epochs * blocks;
  size.samples = all * blocks;
  size.bytes = size.samples * static_cast<int64_t>(sizeof(int32_t));
  return size;
}

SampleIndex build_sample_index(std::span<const int32_t> lengths, DocumentRange range, int64_t sequence, int64_t samples,
                               uint32_t seed, int64_t wanted) {
  RL_CHECK(range.first, >=, 0);
  RL_CHECK(range.last, <=, static_cast<int64_t>(lengths.size()));
  const int64_t count = range.last - range.first, tokens = tokens_of(lengths, range);
  const SampleIndexSize size = sample_index_size(tokens, count, sequence, samples, wanted);
  SampleIndex index;
  index.epochs = size.epochs + size.appended_epochs;
  index.separate_last_epoch = size.separate_last_epoch;

  index.documents.resize(static_cast<size_t>(index.epochs * count));
  for (size_t i = 0; i < index.documents.size(); ++i) {
    index.documents[i] = static_cast<int32_t>(range.first + static_cast<int64_t>(i) % count);
  }
  index.order.resize(static_cast<size_t>(size.samples));
  std::iota(index.order.begin(), index.order.end(), int64_t{0});
  NumpyShuffle random(seed);
  // Of the epochs [first, last).
  const auto documents = [&](int64_t first, int64_t last) {
    return std::span(index.documents)
        .subspan(static_cast<size_t>(first * count), static_cast<size_t>((last - first) * count));
  };
  const auto order = [&](int64_t first, int64_t last) {
    const int64_t begin = samples_of(first, tokens, sequence), end = samples_of(last, tokens, sequence);
    return std::span(index.order).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
  };
  const int64_t together = size.separate_last_epoch ? size.epochs - 1 : size.epochs;
  random.shuffle(documents(0, together));
  random.shuffle(documents(together, size.epochs));
  random.shuffle(order(0, together));
  random.shuffle(order(together, size.epochs));
  for (int64_t epoch = size.epochs; epoch < index.epochs; ++epoch) {
    random.shuffle(documents(epoch, epoch + 1));
    random.shuffle(order(epoch, epoch + 1));
  }
  index.starts.resize(static_cast<size_t>(size.samples) + 1);
  cut_samples(lengths, sequence, index);
  return index;
}

SampleIndex build_block_index(DocumentRange range, int64_t samples, uint32_t seed, int64_t wanted) {
  if (range.empty()) no_tokens(range);
  const int64_t count = range.last - range.first;
  const SampleIndexSize size = block_index_size(count, samples, wanted);
  SampleIndex index;
  index.epochs = size.epochs + size.appended_epochs;
  index.documents.resize(static_cast<size_t>(size.samples));
  NumpyShuffle random(seed);
  for (int64_t epoch = 0; epoch < index.epochs; ++epoch) {
    const auto blocks =
        std::span(index.documents).subspan(static_cast<size_t>(epoch * count), static_cast<size_t>(count));
    std::iota(blocks.begin(), blocks.end(), static_cast<int32_t>(range.first));
    random.shuffle(blocks);
  }
  return index;
}

}  // namespace ridgeline::data
