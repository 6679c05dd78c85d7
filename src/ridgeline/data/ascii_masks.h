// The characters of 64 bytes by kind, one bit per byte: what the scanner of pieces computes with.
// Internal to the room.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ridgeline/device/cpu/features.h"

namespace ridgeline::data {

// Bit i speaks of byte i.
struct AsciiMasks {
  uint64_t letters, digits;
  uint64_t spaces;       // white space: 9 … D and 20
  uint64_t blanks;       // 20 alone
  uint64_t line_ends;    // A and D
  uint64_t apostrophes;  // 27
  uint64_t high;         // 80 and above: part of a longer character
};

// First bytes of valid characters of two and three bytes that are letters or of class other. An instruction set sorts
// those for which it has a quick way, perhaps none: who asks looks at the rest one by one.
struct LongerMasks {
  uint64_t two, three;
  uint64_t letters;  // those of them that are letters
};

// What is letters, and what is `other`, among the characters of two and three bytes: a bit for each character, in rows
// of eight, or for all 64 that differ in their last byte only. All 0: neither, or not all alike. (The scanner's tables
// in the registers of an instruction set.)
struct alignas(64) CharacterTables {
  struct Bits {
    uint8_t two[256];      // U+0000 … U+07FF, by code / 8
    uint8_t groups[128];   // by code / 512: a bit for 64 characters
    uint8_t mixed[4][32];  // of the blocks kMixed, by code / 8 % 32
  };
  // Blocks of 256 characters in which kinds mix and which are frequent, by code / 256: punctuation of all scripts,
  // that of Chinese and Japanese with kana, full width forms; Devanagari.
  static constexpr uint8_t kMixed[4] = {0x20, 0x30, 0xFF, 0x09};

  Bits letters, others;
};
const CharacterTables& character_tables();

// What one block must know of those before it, by any expression. One bit each in bit 0, but where bits are named.
struct BlockCarry {
  // The class of the byte before the block.
  uint64_t letter = 0, number = 0, space = 0, other = 0, blank = 0;
  // Of a character that begins before the block, the bytes in it: all, and if it is of that class.
  struct Begun {
    uint64_t inside = 0, letters = 0, numbers = 0, spaces = 0;
  };
  Begun begun;
  // Bits that a contraction at the end of the block before decides.
  uint64_t no_begins = 0, begins = 0;

  // Of Llama 3's expression and its kin, of the byte before the block: it is a line's end in a piece of white space; a
  // piece goes on behind it in a letter, in a character of class other, in a line's end; it is of a character of class
  // other that begins a piece. `space` is of pieces of white space, without line ends that a piece of others has.
  uint64_t line_end = 0, before_letter = 0, before_other = 0, before_line_end = 0, first_other = 0;
  uint64_t numbers_before = 0;  // bits 0 and 1: the last two bytes are of numbers
  uint64_t next_number = 0;  // bits 0 … 2: the number of one byte that begins a piece, if all up to there are numbers
  // White space behind a line's end reaches the block; whether a piece begins with it, at open_place, depends on what
  // comes behind it.
  uint64_t open = 0;
  size_t open_place = 0;
};

// What the scanner does with whole blocks of 64 bytes, for an instruction set.
struct BlockFunctions {
  static constexpr size_t kBytes = 64;
  static constexpr size_t kReads = 66;              // bytes of a block and behind it that may be read
  static constexpr size_t kMostPlaces = 65;         // where pieces begin: in a block, and one that was open
  static constexpr size_t kMorePlaces = 31;         // that may be written behind those that count
  static constexpr size_t kMostBytes = UINT32_MAX;  // of a text, whose places take 32 bits

  AsciiMasks (*masks)(const char* block);
  // Of the characters that begin in the block and end within kReads.
  LongerMasks (*longer)(const char* block, const CharacterTables& tables);
  // Writes first + i for every bit i that is set, in order, and up to kMorePlaces values more; returns how many count.
  size_t (*places)(uint64_t bits, uint32_t first, uint32_t* to);
  // Writes the places where pieces begin in the blocks from text + place on, as long as kReads bytes from there lie
  // before `end`, there is room for the places of a block before `room`, and the block holds nothing that must be
  // looked at one by one; moves `place` behind them. Returns the end of what it has written. Null: there is no such
  // quick way. `end` is at most kMostBytes.
  using Begins = uint32_t*(const char* text, size_t& place, size_t end, const CharacterTables& tables,
                           BlockCarry& carry, uint32_t* to, const uint32_t* room);
  Begins* gpt2;
  Begins* llama3;
  Begins* qwen2;
};

extern const BlockFunctions kPortableBlocks;
#if defined(__x86_64__)
extern const BlockFunctions kAvx2Blocks, kAvx512Blocks;
#endif

// Those for `isa`, at most device::isa().
const BlockFunctions& block_functions(device::Isa isa);

}  // namespace ridgeline::data
