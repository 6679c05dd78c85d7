#include "ridgeline/data/piece_lookup.h"

#include <algorithm>
#include <type_traits>

namespace ridgeline::data {
namespace {

// The slot that holds the key in a pair, or null. Without a branch on which of the two it is: that is as good as
// random.
const char* slot_of(PieceKey key, const char* pair) {
  const auto differs = [&](const char* slot) {
    PieceKey held;
    std::memcpy(&held, slot, sizeof held);
    return (held.low ^ key.low) | ((held.high & PieceSlots::kKeyBits) ^ key.high);
  };
  const uint64_t first = differs(pair), second = differs(pair + PieceSlots::kSlot);
  if (std::min(first, second) != 0) return nullptr;
  return pair + (second == 0 ? PieceSlots::kSlot : 0);
}

template <typename Id>
size_t ids_one_by_one(const PiecePlace* places, size_t count, const PieceTable<Id>& table, Id*& to) {
  Id* out = to;
  size_t i = 0;
  for (; i < count; ++i) {
    const char* slot = slot_of(places[i].key, places[i].pair);
    if (slot == nullptr) [[unlikely]] {
      const char* const next = places[i].pair + PieceSlots::kPair;
      const bool ends = PieceSlots::free(next - PieceSlots::kSlot) || next == table.end;
      slot = ends ? nullptr : slot_of(places[i].key, next);
      if (slot == nullptr) break;
    }
    uint64_t high = 0;
    std::memcpy(&high, slot + 8, sizeof high);
    size_t ids = high >> 60;
    if (ids > table.kMostHeld) [[unlikely]] {
      uint32_t held[2];
      std::memcpy(held, slot + PieceSlots::kHeld, sizeof held);
      if (held[1] != 0) ids = held[1];
      std::memcpy(out, table.store + held[0], ids * sizeof(Id));
    } else {
      // All at once, whatever of them counts.
      std::memcpy(out, slot + PieceSlots::kHeld, table.kMostHeld * sizeof(Id));
    }
    out += ids;
  }
  to = out;
  return i;
}

template <typename Id>
size_t places_portable(const char* text, size_t begin, const uint32_t* ends, size_t count, const PieceTable<Id>& table,
                       PiecePlace* places, uint32_t* longs) {
  return places_in_order(text, begin, ends, count, table, places, longs);
}

template <typename Id>
constexpr LookupFunctions<Id> kPortableLookups{places_portable<Id>, ids_one_by_one<Id>};

}  // namespace

template <typename Id>
const LookupFunctions<Id>& lookup_functions(device::Isa isa) {
#if defined(__x86_64__)
  static const bool bmi2 = __builtin_cpu_supports("bmi2") != 0;
  if (isa >= device::Isa::avx2 && bmi2) {
    if constexpr (std::is_same_v<Id, uint16_t>) {
      return kAvx2Lookups16;
    } else {
      return kAvx2Lookups32;
    }
  }
#endif
  return kPortableLookups<Id>;
}

template const LookupFunctions<uint16_t>& lookup_functions(device::Isa isa);
template const LookupFunctions<int32_t>& lookup_functions(device::Isa isa);

}  // namespace ridgeline::data
