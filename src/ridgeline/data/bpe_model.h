// The tables behind a Tokenizer. Internal to the room: others use tokenizer.h.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "ridgeline/data/added_tokens.h"
#include "ridgeline/data/normalizer.h"
#include "ridgeline/data/pair_table.h"
#include "ridgeline/data/piece_cache.h"
#include "ridgeline/data/pretokenize.h"
#include "ridgeline/data/tokenizer.h"
#include "ridgeline/data/tokenizer_files.h"

namespace ridgeline::data {

// The spaces that decode() leaves away, as the decoders of the files do, while there is nothing else yet: at most so
// many at the begin of the text; all of its first token; one of each token that is neither a byte nor unknown.
struct DecodeStart {
  enum class Of : uint8_t { text, first_token, each_token };
  size_t spaces = 0;
  Of of = Of::text;
};

// Which stretches of text get a space before them, unless they begin with one: none, each, or the one with which the
// text begins.
enum class PrefixSpace : uint8_t { none, each, first };

struct BpeModel {
  // What the files say.
  std::vector<std::string> tokens;      // bytes of id; "" for an id that no file names
  std::array<int32_t, 256> byte_ids{};  // of the single bytes; -1: none
  std::vector<uint8_t> literal;         // 1: a name that no text spells (a bare " "); shorter than tokens: 0
  std::vector<MergeRule> merges;        // in order of rank, but of SentencePiece's models
  std::vector<AddedToken> added_tokens;
  Normalizer normalizer;       // of the text between raw added tokens
  Normalizer word_normalizer;  // then, of the text between added tokens
  std::vector<Cut> cuts;       // then, between added tokens, cut after cut
  PrefixSpace prefix_space = PrefixSpace::none;
  PreTokenizer pre_tokenizer = PreTokenizer::gpt2;  // the last cut
  bool ignore_merges = false;                       // a piece that is a token is emitted without merging
  // Of a model whose pieces begin as characters, not as bytes (SentencePiece's): the id of each that has one. Others
  // become their bytes where those have ids (all or none of them do), else `unknown`. Empty in other models.
  std::unordered_map<uint32_t, int32_t> character_ids;
  std::vector<std::string> names;  // of id, as the files spell it; shorter than tokens: of added tokens. Empty likewise
  int32_t unknown = -1;
  bool fuse_unknown = false;  // one id for neighbours
  DecodeStart decode_start;
  SpecialTokens special;
  TokenizerFiles source;  // to be written back unchanged

  // What follows from it; made by finish().
  bool every_byte = true;  // none of them is -1
  PairTable pairs;
  std::vector<uint32_t> byte_rules;  // of left byte * 256 + right byte: the number of their rule; not of characters
  std::vector<uint8_t> special_ids;  // by id
  AddedTokenMatcher raw_tokens, normalized_tokens;  // of added_tokens, by index
  // With ignore_merges: the ids of tokens that merging their bytes does not give (588 of Llama 3's 128,000).
  std::unordered_map<std::string_view, int32_t> unmerged;
  std::string hash;

  bool is_literal(size_t id) const { return id < literal.size() && literal[id] != 0; }
  bool of_characters() const { return !character_ids.empty(); }
  // As the files spell the entry of the vocabulary.
  std::string name_of(int32_t id) const;

  // Fills the derived tables. Error (naming `origin`) when a byte that UTF-8 uses has no token.
  void finish(std::string_view origin);

  bool every_byte_has_id() const {
    return std::all_of(byte_ids.begin(), byte_ids.end(), [](int32_t id) { return id >= 0; });
  }
  // Whether every byte of `text` has an id.
  bool has_ids_for(std::string_view text) const;

  // The ids with which a piece begins, before anything is merged; at most one per byte. Returns how many.
  size_t first_ids(std::string_view piece, int32_t* ids) const;

  // The token that a whole pre-token is without merging; -1: none.
  int32_t unmerged_token(std::string_view piece) const {
    if (unmerged.empty()) return -1;
    const auto found = unmerged.find(piece);
    return found == unmerged.end() ? -1 : found->second;
  }

  // Writes the ids that merging makes of a pre-token, each of whose bytes has an id unless it is a model of characters,
  // or of a part of one, and returns how many: at most one per byte.
  size_t merge_piece(std::string_view piece, int32_t* ids) const;
  // The same, appended.
  void merge_piece(std::string_view piece, std::vector<int32_t>& ids) const;

  // The end of the part of a piece that begins at `begin`: there, or at the piece's end, is the next place where no
  // merge ever joins what stands before it with what stands behind it. The ids of a piece are those of its parts, one
  // after another. (Between most Chinese characters GPT-2 merges nothing.)
  size_t part_end(std::string_view piece, size_t begin) const {
    size_t end = begin + 1;
    while (end < piece.size() && joins(piece[end - 1], piece[end])) ++end;
    return end;
  }

 private:
  bool joins(char last, char first) const {
    const size_t pair = size_t{static_cast<uint8_t>(last)} << 8 | static_cast<uint8_t>(first);
    return (joins_[pair / 64] >> (pair % 64) & 1) != 0;
  }
  std::array<uint64_t, 1024> joins_{};  // a bit for two bytes: some merge's left side ends in one, its right begins so
  void join(uint8_t last, uint8_t first) {
    const size_t pair = size_t{last} << 8 | first;
    joins_[pair / 64] |= uint64_t{1} << (pair % 64);
  }
  void find_unmerged(const std::vector<uint8_t>& added);
  void find_joins();
  void join_characters();
};

// Byte b in GPT-2's printable alphabet (a code point), and back (-1 for code points outside it).
uint32_t printable_of(uint8_t byte);
int byte_of_printable(uint32_t code);
// Bytes -> the string that vocab.json and merges.txt hold.
std::string to_printable(std::string_view bytes);
// Back; nullopt when a character is outside the alphabet.
std::optional<std::string> from_printable(std::string_view text);
// The 256 bytes in the order of their printable forms: ids 0 … 255 of GPT-2 and of tokenizers trained here.
const std::array<uint8_t, 256>& bytes_in_printable_order();

}  // namespace ridgeline::data
