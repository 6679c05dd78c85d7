// The ASCII characters of 64 bytes by kind, one bit per byte: what the scanner of GPT-2's pieces computes with.
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
  uint64_t apostrophes;  // 27
  uint64_t high;         // 80 and above: part of a longer character
};

// What the scanner does with whole blocks, for an instruction set.
struct BlockFunctions {
  AsciiMasks (*masks)(const char* block);  // of 64 bytes
  // Writes first + i for every bit i that is set, in order, and up to 7 values more; returns how many count.
  size_t (*places)(uint64_t bits, size_t first, size_t* to);
};

extern const BlockFunctions kPortableBlocks;
#if defined(__x86_64__)
extern const BlockFunctions kAvx2Blocks;
#endif

// Those for `isa`, at most device::isa().
const BlockFunctions& block_functions(device::Isa isa);

}  // namespace ridgeline::data
