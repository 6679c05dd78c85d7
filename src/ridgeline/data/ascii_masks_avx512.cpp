// Compiled for AVX-512 with VBMI and VBMI2, BMI and POPCNT, and called only where the processor has them: nothing here
// may be inlined elsewhere, so this file includes nothing with functions of other files.
#include <immintrin.h>

#include "ridgeline/data/block_begins.h"

namespace ridgeline::data {
namespace {

inline __m512i load_64(const void* from) {
  return _mm512_loadu_si512(from);
}

inline __m512i everywhere(uint8_t byte) {
  return _mm512_set1_epi8(static_cast<char>(byte));
}

// Bits where first <= byte <= first + range.
inline uint64_t within(__m512i bytes, char first, uint8_t range) {
  return _mm512_cmple_epu8_mask(_mm512_sub_epi8(bytes, _mm512_set1_epi8(first)), everywhere(range));
}

RL_INLINED AsciiMasks masks_512(const char* block) {
  const __m512i bytes = load_64(block);
  const uint64_t blanks = _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(' '));
  return {.letters = within(_mm512_or_si512(bytes, everywhere(0x20)), 'a', 25),
          .digits = within(bytes, '0', 9),
          .spaces = within(bytes, '\t', 4) | blanks,
          .blanks = blanks,
          .line_ends = _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8('\n')) |
                       _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8('\r')),
          .apostrophes = _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8('\'')),
          .high = _mm512_movepi8_mask(bytes)};
}

// `a` in the bits of `which`, `b` in the others.
inline __m512i select(uint8_t which, __m512i a, __m512i b) {
  return _mm512_ternarylogic_epi64(everywhere(which), a, b, 0xCA);
}

// Where characters stand in the tables.
struct Rows {
  __m512i group_or_two;  // the row of `groups`, and in `two`
  __mmask64 upper_two;   // in its second half
  __m512i mixed;         // the row in `mixed`
  __mmask64 is_two, is_mixed;
};

// The row's bits of every character.
inline __m512i look_up(const CharacterTables::Bits& bits, const Rows& rows) {
  const auto row_of_128 = [](const uint8_t* table, __m512i row) {
    return _mm512_permutex2var_epi8(load_64(table), row, load_64(table + 64));
  };
  const __m512i groups = row_of_128(bits.groups, rows.group_or_two), mixed = row_of_128(bits.mixed[0], rows.mixed);
  const __m512i two = _mm512_mask_blend_epi8(rows.upper_two, row_of_128(bits.two, rows.group_or_two),
                                             row_of_128(bits.two + 128, rows.group_or_two));
  return _mm512_mask_blend_epi8(rows.is_two, _mm512_mask_blend_epi8(rows.is_mixed, groups, mixed), two);
}

inline LongerMasks longer_512(const char* block, const CharacterTables& tables) {
  const __m512i first = load_64(block), second = load_64(block + 1), third = load_64(block + 2);
  // 80 … BF are the lowest of the negative numbers.
  const __mmask64 goes_on = _mm512_cmplt_epi8_mask(second, everywhere(0xC0));
  const __mmask64 two =
      _mm512_mask_cmpeq_epi8_mask(goes_on, _mm512_and_si512(first, everywhere(0xE0)), everywhere(0xC0));
  const __mmask64 three = _mm512_mask_cmpeq_epi8_mask(goes_on & _mm512_cmplt_epi8_mask(third, everywhere(0xC0)),
                                                      _mm512_and_si512(first, everywhere(0xF0)), everywhere(0xE0));
  // Shifts of 16 bits: what comes from the neighbour is not selected.
  const __m512i group = select(0xF8, _mm512_slli_epi16(first, 3), _mm512_srli_epi16(second, 3));
  const __m512i block_of_256 = select(0xF0, _mm512_slli_epi16(first, 4), _mm512_srli_epi16(second, 2));
  const __m512i row_of_256 =
      _mm512_and_si512(select(0x18, _mm512_slli_epi16(second, 3), _mm512_srli_epi16(third, 3)), everywhere(0x1F));
  Rows rows{.group_or_two = group,
            .upper_two = _mm512_movepi8_mask(group),
            .mixed = row_of_256,
            .is_two = two,
            .is_mixed = 0};
  for (unsigned i = 0; i < 4; ++i) {
    const __mmask64 here = _mm512_cmpeq_epi8_mask(block_of_256, everywhere(CharacterTables::kMixed[i]));
    rows.mixed = _mm512_mask_add_epi8(rows.mixed, here, rows.mixed, everywhere(static_cast<uint8_t>(32 * i)));
    rows.is_mixed |= here & three;
  }
  const __m512i which = _mm512_mask_blend_epi8(rows.is_mixed, second, third);
  const __m512i bit = _mm512_shuffle_epi8(_mm512_set1_epi64(static_cast<int64_t>(0x8040201008040201)),
                                          _mm512_and_si512(which, everywhere(7)));
  const uint64_t letters = _mm512_mask_test_epi8_mask(two | three, look_up(tables.letters, rows), bit);
  const uint64_t others = _mm512_mask_test_epi8_mask(two | three, look_up(tables.others, rows), bit);
  return {.two = two & (letters | others), .three = three & (letters | others), .letters = letters};
}

