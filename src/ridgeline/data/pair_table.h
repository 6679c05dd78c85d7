// The merge rules of a tokenizer, by the pair that they merge. Internal to the room.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace ridgeline::data {

struct MergeRule {
  int32_t left, right, merged;
  uint32_t rank;  // the lowest is merged first; equal ones from left to right
};

// (left id, right id) -> the rule that merges them. Rules are numbered from the lowest rank on.
//
// What lookups cost is waiting for memory and branches that nobody can foresee: most pairs that are asked for do not
// merge. So the table is small, and a lookup looks at one slot, which no other rule can have taken. A pair's bits are
// mixed by a bijection into `high` and `rest`; a pilot, chosen by the first bits of `rest` when the table is built,
// moves those pairs that share it to slots that are free: high ^ pilot. A slot keeps `rest`: from that and its own
// place the pair follows, so that none is taken for another. With fewer than 2^16 ids and 65,535 rules a slot takes 32
// bits, which is 256 KiB for GPT-2 and stays in a core's L2 cache; else 64, and a byte of `rest`, which lies beside the
// others', tells of nearly every pair without a rule that it has none.
//
// Source: Belazzougui, Botelho, Dietzfelbinger, "Hash, displace, and compress", 2009; pilots combined by an exclusive
// or: Pibiri, Trani, "PTHash", 2021.
class PairTable {
 public:
  struct Merge {
    uint32_t rank;
    int32_t merged;
  };
  static constexpr uint32_t kNone = UINT32_MAX;
  static constexpr int64_t kMostIds = (int64_t{1} << 21) - 1, kMostRules = int64_t{1} << 22;

  PairTable() { build({}, 1); }
  // A later rule for the same pair replaces an earlier one, as in Hugging Face tokenizers. Of at most kMostRules; their
  // ids, and all that lookups are asked for, are below `ids`, which is at most kMostIds; -1, for none, has no rule.
  void build(std::span<const MergeRule> merges, int64_t ids);

  // Rank kNone: they do not merge.
  Merge find(int32_t left, int32_t right) const {
    const uint32_t number = find_rule(left, right);
    if (number == kNone) return {kNone, -1};
    return {order_of(number), merged_by(number)};
  }

  // The number of the pair's rule; kNone when they do not merge.
  uint32_t find_rule(int32_t left, int32_t right) const { return find_rule_if(true, left, right); }
  // kNone where nothing is `there`.
  uint32_t find_rule_if(bool there, int32_t left, int32_t right) const {
    const Home home = home_of(left, right);
    if (wide_.empty()) return number_in(narrow_[home.slot], home.rest, there);
    return number_in(wide_[wide_slot(home, there)], home.rest, there);
  }
  // What the rule makes of its pair; in most files without a look at memory.
  int32_t merged_by(uint32_t number) const {
    return merged_is_number_ ? static_cast<int32_t>(number) + first_merged_ : merged_[number];
  }
  // Has the processor fetch what find_rule() will look at.
  void prefetch(int32_t left, int32_t right) const {
    const size_t slot = home_of(left, right).slot;
    __builtin_prefetch(wide_.empty() ? static_cast<const void*>(&narrow_[slot]) : &tags_[slot]);
  }
  // The rank of a rule, or what orders them as their ranks do.
  uint32_t order_of(uint32_t number) const {
    if (ranks_.empty()) [[likely]]
      return number;
    return number == kNone ? kNone : ranks_[number];
  }

 private:
  struct Home {
    size_t slot;
    uint64_t rest;
  };
  struct Mixed {  // of a pair
    uint64_t high, rest;
  };

  // The upper half of a slot is `rest`, the lower one more than the number; an empty one is 0. Without a branch.
  template <typename Slot>
  static uint32_t number_in(Slot slot, uint64_t rest, bool there) {
    constexpr int kNumberBits = 4 * sizeof(Slot);
    const bool other = (slot >> kNumberBits != rest) | !there;
    return (static_cast<uint32_t>(slot & ((Slot{1} << kNumberBits) - 1)) - 1) | (uint32_t{0} - other);
  }
  // Its own, or the last, which is always empty; without a branch.
  size_t wide_slot(const Home& home, bool there) const {
    const bool may_be = there & (tags_[home.slot] == static_cast<uint8_t>(home.rest));
    const size_t empty = wide_.size() - 1;
    return empty ^ ((empty ^ home.slot) & (size_t{0} - may_be));
  }
  Mixed mixed(int32_t left, int32_t right) const {
    const uint64_t pair = uint64_t{static_cast<uint32_t>(left)} << id_bits_ | static_cast<uint32_t>(right);
    // Shifted, so that what the multiplier makes of the pair's bits are the first of the word.
    const uint64_t product = pair * multiplier_, high = product >> high_shift_;
    return {high, ((product >> low_shift_) ^ high) & rest_mask_};
  }
  Home home_of(int32_t left, int32_t right) const {
    const Mixed pair = mixed(left, right);
    return {pair.high ^ pilots_[pair.rest >> pilot_shift_], pair.rest};
  }
  void lay_out(int id_bits, int slot_bits, int pilot_bits, uint64_t multiplier);
  bool place(std::span<const MergeRule> rules);
  template <typename Slot>
  void fill(std::span<const MergeRule> rules, std::vector<Slot>& slots) const;

  int id_bits_ = 1, high_shift_ = 63, low_shift_ = 62, pilot_shift_ = 1;
  uint64_t multiplier_ = 1, rest_mask_ = 1;
  std::vector<uint16_t> pilots_;
  std::vector<uint32_t> narrow_;  // this one or the others are empty
  std::vector<uint64_t> wide_;
  std::vector<uint8_t> tags_;    // of wide_: the last byte of `rest`
  std::vector<uint32_t> ranks_;  // by number; empty where they order rules as their numbers do
  // By number; empty where it is the number and first_merged_ more: in GPT-2's files, and wherever tokens are in the
  // order of merges.
  std::vector<int32_t> merged_;
  bool merged_is_number_ = false;
  int32_t first_merged_ = 0;
};

}  // namespace ridgeline::data
