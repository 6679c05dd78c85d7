#include "ridgeline/data/piece_lookup.h"

#include <algorithm>

namespace ridgeline::data {
namespace {

// The slot that holds the key in a pair, or null. Without a branch on which of the two it is: that is as good as
// random.
const char* slot_of(PieceKey key, const char* pair) {
  const auto differs = [&](const char* slot) {
    PieceKey held;
    std::memcpy(&held, slot, sizeof held);
    return (held.low ^ key.low) | ((held.high & PieceTable::kKeyBits) ^ key.high);
  };
  const uint64_t first = differs(pair), second = differs(pair + PieceTable::kSlot);
  if (std::min(first, second) != 0) return nullptr;
  return pair + (second == 0 ? PieceTable::kSlot : 0);
}

size_t ids_one_by_one(const PiecePlace* places, size_t count, const PieceTable& table, int32_t*& to) {
  int32_t* out = to;
  size_t i = 0;
  for (; i < count; ++i) {
    const char* slot = slot_of(places[i].key, places[i].pair);
    if (slot == nullptr) [[unlikely]] {
      const char* const next = places[i].pair + PieceTable::kPair;
      slot = next == table.end ? nullptr : slot_of(places[i].key, next);
      if (slot == nullptr) break;
    }
    uint64_t high = 0;
    std::memcpy(&high, slot + 8, sizeof high);
    size_t ids = high >> 60;
    if (ids > table.most_held()) [[unlikely]] {
      uint32_t held[2];
      std::memcpy(held, slot + PieceTable::kHeld, sizeof held);
      if (held[1] != 0) ids = held[1];
      std::memcpy(out, table.store + held[0], ids * sizeof(int32_t));
    } else if (table.narrow) {
      // All eight at once, whatever of them counts.
      uint16_t narrow[8];
      std::memcpy(narrow, slot + PieceTable::kHeld, sizeof narrow);
      for (size_t k = 0; k < 8; ++k) out[k] = narrow[k];
    } else {
      std::memcpy(out, slot + PieceTable::kHeld, 4 * sizeof(int32_t));
    }
    out += ids;
  }
  to = out;
  return i;
}

size_t places_portable(const char* text, size_t begin, const size_t* ends, size_t count, const PieceTable& table,
                       PiecePlace* places, uint32_t* longs) {
  return places_in_order(text, begin, ends, count, table, places, longs);
}

}  // namespace

constexpr LookupFunctions kPortableLookups{places_portable, ids_one_by_one};

const LookupFunctions& lookup_functions(device::Isa isa) {
#if defined(__x86_64__)
  static const bool bmi2 = __builtin_cpu_supports("bmi2") != 0;
  if (isa >= device::Isa::avx2 && bmi2) return kAvx2Lookups;
#endif
  return kPortableLookups;
}

}  // namespace ridgeline::data
