// Where the pieces of an expression begin in a block of 64 bytes, computed with masks: for files of several instruction
// sets. Internal to the room.
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
RL_INLINED Longer longer_of(const LongerMasks& sorted, BlockCarry::Begun& begun) {
  const uint64_t first = sorted.two | sorted.three, letters_of_three = sorted.letters & sorted.three;
  const Longer longer{.letters = begun.letters | sorted.letters | sorted.letters << 1 | letters_of_three << 2,
                      .numbers = begun.numbers,
                      .spaces = begun.spaces,
                      .inside = begun.inside | first << 1 | sorted.three << 2};
  begun.inside = first >> 63 | sorted.three >> 62;
  begun.letters = sorted.letters >> 63 | letters_of_three >> 62;
  begun.numbers = begun.spaces = 0;
  return longer;
}

// The classes of a block's characters: all of their bytes.
struct Kinds {
  uint64_t letters, numbers, spaces, others;
  uint64_t last_spaces;  // first bytes of white space with something else behind it
};

// space_behind: a character of white space begins behind the block.
RL_INLINED Kinds kinds_of(const AsciiMasks& ascii, const Longer& longer, bool space_behind) {
  const uint64_t letters = ascii.letters | longer.letters, numbers = ascii.digits | longer.numbers,
                 spaces = ascii.spaces | longer.spaces;
  return {letters, numbers, spaces, ~(letters | numbers | spaces),
          (ascii.spaces & ~(spaces >> 1 | uint64_t{space_behind} << 63)) | longer.last_spaces};
}

// An expression is what turns masks into begins: its begins() are the bits of the bytes at which pieces begin,
// contractions apart, in the block at `place` of the text. To `to`, which it moves on, it writes the place in an
// earlier block that was open until now, if a piece begins there.

struct Gpt2Pieces {
  static constexpr bool kAnyCase = false;  // of contractions

  static RL_INLINED uint64_t begins(const AsciiMasks& ascii, const Longer& longer, bool space_behind, size_t /*place*/,
                                    BlockCarry& carry, uint32_t*& /*to*/) {
    const Kinds of = kinds_of(ascii, longer, space_behind);
    const uint64_t same = (of.letters & (of.letters << 1 | carry.letter)) |
                          (of.numbers & (of.numbers << 1 | carry.number)) |
                          (of.others & (of.others << 1 | carry.other));
    const uint64_t words = ~of.spaces & ~same & ~(ascii.blanks << 1 | carry.blank);
    // Of white space with something behind it the last character is a piece of its own, or a blank of the next one.
    const uint64_t gaps = of.spaces & (~(of.spaces << 1 | carry.space) | of.last_spaces);
    carry.letter = of.letters >> 63;
    carry.number = of.numbers >> 63;
    carry.space = of.spaces >> 63;
    carry.other = of.others >> 63;
    carry.blank = ascii.blanks >> 63;
    return words | gaps;
  }
};

// kMostDigits: of a piece of numbers, 3 (Llama 3) or 1 (Qwen 2).
//
// A sum goes on through the ones of a run: runs + firsts has zeros where a run begins at one of `firsts`, and ones
// right behind these runs.
template <int kMostDigits>
struct Llama3Pieces {
  static constexpr bool kAnyCase = true;

  static RL_INLINED uint64_t begins(const AsciiMasks& ascii, const Longer& longer, bool space_behind, size_t place,
                                    BlockCarry& carry, uint32_t*& to) {
    const Kinds of = kinds_of(ascii, longer, space_behind);
    const uint64_t ends = ascii.line_ends, inside = longer.inside;
    // A piece of others may have a blank before it, and has all line ends behind it.
    const uint64_t others = of.others & ~((of.others | ascii.blanks) << 1 | carry.before_other);
    const uint64_t taken = ends & ~(ends + (ends & (of.others << 1 | carry.before_line_end)));
    // Other white space is a piece up to its last line end, then all but its last character, then that.
    const uint64_t spaces = of.spaces & ~taken, gaps = of.spaces & ~ends, last = of.last_spaces & ~ends;
    const uint64_t spaces_begin =
        (spaces & ~(spaces << 1 | carry.space)) | last | behind_line_ends(gaps, ends, taken, last, place, carry, to);
    // Letters may have before them the last of white space, or one of class other with which a piece begins.
    const uint64_t first_others = others | (inside & ~(inside + (inside & (others << 1 | carry.first_other))));
    const uint64_t before_letters = of.letters | gaps | first_others;
    const uint64_t words = of.letters & ~(before_letters << 1 | carry.before_letter);
    const uint64_t all = words | others | spaces_begin | numbers_begin(of.numbers, longer, carry);
    carry.space = spaces >> 63;
    carry.line_end = (ends & ~taken) >> 63;
    carry.before_letter = before_letters >> 63;
    carry.before_other = (of.others | ascii.blanks) >> 63;
    carry.before_line_end = (of.others | taken) >> 63;
    carry.first_other = first_others >> 63;
    return all;
  }

