#include "ridgeline/data/pair_table.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <unordered_map>

#include "ridgeline/base/error.h"

namespace ridgeline::data {
namespace {

constexpr int kTries = 64;  // multipliers, before there are twice as many slots

int bits_of(size_t count) {
  return static_cast<int>(std::bit_width(count));
}

// In the order of rank, without those that a later one replaces.
std::vector<MergeRule> rules_in_order(std::span<const MergeRule> merges) {
  const auto pair_of = [](const MergeRule& rule) {
    return uint64_t{static_cast<uint32_t>(rule.left)} << 32 | static_cast<uint32_t>(rule.right);
  };
  std::unordered_map<uint64_t, size_t> last;  // rule for each pair
  last.reserve(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) last[pair_of(merges[i])] = i;
  std::vector<MergeRule> rules;
  for (size_t i = 0; i < merges.size(); ++i) {
    if (last.at(pair_of(merges[i])) == i) rules.push_back(merges[i]);
  }
  std::stable_sort(rules.begin(), rules.end(), [](const MergeRule& a, const MergeRule& b) { return a.rank < b.rank; });
  return rules;
}

}  // namespace

void PairTable::build(std::span<const MergeRule> merges, int64_t ids) {
  RL_CHECK(std::ssize(merges), <=, kMostRules);
  RL_CHECK(ids, <=, kMostIds);
  for (const MergeRule& rule : merges) {
    RL_CHECK(std::min(rule.left, rule.right), >=, 0);
    RL_CHECK(std::max(rule.left, rule.right), <, ids);
  }
  const std::vector<MergeRule> rules = rules_in_order(merges);
  const auto same_rank = [](const MergeRule& a, const MergeRule& b) { return a.rank == b.rank; };
  const bool shared = std::adjacent_find(rules.begin(), rules.end(), same_rank) != rules.end();
  ranks_.clear();
  merged_.clear();
  for (const MergeRule& rule : rules) {
    if (shared) ranks_.push_back(rule.rank);
    merged_.push_back(rule.merged);
  }
  first_merged_ = rules.empty() ? 0 : rules.front().merged;
  merged_is_number_ = std::adjacent_find(merged_.begin(), merged_.end(),
                                         [](int32_t a, int32_t b) { return b != a + 1; }) == merged_.end();
  if (merged_is_number_) merged_.clear();

  // Of five slots four are taken, or less, and up to eight rules share a pilot.
  int slot_bits = std::max(1, bits_of(rules.size() * 5 / 4));
  const int pilot_bits = bits_of(rules.size() / 8);
  // All bits of -1 are ones: no id is that.
  const int id_bits = std::max(bits_of(static_cast<size_t>(ids)), (slot_bits + pilot_bits + 2) / 2);
  const bool narrow = id_bits <= 16 && rules.size() < 0xFFFF;
  slot_bits = std::max(slot_bits, 2 * id_bits - (narrow ? 16 : 32));  // `rest` takes half of a slot at most
  uint64_t random = 0x9E3779B97F4A7C15U;
  for (int tries = 1;; ++tries) {
    RL_CHECK(tries, <, 64 * kTries);
    lay_out(id_bits, slot_bits, pilot_bits, random | 1);  // odd: only so no bit is lost
    if (place(rules)) break;
    random = random * 0xD1342543DE82EF95U + 1;
    // In the end no two pairs have the same `high` and the same pilot.
    if (tries % kTries == 0 && slot_bits + pilot_bits < 2 * id_bits) ++slot_bits;
  }
  narrow_.clear();
  wide_.clear();
  tags_.clear();
  if (narrow) {
    fill(rules, narrow_);
  } else {
    fill(rules, wide_);
    for (const uint64_t slot : wide_) tags_.push_back(static_cast<uint8_t>(slot >> 32));
    wide_.push_back(0);
  }
}

void PairTable::lay_out(int id_bits, int slot_bits, int pilot_bits, uint64_t multiplier) {
  const int rest_bits = 2 * id_bits - slot_bits;
  id_bits_ = id_bits;
  low_shift_ = 64 - 2 * id_bits;
  high_shift_ = 64 - slot_bits;
  rest_mask_ = (uint64_t{1} << rest_bits) - 1;
  pilot_shift_ = rest_bits - pilot_bits;
  multiplier_ = multiplier << low_shift_;
  pilots_.assign(size_t{1} << pilot_bits, 0);
}

// Chooses the pilots; false when two rules would always meet, or a pilot is not to be found.
bool PairTable::place(std::span<const MergeRule> rules) {
  std::vector<size_t> begins(pilots_.size() + 1);
  std::vector<uint64_t> highs(rules.size());  // of those that share a pilot, one after another
  for (const MergeRule& rule : rules) ++begins[(mixed(rule.left, rule.right).rest >> pilot_shift_) + 1];
  std::partial_sum(begins.begin(), begins.end(), begins.begin());
  std::vector<size_t> ends(begins.begin(), begins.end() - 1);
  for (const MergeRule& rule : rules) {
    const Mixed pair = mixed(rule.left, rule.right);
    const size_t pilot = pair.rest >> pilot_shift_;
    for (size_t i = begins[pilot]; i < ends[pilot]; ++i) {
      if (highs[i] == pair.high) return false;
    }
    highs[ends[pilot]++] = pair.high;
  }
  // Where many share a pilot it is chosen while most slots are free.
  std::vector<uint32_t> order(pilots_.size());
  std::iota(order.begin(), order.end(), 0U);
  const auto sharing = [&](uint32_t pilot) { return begins[pilot + 1] - begins[pilot]; };
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return sharing(a) > sharing(b); });
  const size_t slots = size_t{1} << (64 - high_shift_);
  std::vector<bool> taken(slots);
  for (const uint32_t pilot : order) {
    const auto of_pilot = std::span(highs).subspan(begins[pilot], sharing(pilot));
    const size_t most = std::min<size_t>(slots, size_t{1} << 16);
    size_t moved = 0;
    while (moved < most &&
           std::any_of(of_pilot.begin(), of_pilot.end(), [&](uint64_t high) { return taken[high ^ moved]; }))
      ++moved;
    if (moved == most) return false;
    pilots_[pilot] = static_cast<uint16_t>(moved);
    for (const uint64_t high : of_pilot) taken[high ^ moved] = true;
  }
  return true;
}

template <typename Slot>
void PairTable::fill(std::span<const MergeRule> rules, std::vector<Slot>& slots) const {
  slots.assign(size_t{1} << (64 - high_shift_), 0);
  for (size_t number = 0; number < rules.size(); ++number) {
    const Home home = home_of(rules[number].left, rules[number].right);
    RL_CHECK(slots[home.slot], ==, Slot{0});
    slots[home.slot] = static_cast<Slot>(home.rest << (4 * sizeof(Slot)) | (number + 1));
  }
}

}  // namespace ridgeline::data
