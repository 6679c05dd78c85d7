#include "ridgeline/data/piece_scanner.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace ridgeline::data {
namespace {

constexpr size_t kBlock = BlockFunctions::kBytes;

constexpr uint64_t low_bits(size_t count) {
  return count < 64 ? (uint64_t{1} << count) - 1 : ~uint64_t{0};
}

// `bits` where `condition`, without a branch.
constexpr uint64_t when(bool condition, uint64_t bits) {
  return bits & (uint64_t{0} - uint64_t{condition});
}

}  // namespace

Error PieceScanner::too_long() const {
  return Error(fmt::format("a word of more than {} bytes", longest_),
               "Is this text? Leave it away, or put white space into it.");
}

// Whether white space goes on at `place`; the end of the text ends no run of it.
bool PieceScanner::space_at(size_t place) const {
  return place >= text_.size() || classify_utf8({text_.data() + place, text_.size() - place}).kind == CharClass::space;
}

Longer PieceScanner::longer_characters(size_t block, const char* bytes, uint64_t high) {
  const LongerMasks sorted = blocks_.longer(bytes, tables_);
  Longer longer = longer_of(sorted, carry_.begun);
  add_one_by_one(block, high & ~(longer.inside | sorted.two | sorted.three), longer);
  return longer;
}

void PieceScanner::add_one_by_one(size_t block, uint64_t todo, Longer& longer) {
  const auto add = [](auto& to, CharClass kind, uint64_t bits) {
    to.letters |= when(kind == CharClass::letter, bits);
    to.numbers |= when(kind == CharClass::number, bits);
    to.spaces |= when(kind == CharClass::space, bits);
  };
  while (todo != 0) {
    const auto i = static_cast<unsigned>(std::countr_zero(todo));
    const size_t place = block + i;
    const auto [kind, length] = classify_utf8({text_.data() + place, text_.size() - place});
    const uint64_t first = uint64_t{1} << i, bits = low_bits(length) << i;
    add(longer, kind, bits);
    longer.inside |= bits ^ first;
    if (kind == CharClass::space && !space_at(place + length)) longer.last_spaces |= first;
    if (i + length > kBlock) {
      carry_.begun.inside = low_bits(i + length - kBlock);
      add(carry_.begun, kind, carry_.begun.inside);
    }
    todo &= ~bits;
  }
}

// 's 't 'm 'd 're 've 'll where a piece begins.
uint64_t PieceScanner::with_contractions_in(size_t block, uint64_t begins, uint64_t apostrophes) {
  Contractions found{};
  for (uint64_t todo = apostrophes & begins; todo != 0; todo &= todo - 1) {
    const size_t length = contraction(kind_, text_, block + static_cast<size_t>(std::countr_zero(todo)));
    found.two |= when(length == 2, todo & -todo);
    found.three |= when(length == 3, todo & -todo);
  }
  return with_contractions(begins, found, carry_);
}

// Bits of the bytes at which pieces begin; `to` as for Pieces::begins().
template <typename Pieces>
uint64_t PieceScanner::begins_in_block(size_t block, uint32_t*& to) {
  const size_t size = text_.size() - block;
  const char* bytes = text_.data() + block;
  // Behind the end of the text white space goes on.
  std::array<char, BlockFunctions::kReads> last;
  if (size < last.size()) {
    last.fill(' ');
    std::memcpy(last.data(), bytes, size);
    bytes = last.data();
  }
  const AsciiMasks ascii = blocks_.masks(bytes);
  Longer longer;
  if ((ascii.high | carry_.begun.inside) != 0) longer = longer_characters(block, bytes, ascii.high);
  const bool space_behind = ascii.spaces >> 63 != 0 && space_at(block + kBlock);
  uint64_t begins = begins_of<Pieces>(ascii, longer, space_behind, block, carry_, to);
  if ((ascii.apostrophes & begins) != 0) begins = with_contractions_in(block, begins, ascii.apostrophes);
  return begins & low_bits(size);
}

template <typename Pieces>
size_t PieceScanner::next_by_blocks(BlockFunctions::Begins* begins, Ends& ends) {
  uint32_t* to = ends.data();
  // The text has one end more, and may have one that is open up to there.
  const uint32_t* const room = ends.data() + kMost - 1;
  const auto is_room = [&] { return to + BlockFunctions::kMostPlaces <= room; };
  while (is_room() && done_ < text_.size()) {
    if (begins != nullptr) {
      to = begins(text_.data(), done_, std::min(text_.size(), longest_), tables_, carry_, to, room);
      if (!is_room()) break;
    }
    if (done_ >= longest_) {
      if (to == ends.data()) throw too_long();
      break;
    }
    const size_t block = done_;
    uint64_t here = begins_in_block<Pieces>(block, to);
    if (block == 0) here &= ~uint64_t{1};
    to += blocks_.places(here, static_cast<uint32_t>(block), to);
    done_ = block + std::min(kBlock, text_.size() - block);
    if (done_ == text_.size()) {
      if (carry_.open != 0 && carry_.open_place < text_.size()) *to++ = static_cast<uint32_t>(carry_.open_place);
      *to++ = static_cast<uint32_t>(text_.size());
    }
  }
  return static_cast<size_t>(to - ends.data());
}

size_t PieceScanner::next(Ends& ends) {
  text_.remove_prefix(given_);
  done_ -= given_;
  carry_.open_place -= given_;
  const size_t count = next_of_kind(ends);
  given_ = count > 0 ? ends[count - 1] : 0;
  return count;
}

size_t PieceScanner::next_of_kind(Ends& ends) {
  switch (kind_) {
    case PreTokenizer::gpt2:
      return next_by_blocks<Gpt2Pieces>(blocks_.gpt2, ends);
    case PreTokenizer::llama3:
      return next_by_blocks<Llama3Pieces<3>>(blocks_.llama3, ends);
    case PreTokenizer::qwen2:
      return next_by_blocks<Llama3Pieces<1>>(blocks_.qwen2, ends);
    case PreTokenizer::whole:
      break;
  }
  if (done_ == text_.size()) return 0;
  if (text_.size() > longest_) throw too_long();
  done_ = text_.size();
  ends[0] = static_cast<uint32_t>(done_);
  return 1;
}

}  // namespace ridgeline::data
