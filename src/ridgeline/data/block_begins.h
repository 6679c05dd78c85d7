// Where pieces of GPT-2's expression begin in a block of 64 bytes, computed with masks: for files of several
// instruction sets. Internal to the room.
#pragma once

#include "ridgeline/data/ascii_masks.h"
#include "ridgeline/data/inlined.h"

namespace ridgeline::data {

// Characters of more than one byte in a block.
struct Longer {
  uint64_t letters = 0, numbers = 0, spaces = 0;  // all of their bytes
  uint64_t inside = 0;                            // all but the first
  uint64_t last_spaces = 0;                       // first bytes of white space with something else behind it
};

// Those that begin in the block before, and those that `sorted` knows; what is left of these goes to the next block.
RL_INLINED Longer longer_of(const LongerMasks& sorted, BlockCarry& carry) {
  const uint64_t first = sorted.two | sorted.three, letters_of_three = sorted.letters & sorted.three;
  const Longer longer{.letters = carry.letters | sorted.letters | sorted.letters << 1 | letters_of_three << 2,
                      .numbers = carry.numbers,
                      .spaces = carry.spaces,
                      .inside = carry.inside | first << 1 | sorted.three << 2};
  carry.inside = first >> 63 | sorted.three >> 62;
  carry.letters = sorted.letters >> 63 | letters_of_three >> 62;
  carry.numbers = carry.spaces = 0;
  return longer;
}

// Bits of the bytes at which pieces begin, contractions apart. space_behind: a character of white space begins behind
// the block.
RL_INLINED uint64_t begins_of(const AsciiMasks& ascii, const Longer& longer, bool space_behind, BlockCarry& carry) {
  const uint64_t letters = ascii.letters | longer.letters, numbers = ascii.digits | longer.numbers,
                 spaces = ascii.spaces | longer.spaces, others = ~(letters | numbers | spaces);
  // Of white space with something else behind it the last character is a piece of its own, or a blank of the next one.
  const uint64_t last_spaces = (ascii.spaces & ~(spaces >> 1 | uint64_t{space_behind} << 63)) | longer.last_spaces;
  const uint64_t same = (letters & (letters << 1 | carry.letter)) | (numbers & (numbers << 1 | carry.number)) |
                        (others & (others << 1 | carry.other));
  const uint64_t words = ~spaces & ~same & ~(ascii.blanks << 1 | carry.blank);
  const uint64_t gaps = spaces & (~(spaces << 1 | carry.space) | last_spaces);
  carry.letter = letters >> 63;
  carry.number = numbers >> 63;
  carry.space = spaces >> 63;
  carry.other = others >> 63;
  carry.blank = ascii.blanks >> 63;
  const uint64_t begins = ((words | gaps) & ~longer.inside & ~carry.no_begins) | carry.begins;
  carry.no_begins = carry.begins = 0;
  return begins;
}

// Contractions, by their apostrophes: how many bytes they have.
struct Contractions {
  uint64_t two, three;
};

// Where one begins a piece another begins behind it, and none at its letters.
RL_INLINED uint64_t with_contractions(uint64_t begins, const Contractions& found, BlockCarry& carry) {
  const uint64_t two = found.two & begins, three = found.three & begins;
  carry.no_begins = (two | three) >> 63;
  carry.begins = two >> 62 | three >> 61;
  return (begins & ~((two | three) << 1)) | two << 2 | three << 3;
}

// BlockFunctions::begins with the vectors of an instruction set: V::masks, V::longer, V::places and
// V::contractions(block), the bytes behind which are those of one.
template <typename V>
RL_INLINED size_t* begins_with(const char* text, size_t& place, size_t end, const CharacterTables& tables,
                               BlockCarry& carry, size_t* to, const size_t* room) {
  BlockCarry now = carry;
  size_t at = place;
  for (; at + BlockFunctions::kReads < end && to + BlockFunctions::kBytes <= room; at += BlockFunctions::kBytes) {
    const char* const block = text + at;
    const AsciiMasks ascii = V::masks(block);
    // What begins behind a block that ends in white space must be ASCII to be known here.
    const auto behind = static_cast<unsigned char>(block[BlockFunctions::kBytes]);
    if ((ascii.spaces >> 63) != 0 && behind >= 0x80) break;
    const bool space_behind = behind == ' ' || (behind >= '\t' && behind <= '\r');
    Longer longer;
    if ((ascii.high | now.inside) != 0) {
      const LongerMasks sorted = V::longer(block, tables);
      BlockCarry next = now;
      longer = longer_of(sorted, next);
      if ((ascii.high & ~(longer.inside | sorted.two | sorted.three)) != 0) break;
      now = next;
    }
    uint64_t begins = begins_of(ascii, longer, space_behind, now);
    if ((begins & ascii.apostrophes) != 0) {
      Contractions found = V::contractions(block);
      found.two &= ascii.apostrophes;
      found.three &= ascii.apostrophes;
      begins = with_contractions(begins, found, now);
    }
    // No piece ends where the text begins.
    if (at == 0) begins &= ~uint64_t{1};
    to += V::places(begins, at, to);
  }
  carry = now;
  place = at;
  return to;
}

}  // namespace ridgeline::data
