// Compiled for AVX2 and BMI2 and called only where the processor has them: nothing here may be inlined elsewhere, so
// this file includes nothing with functions of other files.
#include <immintrin.h>

#include "ridgeline/data/piece_lookup.h"

namespace ridgeline::data {
namespace {

size_t places_avx2(const char* text, size_t begin, const size_t* ends, size_t count, const PieceTable& table,
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
  return same_key(key, pair + PieceTable::kSlot, key_bits) * PieceTable::kSlot;
}

// What the loop below does seldom is called, so that the rest lies in one piece: 2 % of all encoding.

// The slot that holds the key in the pair behind `pair`, or null. Where that one has a free slot nothing goes on, and
// the next, which nobody has fetched, is left alone: a new piece waits for memory no more than once.
[[gnu::noinline, gnu::cold]] const char* slot_behind(const char* pair, const char* end, __m128i key, __m128i key_bits) {
  if (pair[PieceTable::kPair - PieceTable::kSlot + 15] == 0) return nullptr;
  const char* const next = pair + PieceTable::kPair;
  if (next == end) return nullptr;
  const char* const slot = next + offset_of(key, next, key_bits);
  return same_key(key, slot, key_bits) != 0 ? slot : nullptr;
}

// Copies the ids of a slot that says where they are; returns how many.
[[gnu::noinline]] size_t ids_in_store(const char* slot, const int32_t* store, int32_t* out) {
  uint32_t held[2];
  std::memcpy(held, slot + PieceTable::kHeld, sizeof held);
  const size_t ids = held[1] != 0 ? held[1] : static_cast<size_t>(static_cast<unsigned char>(slot[15])) >> 4;
  std::memcpy(out, store + held[0], ids * sizeof(int32_t));
  return ids;
}

template <bool narrow>
size_t ids_avx2(const PiecePlace* places, size_t count, const PieceTable& table, int32_t*& to) {
  const __m128i key_bits = _mm_set_epi64x(static_cast<int64_t>(PieceTable::kKeyBits), -1);
  int32_t* out = to;
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
    const __m128i held = load_16(slot + PieceTable::kHeld);
    size_t ids = static_cast<size_t>(static_cast<unsigned char>(slot[15])) >> 4;
    if (ids > (narrow ? 8 : 4)) [[unlikely]] {
      ids = ids_in_store(slot, table.store, out);
    } else if (narrow) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_cvtepu16_epi32(held));
    } else {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out), held);
    }
    out += ids;
  }
  to = out;
  return i;
}

size_t ids_of_either(const PiecePlace* places, size_t count, const PieceTable& table, int32_t*& to) {
  return table.narrow ? ids_avx2<true>(places, count, table, to) : ids_avx2<false>(places, count, table, to);
}

}  // namespace

constexpr LookupFunctions kAvx2Lookups{places_avx2, ids_of_either};

}  // namespace ridgeline::data