 private:
  // The first bytes of `gaps` (white space but line ends) behind a line end, unless they lead to another one. (Behind
  // one that is taken the white space begins.)
  static RL_INLINED uint64_t behind_line_ends(uint64_t gaps, uint64_t ends, uint64_t taken, uint64_t last, size_t place,
                                              BlockCarry& carry, uint32_t*& to) {
    uint64_t firsts = gaps & ((ends & ~taken) << 1 | carry.line_end);
    const uint64_t sum = gaps + (firsts | carry.open);
    const bool reaches_end = sum < gaps;  // one of them, or the open one, goes on behind the block
    const bool closed_there = last > ~gaps;
    if (carry.open != 0) {
      const uint64_t behind = ~gaps & (gaps + 1);
      *to = static_cast<uint32_t>(carry.open_place);
      to += behind != 0 ? (behind & ends) == 0 : closed_there;
    }
    // Lines of white space alone are rare.
    if ((sum & ~gaps & ends) != 0) [[unlikely]] {
      for (uint64_t todo = firsts; todo != 0; todo &= todo - 1) {
        const uint64_t first = todo & -todo;
        if (((gaps + first) & ~gaps & ends) != 0) firsts ^= first;
      }
    }
    carry.open = reaches_end && !closed_there ? 1 : 0;
    // The last of them is the one that reaches the end; none, where all of the block is a run that began before it.
    if (carry.open != 0 && firsts != 0) {
      const int open = 63 - __builtin_clzll(firsts);
      firsts ^= uint64_t{1} << open;
      carry.open_place = place + static_cast<size_t>(open);
    }
    return firsts;
  }

  // The first bytes of each character, or of every third in a row.
  static RL_INLINED uint64_t numbers_begin(uint64_t numbers, const Longer& longer, BlockCarry& carry) {
    if constexpr (kMostDigits == 1) return numbers & ~longer.inside;
    const uint64_t before = numbers << 1 | carry.numbers_before >> 1;
    uint64_t begins = numbers & ~before;
    if (longer.numbers == 0) [[likely]] {
      const uint64_t go_on = numbers & before & (numbers << 2 | carry.numbers_before);
      for (uint64_t next = (begins << 3 | carry.next_number) & go_on; next != 0; next = next << 3 & go_on)
        begins |= next;
      carry.next_number = begins >> 61;
    } else {
      uint64_t left = carry.next_number >> 1;  // numbers that the piece may still have
      for (uint64_t todo = numbers & ~longer.inside; todo != 0; todo &= todo - 1) {
        const uint64_t first = todo & -todo;
        if ((first & before) == 0 || left == 0) {
          begins |= first;
          left = kMostDigits;
        }
        --left;
      }
      carry.next_number = numbers >> 63 << left;
    }
    carry.numbers_before = numbers >> 62;
    return begins;
  }
};

// Pieces::begins() with what the block before decided.
template <typename Pieces>
RL_INLINED uint64_t begins_of(const AsciiMasks& ascii, const Longer& longer, bool space_behind, size_t place,
                              BlockCarry& carry, uint32_t*& to) {
  const uint64_t begins = Pieces::begins(ascii, longer, space_behind, place, carry, to);
  const uint64_t all = (begins & ~longer.inside & ~carry.no_begins) | carry.begins;
  carry.no_begins = carry.begins = 0;
  return all;
}

// Contractions, by their apostrophes: how many bytes they have.
struct Contractions {
  uint64_t two, three;
};

// In any case, also an s.
inline constexpr char kLongS[] = "\xC5\xBF";

// Where one begins a piece another begins behind it, and none at its letters.
RL_INLINED uint64_t with_contractions(uint64_t begins, const Contractions& found, BlockCarry& carry) {
  const uint64_t two = found.two & begins, three = found.three & begins;
  carry.no_begins = (two | three) >> 63;
  carry.begins = two >> 62 | three >> 61;
  return (begins & ~((two | three) << 1)) | two << 2 | three << 3;
}

// BlockFunctions::begins with the vectors of an instruction set: V::masks, V::longer, V::places and
// V::contractions<any_case>(block), the bytes behind which are those of one.
template <typename V, typename Pieces>
RL_INLINED uint32_t* begins_with(const char* text, size_t& place, size_t end, const CharacterTables& tables,
                                 BlockCarry& carry, uint32_t* to, const uint32_t* room) {
  BlockCarry now = carry;
  size_t at = place;
  for (; at + BlockFunctions::kReads < end && to + BlockFunctions::kMostPlaces <= room; at += BlockFunctions::kBytes) {
    const char* const block = text + at;
    const AsciiMasks ascii = V::masks(block);
    // What begins behind a block that ends in white space must be ASCII to be known here.
    const auto behind = static_cast<unsigned char>(block[BlockFunctions::kBytes]);
    if ((ascii.spaces >> 63) != 0 && behind >= 0x80) break;
    Longer longer;
    if ((ascii.high | now.begun.inside) != 0) {
      const LongerMasks sorted = V::longer(block, tables);
      BlockCarry::Begun begun = now.begun;
      longer = longer_of(sorted, begun);
      if ((ascii.high & ~(longer.inside | sorted.two | sorted.three)) != 0) break;
      now.begun = begun;
    }
    // Not earlier, where a byte on the stack would wait to be read as a word.
    const bool space_behind = behind == ' ' || (behind >= '\t' && behind <= '\r');
    uint64_t begins = begins_of<Pieces>(ascii, longer, space_behind, at, now, to);
    if ((begins & ascii.apostrophes) != 0) {
      Contractions found = V::template contractions<Pieces::kAnyCase>(block);
      found.two &= ascii.apostrophes;
      found.three &= ascii.apostrophes;
      begins = with_contractions(begins, found, now);
    }
    // No piece ends where the text begins.
    if (at == 0) begins &= ~uint64_t{1};
    to += V::places(begins, static_cast<uint32_t>(at), to);
  }
  carry = now;
  place = at;
  return to;
}

}  // namespace ridgeline::data
