// Compiled for AVX2, BMI and POPCNT and called only where the processor has them: nothing here may be inlined
// elsewhere, so this file includes nothing with functions of other files.
#include <immintrin.h>

#include "ridgeline/data/block_begins.h"

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

RL_INLINED AsciiMasks masks(const char* block) {
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
      .line_ends = equal('\n') | equal('\r'),
      .apostrophes = equal('\''),
      .high = bits(low, high)};
}

// 0xFF where a character of three bytes begins that is certainly a letter: most of Chinese, Korean and kana.
__m256i letters_of_three(const char* at) {
  const auto load = [&](int from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at + from)); };
  const auto by_half = [](__m128i table, __m256i bytes) {  // of the lower four bits
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), _mm256_and_si256(bytes, _mm256_set1_epi8(0x0F)));
  };
  const auto between = [](__m256i bytes, __m256i low, __m256i high) {
    return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_max_epu8(bytes, low), bytes),
                            _mm256_cmpeq_epi8(_mm256_min_epu8(bytes, high), bytes));
  };
  const __m256i first = load(0), second = load(1), third = load(2);
  const __m256i begins = _mm256_cmpeq_epi8(_mm256_and_si256(first, _mm256_set1_epi8('\xF0')), _mm256_set1_epi8('\xE0'));
  // Behind E3 kana (U+3040 … 30FF), behind E4 … E9 the ideographs from U+4E00 on, behind EA … ED Hangul (to U+D77F).
  const __m128i low = _mm_setr_epi8(-1, -1, -1, '\x81', '\xB8', '\x80', '\x80', '\x80', '\x80', '\x80', '\xB0', '\x80',
                                    '\x80', '\x80', -1, -1);
  const __m128i high = _mm_setr_epi8(0, 0, 0, '\x83', '\xBF', '\xBF', '\xBF', '\xBF', '\xBF', '\xBF', '\xBF', '\xBF',
                                     '\xBF', '\x9D', 0, 0);
  const __m256i seconds = between(second, by_half(low, first), by_half(high, first));
  const __m256i thirds = between(third, _mm256_set1_epi8('\x80'), _mm256_set1_epi8('\xBF'));
  // Of kana not U+3040, not U+3097 … 30A0, not U+30FB.
  const __m128i not_from = _mm_setr_epi8(-1, '\x80', '\x97', '\xBB', -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m128i not_to = _mm_setr_epi8(0, '\x80', '\xA0', '\xBB', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  const __m256i others = _mm256_and_si256(between(third, by_half(not_from, second), by_half(not_to, second)),
                                          _mm256_cmpeq_epi8(first, _mm256_set1_epi8('\xE3')));
  return _mm256_andnot_si256(others, _mm256_and_si256(begins, _mm256_and_si256(seconds, thirds)));
}

LongerMasks longer(const char* block, const CharacterTables& /*tables*/) {
  const uint64_t letters = bits(letters_of_three(block), letters_of_three(block + 32));
  return {.two = 0, .three = letters, .letters = letters};
}

// The numbers of a byte's set bits, in order.
struct PlacesOfBits {
  alignas(64) uint8_t of[256][8];
};
constexpr PlacesOfBits kPlacesOfBits = [] {
  PlacesOfBits places{};
  for (unsigned byte = 0; byte < 256; ++byte) {
    unsigned count = 0;
    for (uint8_t i = 0; i < 8; ++i) {
      if ((byte >> i & 1) != 0) places.of[byte][count++] = i;
    }
  }
  return places;
}();

// Eight for each byte of the bits, whether there are so many or not: how many is hard to predict.
RL_INLINED size_t places(uint64_t set, uint32_t first, uint32_t* to) {
  uint32_t* const begin = to;
  for (int i = 0; i < 8; ++i, set >>= 8, first += 8) {
    const __m128i row = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kPlacesOfBits.of[set & 0xFF]));
    const __m256i base = _mm256_set1_epi32(static_cast<int>(first));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_add_epi32(base, _mm256_cvtepu8_epi32(row)));
    to += _mm_popcnt_u32(static_cast<uint32_t>(set & 0xFF));
  }
  return static_cast<size_t>(to - begin);
}

template <bool any_case>
Contractions contractions(const char* block) {
  uint64_t two = 0, three = 0;
  for (int half = 0; half < 64; half += 32) {
    const auto load = [&](int from) {
      return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + half + from));
    };
    const auto is = [](__m256i bytes, char byte) { return _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(byte)); };
    const auto either = [](__m256i a, __m256i b) { return _mm256_or_si256(a, b); };
    const auto both = [](__m256i a, __m256i b) { return _mm256_and_si256(a, b); };
    const auto small = [](__m256i bytes) { return any_case ? _mm256_or_si256(bytes, _mm256_set1_epi8(0x20)) : bytes; };
    const __m256i first_byte = load(1), second_byte = load(2), first = small(first_byte), second = small(second_byte);
    const __m256i of_one = either(either(is(first, 's'), is(first, 't')), either(is(first, 'm'), is(first, 'd')));
    __m256i of_two =
        either(both(either(is(first, 'r'), is(first, 'v')), is(second, 'e')), both(is(first, 'l'), is(second, 'l')));
    if (any_case) of_two = either(of_two, both(is(first_byte, kLongS[0]), is(second_byte, kLongS[1])));
    two |= uint64_t{static_cast<uint32_t>(_mm256_movemask_epi8(of_one))} << half;
    three |= uint64_t{static_cast<uint32_t>(_mm256_movemask_epi8(of_two))} << half;
  }
  return {two, three};
}

struct Avx2 {
  static RL_INLINED AsciiMasks masks(const char* block) { return data::masks(block); }
  static RL_INLINED LongerMasks longer(const char* block, const CharacterTables& tables) {
    return data::longer(block, tables);
  }
  static RL_INLINED size_t places(uint64_t set, uint32_t first, uint32_t* to) { return data::places(set, first, to); }
  template <bool any_case>
  static Contractions contractions(const char* block) {
    return data::contractions<any_case>(block);
  }
};

template <typename Pieces>
uint32_t* begins(const char* text, size_t& place, size_t end, const CharacterTables& tables, BlockCarry& carry,
                 uint32_t* to, const uint32_t* room) {
  return begins_with<Avx2, Pieces>(text, place, end, tables, carry, to, room);
}

}  // namespace

constexpr BlockFunctions kAvx2Blocks{
    masks, longer, places, begins<Gpt2Pieces>, begins<Llama3Pieces<3>>, begins<Llama3Pieces<1>>};

}  // namespace ridgeline::data
