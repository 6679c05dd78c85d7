// Where text is cut before merging: hand-written scanners for the regular expressions that are in use most. Each cuts
// every text, valid UTF-8 or not, into consecutive non-empty pieces (an invalid byte counts as a character of class
// other). Other expressions: Cut in normalizer.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace ridgeline::data {

enum class PreTokenizer : uint8_t {
  // 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
  gpt2,
  // (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
  llama3,
  // The same with \p{N} in the place of \p{N}{1,3}: each digit is a piece.
  qwen2,
  // The whole text is one piece.
  whole
};

// The expression, as tokenizer.json spells it; "" for `whole`.
std::string_view pattern_of(PreTokenizer kind);

// The end of the piece that starts at `start` < text.size(). The text's end matters (trailing white space), so `text`
// must be the whole document or the whole stretch between two recognised added tokens.
size_t next_piece(PreTokenizer kind, std::string_view text, size_t start);

// Length of the contraction ('s, 're, …) at an apostrophe with which a piece begins; 0 when there is none.
size_t contraction(PreTokenizer kind, std::string_view text, size_t apostrophe);

// The first place from `from` on at which `text` may be cut in two: the pieces of both parts are those of the whole, by
// each of the expressions, also in normal form C. text.size() when there is none. (Such a place is before the space
// between two words, after a line's end between two other characters, or before a comma or full stop of Chinese or
// Japanese that ends a word.)
size_t next_cut(std::string_view text, size_t from);

// f(piece) for every piece, in order.
template <typename F>
void for_each_piece(PreTokenizer kind, std::string_view text, F&& f) {
  for (size_t start = 0; start < text.size();) {
    const size_t end = next_piece(kind, text, start);
    f(text.substr(start, end - start));
    start = end;
  }
}

}  // namespace ridgeline::data
