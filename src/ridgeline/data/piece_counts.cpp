#include "ridgeline/data/piece_counts.h"

#include <cstring>

#include "ridgeline/data/piece_hash.h"
#include "ridgeline/data/pretokenize.h"

namespace ridgeline::data {

constexpr size_t kLongestPiece = 256;

void PieceCounts::add_piece(std::string_view piece, uint64_t hash, int64_t count) {
  const size_t mask = slots_.size() - 1;
  size_t i = hash & mask;
  for (; slots_[i].length != 0; i = (i + 1) & mask) {
    Slot& slot = slots_[i];
    if (slot.hash != hash || slot.length != piece.size()) continue;
    if (std::memcmp(bytes_.data() + slot.begin, piece.data(), piece.size()) != 0) continue;
    slot.count += count;
    return;
  }
  slots_[i] = {hash, bytes_.size(), static_cast<uint32_t>(piece.size()), count};
  bytes_.insert(bytes_.end(), piece.begin(), piece.end());
  if (++entries_ * 2 > slots_.size()) grow();
}

void PieceCounts::grow() {
  std::vector<Slot> old(slots_.size() * 2);
  old.swap(slots_);
  const size_t mask = slots_.size() - 1;
  for (const Slot& slot : old) {
    if (slot.length == 0) continue;
    size_t i = slot.hash & mask;
    while (slots_[i].length != 0) i = (i + 1) & mask;
    slots_[i] = slot;
  }
}

void PieceCounts::add(std::string_view text) {
  for_each_piece(PreTokenizer::gpt2, text, [&](std::string_view piece) {
    while (piece.size() > kLongestPiece) {
      size_t cut = kLongestPiece;
      while (cut > kLongestPiece - 4 && (static_cast<uint8_t>(piece[cut]) & 0xC0) == 0x80) --cut;
      add_piece(piece.substr(0, cut), hash_piece(piece.substr(0, cut)), 1);
      piece.remove_prefix(cut);
    }
    add_piece(piece, hash_piece(piece), 1);
  });
}

void PieceCounts::merge(const PieceCounts& other) {
  for (const Slot& slot : other.slots_) {
    if (slot.length != 0) add_piece({other.bytes_.data() + slot.begin, slot.length}, slot.hash, slot.count);
  }
}

std::vector<PieceCounts::Entry> PieceCounts::entries() const {
  std::vector<Entry> result;
  result.reserve(entries_);
  for (const Slot& slot : slots_) {
    if (slot.length != 0) result.push_back({{bytes_.data() + slot.begin, slot.length}, slot.count});
  }
  return result;
}

}  // namespace ridgeline::data