// The first 32, whether there are so many or not: how many is hard to predict.
RL_INLINED size_t places_512(uint64_t set, uint32_t first, uint32_t* to) {
  const auto count = static_cast<size_t>(_mm_popcnt_u64(set));
  const __m512i numbers =
      _mm512_set_epi8(63, 62, 61, 60, 59, 58, 57, 56, 55, 54, 53, 52, 51, 50, 49, 48, 47, 46, 45, 44, 43, 42, 41, 40,
                      39, 38, 37, 36, 35, 34, 33, 32, 31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16,
                      15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i places = _mm512_maskz_compress_epi8(set, numbers), base = _mm512_set1_epi32(static_cast<int>(first));
  const auto write = [&](size_t at, __m128i sixteen) {
    _mm512_storeu_si512(to + at, _mm512_add_epi32(base, _mm512_cvtepu8_epi32(sixteen)));
  };
  write(0, _mm512_castsi512_si128(places));
  write(16, _mm512_extracti32x4_epi32(places, 1));
  if (count > 32) [[unlikely]] {
    write(32, _mm512_extracti32x4_epi32(places, 2));
    write(48, _mm512_extracti32x4_epi32(places, 3));
  }
  return count;
}

template <bool any_case>
Contractions contractions_512(const char* block) {
  const auto is = [](__m512i bytes, char byte) -> uint64_t {
    return _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(byte));
  };
  const auto small = [](__m512i bytes) { return any_case ? _mm512_or_si512(bytes, everywhere(0x20)) : bytes; };
  const __m512i first_byte = load_64(block + 1), second_byte = load_64(block + 2);
  const __m512i first = small(first_byte), second = small(second_byte);
  const uint64_t long_s = any_case ? is(first_byte, kLongS[0]) & is(second_byte, kLongS[1]) : 0;
  return {.two = is(first, 's') | is(first, 't') | is(first, 'm') | is(first, 'd'),
          .three = ((is(first, 'r') | is(first, 'v')) & is(second, 'e')) | (is(first, 'l') & is(second, 'l')) | long_s};
}

struct Avx512 {
  static RL_INLINED AsciiMasks masks(const char* block) { return masks_512(block); }
  static RL_INLINED LongerMasks longer(const char* block, const CharacterTables& tables) {
    return longer_512(block, tables);
  }
  static RL_INLINED size_t places(uint64_t set, uint32_t first, uint32_t* to) { return places_512(set, first, to); }
  template <bool any_case>
  static Contractions contractions(const char* block) {
    return contractions_512<any_case>(block);
  }
};

template <typename Pieces>
uint32_t* begins_512(const char* text, size_t& place, size_t end, const CharacterTables& tables, BlockCarry& carry,
                     uint32_t* to, const uint32_t* room) {
  return begins_with<Avx512, Pieces>(text, place, end, tables, carry, to, room);
}

}  // namespace

constexpr BlockFunctions kAvx512Blocks{masks_512,
                                       longer_512,
                                       places_512,
                                       begins_512<Gpt2Pieces>,
                                       begins_512<Llama3Pieces<3>>,
                                       begins_512<Llama3Pieces<1>>};

}  // namespace ridgeline::data
