#include "ridgeline/data/ascii_masks.h"

#include <array>
#include <bit>
#include <iterator>

#include "ridgeline/data/unicode.h"

namespace ridgeline::data {

namespace {

AsciiMasks masks_by_table(const char* block) {
  enum : uint8_t { letter = 1, digit = 2, space = 4, blank = 8, apostrophe = 16, high = 32, line_end = 64 };
  static constexpr auto kKinds = [] {
    std::array<uint8_t, 256> kinds{};
    for (unsigned i = 0; i < 26; ++i) kinds['a' + i] = kinds['A' + i] = letter;
    for (unsigned i = 0; i < 10; ++i) kinds['0' + i] = digit;
    for (const unsigned c : {'\t', '\n', '\v', '\f', '\r'}) kinds[c] = space;
    kinds[' '] = space | blank;
    kinds['\n'] = kinds['\r'] = space | line_end;
    kinds['\''] = apostrophe;
    for (unsigned i = 0x80; i < 0x100; ++i) kinds[i] = high;
    return kinds;
  }();
  AsciiMasks masks{};
  for (unsigned i = 0; i < 64; ++i) {
    const uint64_t kinds = kKinds[static_cast<uint8_t>(block[i])];
    masks.letters |= (kinds & 1) << i;
    masks.digits |= (kinds >> 1 & 1) << i;
    masks.spaces |= (kinds >> 2 & 1) << i;
    masks.blanks |= (kinds >> 3 & 1) << i;
    masks.apostrophes |= (kinds >> 4 & 1) << i;
    masks.high |= (kinds >> 5 & 1) << i;
    masks.line_ends |= (kinds >> 6 & 1) << i;
  }
  return masks;
}

size_t places_one_by_one(uint64_t bits, uint32_t first, uint32_t* to) {
  size_t count = 0;
  for (; bits != 0; bits &= bits - 1) to[count++] = first + static_cast<uint32_t>(std::countr_zero(bits));
  return count;
}

LongerMasks no_longer_masks(const char* /*block*/, const CharacterTables& /*tables*/) {
  return {0, 0, 0};
}

CharacterTables::Bits bits_of(CharClass kind) {
  CharacterTables::Bits bits{};
  const auto row = [&](uint32_t code) {
    unsigned ones = 0;
    for (uint32_t i = 0; i < 8; ++i) ones |= (class_of(code + i) == kind ? 1U : 0U) << i;
    return static_cast<uint8_t>(ones);
  };
  // Not what takes fewer bytes.
  for (uint32_t code = 0x80; code < 0x800; code += 8) bits.two[code / 8] = row(code);
  for (uint32_t code = 0x800; code < 0x10000; code += 64) {
    bool all = code >> 11 != 0xD800 >> 11;  // surrogates are no characters
    for (uint32_t i = 0; i < 64; i += 8) all = all && row(code + i) == 0xFF;
    bits.groups[code / 512] |= static_cast<uint8_t>((all ? 1U : 0U) << (code / 64 % 8));
  }
  for (size_t block = 0; block < std::size(CharacterTables::kMixed); ++block) {
    for (uint32_t i = 0; i < 32; ++i) bits.mixed[block][i] = row(CharacterTables::kMixed[block] * 256U + i * 8);
  }
  return bits;
}

}  // namespace

const CharacterTables& character_tables() {
  static const CharacterTables tables{bits_of(CharClass::letter), bits_of(CharClass::other)};
  return tables;
}

constexpr BlockFunctions kPortableBlocks{masks_by_table, no_longer_masks, places_one_by_one, nullptr, nullptr, nullptr};

const BlockFunctions& block_functions(device::Isa isa) {
#if defined(__x86_64__)
  // Processors with AVX2 have the others; what an emulator pretends may not.
  static const bool others = __builtin_cpu_supports("bmi") != 0 && __builtin_cpu_supports("popcnt") != 0;
  static const bool of_bytes = __builtin_cpu_supports("avx512vbmi") != 0 && __builtin_cpu_supports("avx512vbmi2") != 0;
  if (isa >= device::Isa::avx512 && others && of_bytes) return kAvx512Blocks;
  if (isa >= device::Isa::avx2 && others) return kAvx2Blocks;
#endif
  return kPortableBlocks;
}

}  // namespace ridgeline::data
