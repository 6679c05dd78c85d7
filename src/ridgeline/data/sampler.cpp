#include "ridgeline/data/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "ridgeline/base/error.h"

namespace ridgeline::data {
namespace {

[[noreturn]] void bad_split(std::string_view split, std::string_view why) {
  throw Error(fmt::format("data.split: '{}' {}", split, why),
              "Write the shares of train, validation and test, such as \"98,2,0\" or \"969,30,1\".");
}

std::array<double, 3> parse_split(std::string_view split) {
  std::array<double, 3> shares{};
  const char separator = split.find('/') != std::string_view::npos ? '/' : ',';
  std::string_view rest = split;
  for (size_t i = 0; i < 3 && !rest.empty(); ++i) {
    const size_t end = std::min(rest.find(separator), rest.size());
    std::string_view number = rest.substr(0, end);
    while (number.starts_with(' ')) number.remove_prefix(1);
    while (number.ends_with(' ')) number.remove_suffix(1);
    const auto [stop, code] = std::from_chars(number.data(), number.data() + number.size(), shares[i]);
    if (code != std::errc{} || stop != number.data() + number.size() || !std::isfinite(shares[i]) || shares[i] < 0) {
      bad_split(split, "is not a list of numbers");
    }
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  if (!rest.empty()) bad_split(split, "has more than three shares");
  if (!(shares[0] + shares[1] + shares[2] > 0)) bad_split(split, "gives nothing to anyone");
  return shares;
}

}  // namespace

std::array<DocumentRange, 3> split_documents(std::string_view split, int64_t documents) {
  std::array<double, 3> shares = parse_split(split);
  const double sum = shares[0] + shares[1] + shares[2];
  std::array<int64_t, 4> bounds{};
  for (size_t i = 0; i < 3; ++i) {
    // Python's round(): half to even, the default rounding mode.
    bounds[i + 1] = bounds[i] + static_cast<int64_t>(std::nearbyint(shares[i] / sum * static_cast<double>(documents)));
  }
  const int64_t surplus = bounds[3] - documents;
  for (size_t i = 1; i < 4; ++i) bounds[i] -= surplus;
  std::array<DocumentRange, 3> ranges;
  for (size_t i = 0; i < 3; ++i) {
    // With very few documents Megatron's subtraction can leave a bound below the one before it: an empty range.
    const int64_t first = std::clamp<int64_t>(bounds[i], 0, documents);
    ranges[i] = {first, std::clamp<int64_t>(bounds[i + 1], first, documents)};
  }
  return ranges;
}

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

SampleIndex build_sample_index(std::span<const int32_t> lengths, DocumentRange range, int64_t sequence, int64_t samples,
                               uint32_t seed) {
  RL_CHECK(sequence, >, 0);
  RL_CHECK(range.first, >=, 0);
  RL_CHECK(range.last, <=, static_cast<int64_t>(lengths.size()));
  samples = std::max<int64_t>(samples, 1);
  const int64_t count = std::max<int64_t>(range.last - range.first, 0);
  int64_t tokens = 0;
  for (int64_t d = range.first; d < range.last; ++d) tokens += lengths[static_cast<size_t>(d)];
  if (tokens < 1) {
    throw Error(fmt::format("documents {} to {} of the dataset hold no tokens", range.first, range.last),
                "Give this split a larger share (data.split), or prepare more text.");
  }

  SampleIndex index;
  // The smallest number of epochs E with (E * tokens - 1) / T >= samples.
  index.epochs = (samples * sequence + 1 + tokens - 1) / tokens;
  const int64_t total = (index.epochs * tokens - 1) / sequence;
  const int64_t before_last = ((index.epochs - 1) * tokens - 1) / sequence;
  if (index.epochs > 1) {
    const int64_t from_last = samples - before_last, per_epoch = (tokens - 1) / sequence;
    index.separate_last_epoch = from_last < static_cast<int64_t>(0.80 * static_cast<double>(per_epoch));
  }
  if (index.epochs * count > std::numeric_limits<uint32_t>::max() || range.last > std::numeric_limits<int32_t>::max()) {
    throw Error(fmt::format("{} epochs of {} documents are more than the sample index can count", index.epochs, count),
                "Train for fewer steps, or join short documents.");
  }

  NumpyShuffle random(seed);
  index.documents.resize(static_cast<size_t>(index.epochs * count));
  for (size_t i = 0; i < index.documents.size(); ++i) {
    index.documents[i] = static_cast<int32_t>(range.first + static_cast<int64_t>(i) % count);
  }
  const std::span<int32_t> documents(index.documents);
  if (index.separate_last_epoch) {
    const size_t first_part = static_cast<size_t>((index.epochs - 1) * count);
    random.shuffle(documents.first(first_part));
    random.shuffle(documents.subspan(first_part));
  } else {
    random.shuffle(documents);
  }

  index.starts.resize(static_cast<size_t>(total) + 1);
  int64_t position = 0, offset = 0;
  for (int64_t i = 1; i <= total; ++i) {
    int64_t remaining = sequence + 1;
    while (true) {
      const int64_t here = lengths[static_cast<size_t>(documents[static_cast<size_t>(position)])] - offset;
      remaining -= here;
      if (remaining <= 0) {
        offset += remaining + here - 1;
        break;
      }
      ++position;
      offset = 0;
    }
    index.starts[static_cast<size_t>(i)] = {static_cast<uint32_t>(position), static_cast<uint32_t>(offset)};
  }

  index.order.resize(static_cast<size_t>(total));
  std::iota(index.order.begin(), index.order.end(), int64_t{0});
  const std::span<int64_t> order(index.order);
  const size_t first_part = static_cast<size_t>(index.separate_last_epoch ? before_last : total);
  random.shuffle(order.first(first_part));
  random.shuffle(order.subspan(first_part));
  return index;
}

GptDataset::GptDataset(std::shared_ptr<const IndexedDataset> dataset, const Settings& settings)
    : dataset_(std::move(dataset)),
      settings_(settings),
      index_(build_sample_index(dataset_->lengths(), settings.documents, settings.sequence, settings.samples,
                                settings.seed)) {}

void GptDataset::sample(int64_t i, std::span<int32_t> tokens) const {
  RL_CHECK(i, >=, 0);
  RL_CHECK(i, <, size());
  RL_CHECK(static_cast<int64_t>(tokens.size()), ==, settings_.sequence + 1);
  SampleStart at = index_.starts[static_cast<size_t>(index_.order[static_cast<size_t>(i)])];
  while (!tokens.empty()) {
    const int32_t document = index_.documents[at.position];
    const size_t here = static_cast<size_t>(dataset_->length(document)) - at.offset;
    const size_t take = std::min(here, tokens.size());
    dataset_->read(dataset_->begin(document) + at.offset, tokens.first(take), settings_.vocabulary);
    tokens = tokens.subspan(take);
    at = {at.position + 1, 0};
  }
}

EvaluationWindows::EvaluationWindows(std::shared_ptr<const IndexedDataset> dataset, DocumentRange documents,
                                     int64_t sequence, int64_t vocabulary)
    : dataset_(std::move(dataset)), sequence_(sequence), vocabulary_(vocabulary) {
  RL_CHECK(sequence, >, 0);
  if (documents.empty()) return;
  RL_CHECK(documents.first, >=, 0);
  RL_CHECK(documents.last, <=, dataset_->documents());
  begin_ = dataset_->begin(documents.first);
  predictions_ = std::max<int64_t>(dataset_->begin(documents.last) - begin_ - 1, 0);
}

void EvaluationWindows::window(int64_t i, std::span<int32_t> tokens, std::span<int32_t> labels) const {
  RL_CHECK(i, >=, 0);
  RL_CHECK(static_cast<int64_t>(tokens.size()), ==, sequence_);
  RL_CHECK(static_cast<int64_t>(labels.size()), ==, sequence_);
  const auto count = static_cast<size_t>(i < size() ? std::min(sequence_, predictions_ - i * sequence_) : 0);
  dataset_->read(begin_ + (count == 0 ? 0 : i * sequence_), tokens.first(count), vocabulary_);
  dataset_->read(begin_ + (count == 0 ? 0 : i * sequence_ + 1), labels.first(count), vocabulary_);
  std::fill(tokens.begin() + static_cast<std::ptrdiff_t>(count), tokens.end(), 0);
  std::fill(labels.begin() + static_cast<std::ptrdiff_t>(count), labels.end(), kIgnoredLabel);
}

}  // namespace ridgeline::data
