// The ids of pieces seen before. Internal to the room.
//
// Pieces of up to 15 bytes, nearly all of any text, are their own keys: 16 bytes, compared at once. They lie in buckets
// of two, each a line of the processor's cache, and four or eight ids lie beside the key. Longer pieces, and more ids,
// lie in one growing store. A lookup looks at a few places at most, whatever the text; where those are full, a new
// piece takes the place of an old one.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "ridgeline/device/arena.h"

namespace ridgeline::data {

class PieceCache {
 public:
  static constexpr size_t kLongestKey = 15;     // bytes of a piece that is its own key
  static constexpr size_t kLongestPiece = 256;  // bytes of the longest piece that is worth keeping

  // Ids that a lookup of a short piece may write, whatever of them counts.
  static constexpr size_t kRoom = 16;

  // The bytes, zeros behind them, and the length in bits 56 … 59 of `high`: 0 in no piece's key.
  struct Key {
    uint64_t low = 0, high = 0;
  };
  // Of a piece of 1 … kLongestKey bytes that lies in memory of the caller that ends at `end`.
  static Key key_of(std::string_view piece, const char* end) {
    Key key;
    if (end - piece.data() >= 16) [[likely]] {
      std::memcpy(&key.low, piece.data(), 8);
      std::memcpy(&key.high, piece.data() + 8, 8);
    } else {
      std::array<char, 16> bytes{};
      std::copy(piece.begin(), piece.end(), bytes.begin());
      std::memcpy(&key.low, bytes.data(), 8);
      std::memcpy(&key.high, bytes.data() + 8, 8);
    }
    if constexpr (std::endian::native == std::endian::big) {
      key = {__builtin_bswap64(key.low), __builtin_bswap64(key.high)};
    }
    key.low &= kLowBytes[piece.size()];
    key.high = (key.high & kHighBytes[piece.size()]) | uint64_t{piece.size()} << 56;
    return key;
  }
  static uint64_t hash_of(Key key) {
    return (key.low ^ std::rotl(key.high * 0x9E3779B97F4A7C15U, 32)) * 0xD6E8FEB86659FD93U;
  }

  // Takes memory for so many short pieces, and grows when there are more. Every id will be below `ids`.
  explicit PieceCache(size_t pieces = 0, size_t ids = size_t{1} << 31);
  PieceCache(const PieceCache& other);
  PieceCache& operator=(const PieceCache& other) { return *this = PieceCache(other); }
  PieceCache(PieceCache&&) noexcept = default;
  PieceCache& operator=(PieceCache&&) noexcept = default;

  void prefetch(uint64_t hash) const { __builtin_prefetch(bucket(hash)); }
  void prefetch_long(uint64_t hash) const { __builtin_prefetch(&long_slots_[long_home(hash)]); }

  // Writes the ids of the piece to `ids`, which has room for kRoom of them, and returns how many; 0 when the piece is
  // not known.
  size_t find(Key key, uint64_t hash, int32_t* ids) const {
    // Without a branch on which of the two it is: that is as good as random.
    const Slot* two = bucket(hash);
    const uint64_t first = two[0].differs_from(key), second = two[1].differs_from(key);
    if (std::min(first, second) != 0) [[unlikely]]
      return find_further(key, hash, ids);
    return ids_of(two[second == 0], ids);
  }
  // The same for a piece of kLongestKey + 1 … kLongestPiece bytes; room for kLongestPiece. `hash` is hash_piece().
  size_t find_long(std::string_view piece, uint64_t hash, int32_t* ids) const;

  // A piece that was not found, with its ids: at least one, at most one per byte.
  void insert(Key key, uint64_t hash, std::span<const int32_t> ids);
  void insert_long(std::string_view piece, uint64_t hash, std::span<const int32_t> ids);

  // True when it has grown to its bound (Encoder in tokenizer.h states it) and should be replaced by a fresh one.
  bool full() const { return pieces_ >= kMostPieces || long_pieces_ >= kMostLong || store_.size() >= kMostStored; }

 private:
  struct Slot {
    uint64_t low, high;  // a key, and above it in the last four bits how many ids; all 0: free
    std::array<uint32_t, 4>
        held;  // they, or twice as many of 16 bits each; where they do not fit: a place in the store

    uint64_t differs_from(Key key) const { return (low ^ key.low) | ((high & kKeyBits) ^ key.high); }
    size_t count() const { return high >> 60; }
  };
  static_assert(sizeof(Slot) == 32);
  struct LongSlot {
    uint64_t hash;
    uint32_t place;          // in the store: ids, then bytes
    uint16_t length, count;  // bytes, 0: free; ids
  };
  static constexpr uint64_t kKeyBits = ~uint64_t{0} >> 4;
  static constexpr size_t kBuckets = 8, kLongSlots = 32;  // that a lookup looks at
  // In a table of 64 MiB, one of 8, and a store of 32.
  static constexpr size_t kMostPieces = size_t{1} << 19, kMostLong = size_t{1} << 18, kMostStored = size_t{1} << 23;

  static constexpr auto bytes_up_to(size_t first) {
    std::array<uint64_t, 16> masks{};
    for (size_t length = 0; length < 16; ++length) {
      const size_t bytes = length > first ? std::min<size_t>(length - first, 8) : 0;
      masks[length] = bytes == 8 ? ~uint64_t{0} : (uint64_t{1} << (8 * bytes)) - 1;
    }
    return masks;
  }
  static const std::array<uint64_t, 16> kLowBytes, kHighBytes;

  Slot* bucket(uint64_t hash) const { return slots_ + (hash >> shift_) * 2; }
  size_t long_home(uint64_t hash) const { return hash & (long_slots_.size() - 1); }
  size_t most_held() const { return narrow_ ? 8 : 4; }
  size_t ids_of(const Slot& slot, int32_t* ids) const {
    const size_t count = slot.count();
    if (count > most_held()) [[unlikely]] {
      std::memcpy(ids, store_.data() + slot.held[0], count * sizeof(int32_t));
    } else if (narrow_) {
      // All eight at once, whatever of them counts.
      const auto narrow = std::bit_cast<std::array<uint16_t, 8>>(slot.held);
      for (size_t i = 0; i < 8; ++i) ids[i] = narrow[i];
    } else {
      std::memcpy(ids, slot.held.data(), sizeof slot.held);
    }
    return count;
  }
  size_t find_further(Key key, uint64_t hash, int32_t* ids) const;
  void take(size_t buckets);
  // The free slot for a key of this hash; nullptr when all are taken.
  Slot* free_slot(uint64_t hash) const;
  void put_long(const LongSlot& entry);
  void grow();
  void grow_long();
  uint32_t keep(std::span<const int32_t> ids);
  void make_room(size_t more);

  device::Arena memory_ = device::Arena::reserved(0);
  Slot* slots_ = nullptr;  // in memory_
  size_t buckets_ = 0;     // a power of two, at least 2
  int shift_ = 63;
  bool narrow_ = false;  // ids take 16 bits
  size_t pieces_ = 0, long_pieces_ = 0;
  std::vector<LongSlot> long_slots_;
  std::vector<int32_t> store_;
};

inline constexpr std::array<uint64_t, 16> PieceCache::kLowBytes = bytes_up_to(0);
inline constexpr std::array<uint64_t, 16> PieceCache::kHighBytes = bytes_up_to(8);

}  // namespace ridgeline::data
