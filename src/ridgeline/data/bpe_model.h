// The tables behind a Tokenizer. Internal to the room: others use tokenizer.h.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "ridgeline/data/added_tokens.h"
#include "ridgeline/data/pretokenize.h"
#include "ridgeline/data/tokenizer.h"
#include "ridgeline/data/tokenizer_files.h"

namespace ridgeline::data {

struct MergeRule {
  int32_t left, right, merged;
};

// (left id, right id) -> (rank, merged id). Open addressing, at most half full.
class PairTable {
 public:
  struct Merge {
    uint32_t rank;
    int32_t merged;
  };
  static constexpr uint32_t kNone = UINT32_MAX;

  // A later rule for the same pair replaces an earlier one, as in Hugging Face tokenizers.
  void build(const std::vector<MergeRule>& merges);

  Merge find(int32_t left, int32_t right) const {
    const uint64_t key = key_of(left, right);
    for (size_t i = slot_of(key);; i = (i + 1) & mask_) {
      if (slots_[i].key == key) return slots_[i].merge;
      if (slots_[i].key == kEmpty) return {kNone, -1};
    }
  }

 private:
  static constexpr uint64_t kEmpty = UINT64_MAX;
  struct Slot {
    uint64_t key = kEmpty;
    Merge merge{kNone, -1};
  };
  static uint64_t key_of(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t slot_of(uint64_t key) const { return static_cast<size_t>((key * 0x9E3779B97F4A7C15U) >> shift_) & mask_; }
  std::vector<Slot> slots_{1};
  size_t mask_ = 0;
  int shift_ = 63;
};

struct BpeModel {
  // What the files say.
  std::vector<std::string> tokens;      // bytes of id; "" for an id that no file names
  std::array<int32_t, 256> byte_ids{};  // of the single bytes; -1: none
  std::vector<uint8_t> literal;         // 1: a name that no text spells (a bare " "); shorter than tokens: 0
  std::vector<MergeRule> merges;        // in order of rank
  std::vector<AddedToken> added_tokens;
  PreTokenizer pre_tokenizer = PreTokenizer::gpt2;
  bool nfc = false;            // text is brought into Unicode's normal form C first
  bool prefix_space = false;   // a stretch of text that begins without a space gets one
  bool ignore_merges = false;  // a piece that is a token is emitted without merging
  SpecialTokens special;
  TokenizerFiles source;  // to be written back unchanged

  // What follows from it; made by finish().
  bool every_byte = true;  // none of them is -1
  PairTable pairs;
  std::vector<uint8_t> special_ids;                        // by id
  AddedTokenMatcher raw_tokens, normalized_tokens;         // of added_tokens, by index
  std::unordered_map<std::string_view, int32_t> by_bytes;  // only with ignore_merges
  std::string hash;

  bool is_literal(size_t id) const { return id < literal.size() && literal[id] != 0; }

  // Fills the derived tables. Error (naming `origin`) when a byte that UTF-8 uses has no token.
  void finish(std::string_view origin);

  // Whether every byte of `text` has an id.
  bool has_ids_for(std::string_view text) const;

  // Appends the ids of one pre-token, each of whose bytes has an id.
  void encode_piece(std::string_view piece, std::vector<int32_t>& ids) const;
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
