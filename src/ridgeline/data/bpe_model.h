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
#include "ridgeline/data/piece_cache.h"
#include "ridgeline/data/pretokenize.h"
#include "ridgeline/data/tokenizer.h"
#include "ridgeline/data/tokenizer_files.h"

namespace ridgeline::data {

struct MergeRule {
  int32_t left, right, merged;
  uint32_t rank;  // the lowest is merged first; equal ones from left to right
};

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

// (left id, right id) -> the rule that merges them. Rules are numbered from the lowest rank on.
//
// What lookups cost is waiting for memory and branches that nobody can foresee: most pairs that are asked for do not
// merge. So a few bits for each rule, which stay near, tell for most of those that there is none; a slot holds a pair
// and the number of its rule in 64 bits; and four slots are compared without a branch.
class PairTable {
 public:
  struct Merge {
    uint32_t rank;
    int32_t merged;
  };
  static constexpr uint32_t kNone = UINT32_MAX;
  static constexpr int64_t kMostIds = (int64_t{1} << 21) - 1, kMostRules = int64_t{1} << 22;

  PairTable() { build({}); }
  // A later rule for the same pair replaces an earlier one, as in Hugging Face tokenizers. Of at most kMostRules, whose
  // ids are below kMostIds.
  void build(const std::vector<MergeRule>& merges);

  // Ids are below kMostIds. Rank kNone: they do not merge.
  Merge find(int32_t left, int32_t right) const {
    const uint32_t number = find_rule(left, right);
    if (number == kNone) return {kNone, -1};
    return {order_of(number), merged_by(number)};
  }

  // The number of the pair's rule; kNone when they do not merge.
  uint32_t find_rule(int32_t left, int32_t right) const { return find_rule_if(true, left, right); }
  // kNone where nothing is `there`, without a branch.
  uint32_t find_rule_if(bool there, int32_t left, int32_t right) const {
    const uint64_t pair = pair_of(left, right), slot = pair << kNumberBits;
    for (size_t bucket = bucket_of(pair, there);; bucket = (bucket + 1) & mask_) {
      const Bucket& of = buckets_[bucket];
      // Where the pair is the same, the number remains, and what is lower than in any other slot.
      const uint64_t lowest = lower(lower(of[0] ^ slot, of[1] ^ slot), lower(of[2] ^ slot, of[3] ^ slot));
      const bool other = lowest >> kNumberBits != 0;
      if (other & (of[3] != kFree)) [[unlikely]]
        continue;
      return static_cast<uint32_t>(lowest) | (uint32_t{0} - other);
    }
  }
  // The lower of two, without a branch: std::min, which takes references, is compiled with one here.
  static uint64_t lower(uint64_t a, uint64_t b) { return b ^ ((a ^ b) & (uint64_t{0} - (a < b))); }
  // What the rule makes of its pair; in most files without a look at memory.
  int32_t merged_by(uint32_t number) const {
    return merged_is_number_ ? static_cast<int32_t>(number) + first_merged_ : merged_[number];
  }
  // Has the processor fetch what find_rule() will look at.
  void prefetch(int32_t left, int32_t right) const {
    __builtin_prefetch(&buckets_[bucket_of(pair_of(left, right), true)]);
  }
  // The rank of a rule, or what orders them as their ranks do.
  uint32_t order_of(uint32_t number) const {
    if (ranks_.empty()) [[likely]]
      return number;
    return number == kNone ? kNone : ranks_[number];
  }

 private:
  using Bucket = std::array<uint64_t, 4>;  // filled from the first slot on; where all are taken, the next goes on
  static constexpr int kIdBits = 21, kNumberBits = 22;
  static constexpr uint64_t kFree = UINT64_MAX;  // of no pair: both of its ids would be kMostIds

  static uint64_t pair_of(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << kIdBits | static_cast<uint32_t>(right);
  }
  uint64_t& free_slot(uint64_t pair);
  static uint64_t hash_of(uint64_t pair) { return pair * 0x9E3779B97F4A7C15U; }
  // Where the pair's rule is if there is one; else that or a bucket that is always free. Without a branch.
  size_t bucket_of(uint64_t pair, bool there) const {
    const uint64_t hash = hash_of(pair), bit = hash >> filter_shift_;
    const bool may_be = (filter_[bit / 64] >> (bit % 64) & there) != 0;
    const size_t free = mask_ + 1;
    return free ^ ((free ^ hash >> shift_) & (uint64_t{0} - may_be));
  }

  std::vector<Bucket> buckets_;   // the last is the free one
  std::vector<uint64_t> filter_;  // a bit for each hash's first bits: whether any rule has them
  int filter_shift_ = 58;
  size_t mask_ = 1;
  int shift_ = 63;
  std::vector<uint32_t> ranks_;  // by number; empty where they order rules as their numbers do
  // By number; empty where it is the number and first_merged_ more: in GPT-2's files, and wherever tokens are in the
  // order of merges.
  std::vector<int32_t> merged_;
  bool merged_is_number_ = false;
  int32_t first_merged_ = 0;
};

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
