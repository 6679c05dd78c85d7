// Compiled for AVX2, BMI and POPCNT and called only where the processor has them: nothing here may be inlined
// elsewhere, so this file includes nothing with functions of other files.
#include <immintrin.h>

#include "ridgeline/data/ascii_masks.h"

namespace ridgeline::data {
namespace {

// 0xFF where first <= byte <= first + range.
inline __m256i in_range(__m256i bytes, char first, char range) {
  const __m256i offset = _mm256_sub_epi8(bytes, _mm256_set1_epi8(first));
  return _mm256_cmpeq_epi8(_mm256_min_epu8(offset, _mm256_set1_epi8(range)), offset);
}

inline uint64_t bits(__m256i low, __m256i high) {
  return static_cast<uint32_t>(_mm256_movemask_epi8(low)) | uint64_t{static_cast<uint32_t>(_mm256_movemask_epi8(high))}
                                                                << 32;
}

AsciiMasks masks(const char* block) {
  const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block));
  const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + 32));
  const __m256i lower = _mm256_set1_epi8(0x20);
  const auto equal = [&](char byte) {
    return bits(_mm256_cmpeq_epi8(low, _mm256_set1_epi8(byte)), _mm256_cmpeq_epi8(high, _mm256_set1_epi8(byte)));
  };
  const uint64_t blanks = equal(' ');
  return {
      .letters = bits(in_range(_mm256_or_si256(low, lower), 'a', 25), in_range(_mm256_or_si256(high, lower), 'a', 25)),
      .digits = bits(in_range(low, '0', 9), in_range(high, '0', 9)),
      .spaces = bits(in_range(low, '\t', 4), in_range(high, '\t', 4)) | blanks,
      .blanks = blanks,
      .apostrophes = equal('\''),
      .high = bits(low, high)};
}

// Eight at a time, whether there are so many or not: how many is hard to predict.
size_t places(uint64_t set, size_t first, size_t* to) {
  const auto count = static_cast<size_t>(_mm_popcnt_u64(set));
  for (size_t i = 0; i < count; i += 8) {
    for (size_t k = i; k < i + 8; ++k, set = _blsr_u64(set)) to[k] = first + _tzcnt_u64(set);
  }
  return count;
}

}  // namespace

constexpr BlockFunctions kAvx2Blocks{masks, places};

}  // namespace ridgeline::data
