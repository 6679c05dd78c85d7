// The keys of short pieces, and many of them looked up in a PieceCache at once: what depends on the instruction set.
// Internal to the room.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "ridgeline/data/inlined.h"
#include "ridgeline/device/cpu/features.h"

namespace ridgeline::data {

inline constexpr size_t kLongestPieceKey = 15;  // bytes of a piece that is its own key

// The bytes of a piece, zeros behind them, and the length in bits 56 … 59 of `high`: 0 in no piece's key.
struct PieceKey {
  uint64_t low = 0, high = 0;
};

inline constexpr uint64_t kNoPieceKey = 1;  // `high` of no piece's key, and of no free slot

// By length: which bits of 16 bytes are the piece's, and what says the length.
struct KeyMasks {
  uint64_t low[kLongestPieceKey + 1], high[kLongestPieceKey + 1], length[kLongestPieceKey + 1];
};
inline constexpr KeyMasks kKeyMasks = [] {
  constexpr auto lowest = [](size_t bytes) { return bytes < 8 ? (uint64_t{1} << (8 * bytes)) - 1 : ~uint64_t{0}; };
  KeyMasks masks{};
  for (size_t length = 0; length <= kLongestPieceKey; ++length) {
    masks.low[length] = lowest(length);
    masks.high[length] = lowest(length < 8 ? 0 : length - 8);
    masks.length[length] = uint64_t{length} << 56;
  }
  return masks;
}();

// Of a piece that begins `bytes`, of which 16 may be read.
RL_INLINED PieceKey key_of_bytes(const char* bytes, size_t length) {
  uint64_t low = 0, high = 0;
  std::memcpy(&low, bytes, 8);
  std::memcpy(&high, bytes + 8, 8);
  if constexpr (std::endian::native == std::endian::big) {
    low = __builtin_bswap64(low);
    high = __builtin_bswap64(high);
  }
  return {low & kKeyMasks.low[length], (high & kKeyMasks.high[length]) | kKeyMasks.length[length]};
}

// The length comes to lie above the bytes of a piece of up to seven, and each byte behind the eighth across two others.
RL_INLINED uint64_t hash_of_key(PieceKey key) {
  return (key.low ^ (key.high << 4 | key.high >> 60)) * 0xD6E8FEB86659FD93U;
}

// A cache's table of short pieces: pairs of slots, each pair a line of the processor's cache. A slot: a key with the
// number of ids in the last four bits of `high` (all 0: free), then 16 bytes with the ids (8 uint16_t or 4 int32_t) or,
// where they do not fit, their place in the store as 32 bits, then 32 bits with their number if that may be more than
// the four bits say. Of a pair the second is taken after the first, and one in the next pair after both.
struct PieceSlots {
  static constexpr size_t kSlot = 32, kPair = 64, kHeld = 16;  // bytes; where the ids lie
  static constexpr uint64_t kKeyBits = ~uint64_t{0} >> 4;
  RL_INLINED static bool free(const char* slot) { return slot[15] == 0; }
};

template <typename Id>
struct PieceTable : PieceSlots {
  static constexpr size_t kMostHeld = (kSlot - kHeld) / sizeof(Id);

  const char *pairs, *end;  // the first, and behind the last
  const Id* store;
  int shift;  // of a key's hash to the number of its pair

  RL_INLINED const char* pair_of(PieceKey key) const { return pairs + (hash_of_key(key) >> shift) * kPair; }
};

// Where a piece is in a table if it is there: in this pair of slots, or in the next. Of a long piece (kNoPieceKey)
// `low` is whatever the caller writes there, and the pair may be one that the caller has made, with the key that the
// place has.
struct alignas(32) PiecePlace {
  PieceKey key;
  const char* pair;
};

template <typename Id>
struct LookupFunctions {
  // The places of the pieces that end at text + ends[i], i < count, the first of which begins at text + begin; of each
  // 16 bytes may be read. Has the processor fetch them. Writes the numbers of the long pieces to `longs` (room for
  // count), and returns how many.
  size_t (*places)(const char* text, size_t begin, const uint32_t* ends, size_t count, const PieceTable<Id>& table,
                   PiecePlace* places, uint32_t* longs);
  // Writes the ids of pieces, one after another, to `to`, and moves it behind them, until one is not where its place
  // says; returns how many were. Up to kMostHeld ids more may be written.
  size_t (*ids)(const PiecePlace* places, size_t count, const PieceTable<Id>& table, Id*& to);
};

#if defined(__x86_64__)
extern const LookupFunctions<uint16_t> kAvx2Lookups16;
extern const LookupFunctions<int32_t> kAvx2Lookups32;
#endif

// Those for `isa`, at most device::isa(). Id: uint16_t or int32_t.
template <typename Id>
const LookupFunctions<Id>& lookup_functions(device::Isa isa);

// LookupFunctions::places, in C++ for any instruction set.
template <typename Id>
RL_INLINED size_t places_in_order(const char* text, size_t begin, const uint32_t* ends, size_t count,
                                  const PieceTable<Id>& table, PiecePlace* places, uint32_t* longs) {
  const PieceTable<Id> from = table;
  size_t long_ones = 0;
  for (size_t i = 0; i < count; ++i) {
    const size_t end = ends[i], size = end - begin;
    PiecePlace& place = places[i];
    if (size > kLongestPieceKey) [[unlikely]] {
      place = {{0, kNoPieceKey}, from.pairs};
      longs[long_ones++] = static_cast<uint32_t>(i);
    } else {
      place.key = key_of_bytes(text + begin, size);
      place.pair = from.pair_of(place.key);
      __builtin_prefetch(place.pair);
    }
    begin = end;
  }
  return long_ones;
}

}  // namespace ridgeline::data
