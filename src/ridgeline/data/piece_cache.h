// The ids of pieces seen before. Internal to the room.
//
// Pieces of up to 15 bytes, nearly all of any text, are their own keys: 16 bytes, compared at once. They lie in buckets
// of two, each a line of the processor's cache, and four or eight ids lie beside the key (PieceSlots). Longer pieces,
// and more ids, lie in one growing store. A lookup looks at a few places at most, whatever the text; where those are
// full, a new piece takes the place of an old one.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "ridgeline/data/piece_lookup.h"
#include "ridgeline/device/arena.h"

namespace ridgeline::data {

inline constexpr size_t kLongestKeptPiece = 256;  // bytes of the longest piece that is worth keeping

// Of a piece of 1 … kLongestPieceKey bytes that lies in memory of the caller that ends at `end`.
inline PieceKey key_of_piece(std::string_view piece, const char* end) {
  if (end - piece.data() >= 16) [[likely]]
    return key_of_bytes(piece.data(), piece.size());
  std::array<char, 16> bytes{};
  std::copy(piece.begin(), piece.end(), bytes.begin());
  return key_of_bytes(bytes.data(), piece.size());
}

template <typename Id>  // uint16_t or int32_t
class PieceCache {
 public:
  // Ids that a lookup of a short piece may write, whatever of them counts.
  static constexpr size_t kRoom = 16;
  using Table = PieceTable<Id>;

  struct Slot {
    uint64_t low, high;                     // a key, and above it in the last four bits how many ids; all 0: free
    std::array<Id, Table::kMostHeld> held;  // or where they lie

    struct InStore {
      uint32_t place, count;
    };
    InStore in_store() const {
      InStore where;
      std::memcpy(&where, held.data(), sizeof where);
      return where;
    }
    void set(InStore where) { std::memcpy(held.data(), &where, sizeof where); }

    uint64_t differs_from(PieceKey key) const { return (low ^ key.low) | ((high & PieceSlots::kKeyBits) ^ key.high); }
    size_t count() const { return high >> 60; }
  };

  // Takes memory for so many short pieces, and grows when there are more.
  explicit PieceCache(size_t pieces = 0);
  PieceCache(PieceCache&&) noexcept = default;
  PieceCache& operator=(PieceCache&&) noexcept = default;

  // For lookups of many short pieces, until another is inserted.
  Table table() const {
    return {{},
            reinterpret_cast<const char*>(slots_),
            reinterpret_cast<const char*>(slots_ + 2 * buckets_),
            store_.data(),
            shift_};
  }
  // Of a long piece, one after another: where it is if it is there, and what is there.
  void prefetch_long(uint64_t hash) const { __builtin_prefetch(&long_slots_[long_home(hash)]); }
  void prefetch_entry(uint64_t hash) const {
    const auto entry = reinterpret_cast<uintptr_t>(store_.data()) + long_slots_[long_home(hash)].place * sizeof(Id);
    __builtin_prefetch(reinterpret_cast<const void*>(entry));
    __builtin_prefetch(reinterpret_cast<const void*>(entry + 64));
  }

  // Writes the ids of the piece to `ids`, which has room for kRoom of them, and returns how many; 0 when the piece is
  // not known.
  size_t find(PieceKey key, uint64_t hash, Id* ids) const {
    // Without a branch on which of the two it is: that is as good as random.
    const Slot* two = bucket(hash);
    const uint64_t first = two[0].differs_from(key), second = two[1].differs_from(key);
    if (std::min(first, second) != 0) [[unlikely]]
      return find_further(key, hash, ids);
    return ids_of(two[second == 0], ids);
  }
  // The same for a piece of kLongestPieceKey + 1 … kLongestKeptPiece bytes; room for kLongestKeptPiece. `hash` is
  // hash_piece().
  size_t find_long(std::string_view piece, uint64_t hash, Id* ids) const;
  // Instead makes a slot that says where they lie in the store, for a PiecePlace; false when it is not known.
  bool slot_of_long(std::string_view piece, uint64_t hash, Slot& slot) const;

  // A piece that was not found, with its ids: at least one, at most one per byte.
  void insert(PieceKey key, uint64_t hash, std::span<const Id> ids);
  void insert_long(std::string_view piece, uint64_t hash, std::span<const Id> ids);

  // True when it has grown to its bound (Encoder in tokenizer.h states it) and should be replaced by a fresh one.
  bool full() const { return pieces_ >= kMostPieces || long_pieces_ >= kMostLong || store_.size() >= kMostStored; }

 private:
  static_assert(sizeof(Slot) == Table::kSlot && offsetof(Slot, held) == Table::kHeld);
  struct LongSlot {
    uint64_t hash;
    uint32_t place;          // in the store: ids, then bytes
    uint16_t length, count;  // bytes, 0: free; ids
  };
  static constexpr size_t kBuckets = 8, kLongSlots = 32;  // that a lookup looks at
  // In a table of 64 MiB, one of 8, and a store of 32.
  static constexpr size_t kMostPieces = size_t{1} << 19, kMostLong = size_t{1} << 18,
                          kMostStored = (size_t{32} << 20) / sizeof(Id);
  static constexpr size_t kMostBuckets = 2 * kMostPieces;

  Slot* bucket(uint64_t hash) const { return slots_ + (hash >> shift_) * 2; }
  size_t long_home(uint64_t hash) const { return hash & (long_slots_.size() - 1); }
  size_t ids_of(const Slot& slot, Id* ids) const {
    const size_t count = slot.count();
    if (count > Table::kMostHeld) [[unlikely]] {
      std::memcpy(ids, store_.data() + slot.in_store().place, count * sizeof(Id));
    } else {  // all at once, whatever of them counts
      std::memcpy(ids, slot.held.data(), sizeof slot.held);
    }
    return count;
  }
  size_t find_further(PieceKey key, uint64_t hash, Id* ids) const;
  const LongSlot* long_slot(std::string_view piece, uint64_t hash) const;
  void use(size_t buckets);
  // The free slot for a key of this hash; nullptr when all are taken.
  Slot* free_slot(uint64_t hash) const;
  void put_long(const LongSlot& entry);
  void grow();
  void grow_long();
  uint32_t keep(std::span<const Id> ids);
  void make_room(size_t more);

  device::Arena memory_;  // for kMostBuckets, of which most is never touched
  Slot* slots_;           // in memory_
  size_t buckets_ = 0;    // a power of two, at least 2
  int shift_ = 63;
  size_t pieces_ = 0, long_pieces_ = 0;
  std::vector<LongSlot> long_slots_;
  std::vector<Id> store_;
};

}  // namespace ridgeline::data
