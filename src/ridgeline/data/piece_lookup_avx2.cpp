// Compiled for AVX2 and BMI2 and called only where the processor has them: nothing here may be inlined elsewhere, so
// this file includes nothing with functions of other files.
#include <immintrin.h>

#include "ridgeline/data/piece_lookup.h"

namespace ridgeline::data {
namespace {

template <typename Id>
size_t places_avx2(const char* text, size_t begin, const uint32_t* ends, size_t count, const PieceTable<Id>& table,
                   PiecePlace* places, uint32_t* longs) {
  return places_in_order(text, begin, ends, count, table, places, longs);
}

inline __m128i load_16(const void* from) {
  return _mm_loadu_si128(static_cast<const __m128i*>(from));
}

inline size_t same_key(__m128i key, const char* slot, __m128i key_bits) {  // 1 or 0
  return static_cast<size_t>(_mm_testz_si128(_mm_xor_si128(key, load_16(slot)), key_bits));
}

// Of a pair the slot that holds the key, if one does. Without a branch: which of the two it is is as good as random.
inline size_t offset_of(__m128i key, const char* pair, __m128i key_bits) {
  return same_key(key, pair + PieceSlots::kSlot, key_bits) * PieceSlots::kSlot;
}

// What the loop below does seldom is called, so that the rest lies in one piece: 2 % of all encoding.

// The slot that holds the key in the pair behind `pair`, or null. Where that one has a free slot nothing goes on, and
// the next, which nobody has fetched, is left alone: a new piece waits for memory no more than once.
[[gnu::noinline, gnu::cold]] const char* slot_behind(const char* pair, const char* end, __m128i key, __m128i key_bits) {
  if (PieceSlots::free(pair + PieceSlots::kSlot)) return nullptr;
  const char* const next = pair + PieceSlots::kPair;
  if (next == end) return nullptr;
  const char* const slot = next + offset_of(key, next, key_bits);
  return same_key(key, slot, key_bits) != 0 ? slot : nullptr;
}

// Copies the ids of a slot that says where they are; returns how many.
template <typename Id>
[[gnu::noinline]] size_t ids_in_store(const char* slot, const Id* store, Id* out) {
  uint32_t held[2];
  std::memcpy(held, slot + PieceSlots::kHeld, sizeof held);
  const size_t ids = held[1] != 0 ? held[1] : static_cast<size_t>(static_cast<unsigned char>(slot[15])) >> 4;
  std::memcpy(out, store + held[0], ids * sizeof(Id));
  return ids;
}

template <typename Id>
size_t ids_avx2(const PiecePlace* places, size_t count, const PieceTable<Id>& table, Id*& to) {
  const __m128i key_bits = _mm_set_epi64x(static_cast<int64_t>(PieceSlots::kKeyBits), -1);
  Id* out = to;
  size_t i = 0;
  for (; i < count; ++i) {
    const __m128i key = load_16(&places[i].key);
    const char* slot = places[i].pair;
    const size_t offset = offset_of(key, slot, key_bits);
    if (same_key(key, slot + offset, key_bits) == 0) [[unlikely]] {
      slot = slot_behind(slot, table.end, key, key_bits);
      if (slot == nullptr) break;
    } else {
      slot += offset;
    }
    const __m128i held = load_16(slot + PieceSlots::kHeld);
    size_t ids = static_cast<size_t>(static_cast<unsigned char>(slot[15])) >> 4;
    if (ids > table.kMostHeld) [[unlikely]] {
      ids = ids_in_store(slot, table.store, out);
    } else {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out), held);
    }
    out += ids;
  }
  to = out;
  return i;
}

}  // namespace

constexpr LookupFunctions<uint16_t> kAvx2Lookups16{places_avx2<uint16_t>, ids_avx2<uint16_t>};
constexpr LookupFunctions<int32_t> kAvx2Lookups32{places_avx2<int32_t>, ids_avx2<int32_t>};

}  // namespace ridgeline::data
