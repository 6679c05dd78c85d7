#include "ridgeline/data/piece_scanner.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace ridgeline::data {
namespace {

constexpr size_t kBlock = 64;

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

PieceScanner::Longer PieceScanner::longer_characters(size_t block, uint64_t high) {
  Longer longer;
  const auto add = [&](CharClass kind, uint64_t bits) {
    longer.letters |= when(kind == CharClass::letter, bits);
    longer.numbers |= when(kind == CharClass::number, bits);
    longer.spaces |= when(kind == CharClass::space, bits);
  };
  longer.inside = low_bits(rest_);
  add(rest_kind_, longer.inside);
  uint64_t todo = high & ~longer.inside;
  rest_ = 0;
  while (todo != 0) {
    const auto i = static_cast<unsigned>(std::countr_zero(todo));
    const size_t place = block + i;
    const auto [kind, length] = classify_utf8({text_.data() + place, text_.size() - place});
    const uint64_t first = uint64_t{1} << i, bits = low_bits(length) << i;
    add(kind, bits);
    longer.inside |= bits ^ first;
    if (kind == CharClass::space && !space_at(place + length)) longer.last_spaces |= first;
    if (i + length > kBlock) {
      rest_ = i + length - static_cast<unsigned>(kBlock);
      rest_kind_ = kind;
    }
    todo &= ~bits;
  }
  return longer;
}

// 's 't 'm 'd 're 've 'll where a piece begins: another begins behind it, and none at its letters.
uint64_t PieceScanner::with_contractions(size_t block, uint64_t begins, uint64_t apostrophes) {
  for (uint64_t todo = apostrophes & begins; todo != 0; todo &= todo - 1) {
    const auto i = static_cast<unsigned>(std::countr_zero(todo));
    const size_t length = contraction(kind_, text_, block + i);
    if (length == 0) continue;
    const auto first = i + 1, behind = i + static_cast<unsigned>(length);
    if (first < kBlock) {
      begins &= ~(uint64_t{1} << first);
    } else {
      no_begins_ = 1;
    }
    if (behind < kBlock) {
      begins |= uint64_t{1} << behind;
    } else {
      begins_ = uint64_t{1} << (behind - kBlock);
    }
  }
  return begins;
}

// Bits of the bytes at which pieces begin.
uint64_t PieceScanner::begins_in_block(size_t block) {
  const size_t size = text_.size() - block;
  const char* bytes = text_.data() + block;
  // Behind the end of the text white space goes on.
  std::array<char, kBlock> last;
  if (size < kBlock) {
    last.fill(' ');
    std::memcpy(last.data(), bytes, size);
    bytes = last.data();
  }
  const AsciiMasks ascii = blocks_.masks(bytes);
  Longer longer;
  if ((ascii.high | rest_) != 0) longer = longer_characters(block, ascii.high);
  const uint64_t letters = ascii.letters | longer.letters, numbers = ascii.digits | longer.numbers,
                 spaces = ascii.spaces | longer.spaces, others = ~(letters | numbers | spaces);
  // Of white space with something else behind it the last character is a piece of its own, or a blank of the next one.
  const bool space_behind = ascii.spaces >> 63 != 0 && space_at(block + kBlock);
  const uint64_t last_spaces = (ascii.spaces & ~(spaces >> 1 | uint64_t{space_behind} << 63)) | longer.last_spaces;
  const uint64_t same = (letters & (letters << 1 | before_.letter)) | (numbers & (numbers << 1 | before_.number)) |
                        (others & (others << 1 | before_.other));
  const uint64_t words = ~spaces & ~same & ~(ascii.blanks << 1 | before_.blank);
  const uint64_t gaps = spaces & (~(spaces << 1 | before_.space) | last_spaces);
  before_ = {letters >> 63, numbers >> 63, spaces >> 63, others >> 63, ascii.blanks >> 63};
  uint64_t begins = ((words | gaps) & ~longer.inside & ~no_begins_) | begins_;
  no_begins_ = begins_ = 0;
  if ((ascii.apostrophes & begins) != 0) begins = with_contractions(block, begins, ascii.apostrophes);
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
