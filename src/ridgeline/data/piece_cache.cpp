#include "ridgeline/data/piece_cache.h"

#include <utility>

#include "ridgeline/base/error.h"
#include "ridgeline/device/huge_pages.h"

namespace ridgeline::data {

template <typename Id>
PieceCache<Id>::PieceCache(size_t pieces)
    : memory_(device::Arena::reserved(static_cast<int64_t>(kMostBuckets * 2 * sizeof(Slot)))),
      slots_(reinterpret_cast<Slot*>(memory_.data())),
      long_slots_(16) {
  RL_CHECK(pieces, <=, kMostPieces);
  use(std::bit_ceil(std::max<size_t>(2 * pieces, 2)));
}

// So many buckets from now on, of which those above the ones before are free.
template <typename Id>
void PieceCache<Id>::use(size_t buckets) {
  buckets_ = buckets;
  shift_ = 64 - std::countr_zero(buckets);
  device::prefer_huge_pages(slots_, buckets * 2 * sizeof(Slot));
}

template <typename Id>
size_t PieceCache<Id>::find_further(PieceKey key, uint64_t hash, Id* ids) const {
  size_t at = hash >> shift_;
  for (size_t looked = 0; looked < kBuckets; ++looked, at = (at + 1) & (buckets_ - 1)) {
    for (const Slot* slot = slots_ + at * 2; slot != slots_ + at * 2 + 2; ++slot) {
      if (slot->differs_from(key) == 0) return ids_of(*slot, ids);
      if (slot->high == 0) return 0;
    }
  }
  return 0;
}

template <typename Id>
typename PieceCache<Id>::Slot* PieceCache<Id>::free_slot(uint64_t hash) const {
  size_t at = hash >> shift_;
  for (size_t looked = 0; looked < kBuckets; ++looked, at = (at + 1) & (buckets_ - 1)) {
    for (Slot* slot = slots_ + at * 2; slot != slots_ + at * 2 + 2; ++slot) {
      if (slot->high == 0) return slot;
    }
  }
  return nullptr;
}

template <typename Id>
uint32_t PieceCache<Id>::keep(std::span<const Id> ids) {
  const size_t place = store_.size();
  make_room(ids.size());
  store_.insert(store_.end(), ids.begin(), ids.end());
  return static_cast<uint32_t>(place);
}

// A store that grows takes all that it may ever need, which costs nothing until it is written.
template <typename Id>
void PieceCache<Id>::make_room(size_t more) {
  if (store_.size() + more <= store_.capacity()) return;
  store_.reserve(kMostStored + 2 * kLongestKeptPiece);
  device::prefer_huge_pages(store_.data(), store_.capacity() * sizeof(Id));
}

template <typename Id>
void PieceCache<Id>::insert(PieceKey key, uint64_t hash, std::span<const Id> ids) {
  RL_CHECK(ids.size(), <=, kLongestPieceKey);
  // Most often there is room in a bucket, since a second one costs time to look at; but so does memory that is new.
  if (pieces_ * 4 >= 3 * buckets_) grow();
  Slot entry{.low = key.low, .high = key.high | uint64_t{ids.size()} << 60, .held = {}};
  if (ids.size() > Table::kMostHeld) {
    entry.set({keep(ids), 0});
  } else {
    std::copy(ids.begin(), ids.end(), entry.held.begin());
  }
  Slot* slot = free_slot(hash);
  if (slot != nullptr) {
    ++pieces_;
  } else {
    slot = bucket(hash);
  }
  *slot = entry;
}

// To twice the buckets, in place: a new table would cost memory that the system has to clear first. What finds no free
// slot there is forgotten.
template <typename Id>
void PieceCache<Id>::grow() {
  RL_CHECK(buckets_, <, kMostBuckets);
  const size_t before = buckets_;
  use(2 * before);
  pieces_ = 0;
  const auto home_of = [&](const Slot& entry) {
    return hash_of_key({entry.low, entry.high & PieceSlots::kKeyBits}) >> (shift_ + 1);
  };
  const auto put = [&](const Slot& entry) {
    Slot* const slot = free_slot(hash_of_key({entry.low, entry.high & PieceSlots::kKeyBits}));
    if (slot == nullptr) return;
    *slot = entry;
    ++pieces_;
  };
  // What had its home in a bucket goes to twice its number or the next. From the last bucket on, that is where all have
  // gone already; but for the first few, which wait. Of one home those remain the first that were: most is asked for
  // them. So what lies behind its home waits until that has its turn.
  const size_t first = 2 * std::min(before, 2 * kBuckets);
  const std::vector<Slot> waiting(slots_, slots_ + first);
  std::fill(slots_, slots_ + first, Slot{});
  std::vector<Slot> behind;  // the last is the first to go
  for (size_t bucket = before; bucket-- > first / 2;) {
    const std::array<Slot, 2> two = {slots_[2 * bucket], slots_[2 * bucket + 1]};
    slots_[2 * bucket] = slots_[2 * bucket + 1] = {};
    const size_t elsewhere = behind.size();
    for (const Slot& entry : {two[1], two[0]}) {
      if (entry.high != 0 && home_of(entry) != bucket) behind.push_back(entry);
    }
    for (const Slot& entry : two) {
      if (entry.high != 0 && home_of(entry) == bucket) put(entry);
    }
    for (size_t i = elsewhere; i-- > 0;) {
      if (home_of(behind[i]) != bucket) continue;
      put(behind[i]);
      behind.erase(behind.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
  for (const Slot& entry : waiting) {
    if (entry.high != 0) put(entry);
  }
  for (size_t i = behind.size(); i-- > 0;) put(behind[i]);
}

namespace {

// Of at least 16 bytes: the last 16 may overlap those before.
bool same_bytes(const void* a, const void* b, size_t size) {
  const auto differ = [&](size_t at) {
    std::array<uint64_t, 2> left, right;
    std::memcpy(left.data(), static_cast<const char*>(a) + at, 16);
    std::memcpy(right.data(), static_cast<const char*>(b) + at, 16);
    return (left[0] ^ right[0]) | (left[1] ^ right[1]);
  };
  uint64_t different = differ(0) | differ(size - 16);
  for (size_t at = 16; at + 16 < size; at += 16) different |= differ(at);
  return different == 0;
}

}  // namespace

template <typename Id>
const typename PieceCache<Id>::LongSlot* PieceCache<Id>::long_slot(std::string_view piece, uint64_t hash) const {
  size_t at = long_home(hash);
  for (size_t looked = 0; looked < kLongSlots; ++looked, at = (at + 1) & (long_slots_.size() - 1)) {
    const LongSlot& slot = long_slots_[at];
    if (slot.length == 0) return nullptr;
    if (slot.hash != hash || slot.length != piece.size()) continue;
    if (same_bytes(store_.data() + slot.place + slot.count, piece.data(), piece.size())) return &slot;
  }
  return nullptr;
}

template <typename Id>
size_t PieceCache<Id>::find_long(std::string_view piece, uint64_t hash, Id* ids) const {
  const LongSlot* const slot = long_slot(piece, hash);
  if (slot == nullptr) return 0;
  std::memcpy(ids, store_.data() + slot->place, slot->count * sizeof(Id));
  return slot->count;
}

template <typename Id>
bool PieceCache<Id>::slot_of_long(std::string_view piece, uint64_t hash, Slot& slot) const {
  const LongSlot* const known = long_slot(piece, hash);
  if (known == nullptr) return false;
  slot = {.low = hash, .high = kNoPieceKey | uint64_t{0xF} << 60, .held = {}};
  slot.set({known->place, known->count});
  return true;
}

template <typename Id>
void PieceCache<Id>::insert_long(std::string_view piece, uint64_t hash, std::span<const Id> ids) {
  RL_CHECK(ids.size(), <=, kLongestKeptPiece);
  if (long_pieces_ * 2 >= long_slots_.size()) grow_long();
  const LongSlot entry{.hash = hash,
                       .place = keep(ids),
                       .length = static_cast<uint16_t>(piece.size()),
                       .count = static_cast<uint16_t>(ids.size())};
  const size_t bytes_at = store_.size();
  make_room(kLongestKeptPiece / sizeof(Id));
  store_.resize(bytes_at + (piece.size() + sizeof(Id) - 1) / sizeof(Id));
  std::memcpy(store_.data() + bytes_at, piece.data(), piece.size());
  put_long(entry);
}

// Into the first free slot of those that a lookup looks at, else over the first of them.
template <typename Id>
void PieceCache<Id>::put_long(const LongSlot& entry) {
  const size_t home = long_home(entry.hash);
  for (size_t looked = 0; looked < kLongSlots; ++looked) {
    LongSlot& slot = long_slots_[(home + looked) & (long_slots_.size() - 1)];
    if (slot.length != 0) continue;
    slot = entry;
    ++long_pieces_;
    return;
  }
  long_slots_[home] = entry;
}

template <typename Id>
void PieceCache<Id>::grow_long() {
  std::vector<LongSlot> old(long_slots_.size() * 2);
  old.swap(long_slots_);
  long_pieces_ = 0;
  for (const LongSlot& slot : old) {
    if (slot.length != 0) put_long(slot);
  }
}

template class PieceCache<uint16_t>;
template class PieceCache<int32_t>;

}  // namespace ridgeline::data
