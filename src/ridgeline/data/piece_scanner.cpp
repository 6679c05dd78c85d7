#include "ridgeline/data/piece_scanner.h"

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

// Whether white space goes on at `place`; the end of the text ends no run of it.
bool PieceScanner::space_at(size_t place) const {
  return place >= text_.size() || classify_utf8({text_.data() + place, text_.size() - place}).kind == CharClass::space;
}

Longer PieceScanner::longer_characters(size_t block, const char* bytes, uint64_t high) {
  const LongerMasks sorted = blocks_.longer(bytes, tables_);
  Longer longer = longer_of(sorted, carry_);
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
      carry_.inside = low_bits(i + length - kBlock);
      add(carry_, kind, carry_.inside);
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

// Bits of the bytes at which pieces begin.
uint64_t PieceScanner::begins_in_block(size_t block) {
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
  if ((ascii.high | carry_.inside) != 0) longer = longer_characters(block, bytes, ascii.high);
  const bool space_behind = ascii.spaces >> 63 != 0 && space_at(block + kBlock);
  uint64_t begins = begins_of(ascii, longer, space_behind, carry_);
  if ((ascii.apostrophes & begins) != 0) begins = with_contractions_in(block, begins, ascii.apostrophes);
  return begins & low_bits(size);
}

size_t PieceScanner::next(Ends& ends) {
  size_t count = 0;
  if (kind_ != PreTokenizer::gpt2) {
    for (; count < kMost && done_ < text_.size(); ++count) ends[count] = done_ = next_piece(kind_, text_, done_);
    return count;
  }
  // A block has at most 64 ends, and the text one more.
  while (count + kBlock < kMost && done_ < text_.size()) {
    if (blocks_.begins != nullptr) {
      const size_t* const behind = blocks_.begins(text_.data(), done_, text_.size(), tables_, carry_,
                                                  ends.data() + count, ends.data() + kMost - 1);
      count = static_cast<size_t>(behind - ends.data());
      if (count + kBlock >= kMost) break;
    }
    const size_t block = done_;
    uint64_t begins = begins_in_block(block);
    if (block == 0) begins &= ~uint64_t{1};
    count += blocks_.places(begins, block, ends.data() + count);
    done_ = block + std::min(kBlock, text_.size() - block);
    if (done_ == text_.size()) ends[count++] = done_;
  }
  return count;
}

}  // namespace ridgeline::data
