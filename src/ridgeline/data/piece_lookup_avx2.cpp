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

template <bool narrow>
size_t ids_avx2(const PiecePlace* places, size_t count, const PieceTable& table, int32_t*& to) {
  const __m128i key_bits = _mm_set_epi64x(static_cast<int64_t>(PieceTable::kKeyBits), -1);
  const auto same = [&](__m128i key, const char* slot) {  // 1 or 0
    return _mm_testz_si128(_mm_xor_si128(key, load_16(slot)), key_bits);
  };
  // Of a pair the slot that holds the key, if one does. Without a branch: which of the two it is is as good as random.
  const auto slot_of = [&](__m128i key, const char* pair) {
    return pair + static_cast<size_t>(same(key, pair + PieceTable::kSlot)) * PieceTable::kSlot;
  };
  int32_t* out = to;
  size_t i = 0;
  for (; i < count; ++i) {
    const __m128i key = load_16(&places[i].key);
    const char* slot = slot_of(key, places[i].pair);
    if (same(key, slot) == 0) [[unlikely]] {
      const char* const next = places[i].pair + PieceTable::kPair;
      if (next == table.end) break;
      slot = slot_of(key, next);
      if (same(key, slot) == 0) break;
    }
    const __m128i held = load_16(slot + PieceTable::kHeld);
    size_t ids = static_cast<size_t>(static_cast<unsigned char>(slot[15])) >> 4;
    if (ids > (narrow ? 8 : 4)) [[unlikely]] {
      const auto place = static_cast<uint32_t>(_mm_cvtsi128_si32(held));
      const auto more = static_cast<uint32_t>(_mm_extract_epi32(held, 1));
      if (more != 0) ids = more;
      std::memcpy(out, table.store + place, ids * sizeof(int32_t));
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
