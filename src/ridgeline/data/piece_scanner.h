// Where the pieces of a text end, many at a time: the fast form of next_piece(), with the same result on every byte
// string. Internal to the room.
//
// Pieces are found 64 bytes at once. Every byte has the class of its character, so a class is a mask of bits, and a
// piece begins where the masks say so: shifted by one they tell of each byte's neighbour. What one block must know of
// those before it is a few bits. block_begins.h says it for each expression.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "ridgeline/base/error.h"
#include "ridgeline/data/block_begins.h"
#include "ridgeline/data/pretokenize.h"
#include "ridgeline/data/unicode.h"

namespace ridgeline::data {

class PieceScanner {
 public:
  static constexpr size_t kMost = 256;                                         // ends that one call gives
  using Ends = std::array<uint32_t, kMost + BlockFunctions::kMorePlaces + 1>;  // more may be written

  // `text` is as for next_piece(). `isa` at most device::isa(). `longest`: bytes of a piece, at least 128.
  PieceScanner(PreTokenizer kind, std::string_view text, device::Isa isa = device::isa(), size_t longest = kLongest)
      : text_(text), longest_(longest), kind_(kind), blocks_(block_functions(isa)) {
    RL_CHECK(longest, >=, 2 * BlockFunctions::kBytes);
    RL_CHECK(longest, <=, kLongest);
  }

  // The ends of the next pieces, in bytes from the end of the last that was given before, from the begin of the text at
  // first; returns how many, 0 behind the last. Error: a piece is too long.
  size_t next(Ends& ends);

 private:
  size_t next_of_kind(Ends& ends);
  Error too_long() const;
  template <typename Pieces>
  size_t next_by_blocks(BlockFunctions::Begins* begins, Ends& ends);
  template <typename Pieces>
  uint64_t begins_in_block(size_t block, uint32_t*& to);
  Longer longer_characters(size_t block, const char* bytes, uint64_t high);
  void add_one_by_one(size_t block, uint64_t todo, Longer& longer);
  uint64_t with_contractions_in(size_t block, uint64_t begins, uint64_t apostrophes);
  bool space_at(size_t place) const;

  static constexpr size_t kLongest = BlockFunctions::kMostBytes - BlockFunctions::kBytes;

  std::string_view text_;  // what pieces were not given of
  size_t longest_;
  PreTokenizer kind_;
  const BlockFunctions& blocks_;
  const CharacterTables& tables_ = character_tables();
  size_t given_ = 0;  // bytes of the pieces that were given last
  size_t done_ = 0;   // bytes looked at
  BlockCarry carry_;
};

}  // namespace ridgeline::data
