#include "ridgeline/data/bpe_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <queue>
#include <utility>

#include "ridgeline/base/error.h"
#include "ridgeline/base/random.h"
#include "ridgeline/data/unicode.h"

namespace ridgeline::data {
namespace {

constexpr bool prints_itself(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Alphabet {
  std::array<uint32_t, 256> code{};
  std::array<int, 0x144> byte{};
  std::array<uint8_t, 256> order{};

  constexpr Alphabet() {
    for (auto& b : byte) b = -1;
    uint32_t next = 0x100;
    for (unsigned b = 0; b < 256; ++b) {
      code[b] = prints_itself(b) ? b : next++;
      byte[code[b]] = static_cast<int>(b);
    }
    size_t n = 0;
    for (const int b : byte) {
      if (b >= 0) order[n++] = static_cast<uint8_t>(b);
    }
  }
};
constexpr Alphabet kAlphabet;

// 0xC0 and 0xC1 would begin overlong forms, what follows 0xF4 code points past U+10FFFF.
constexpr bool never_in_utf8(uint8_t byte) {
  return byte == 0xC0 || byte == 0xC1 || byte > 0xF4;
}

void append_number(int64_t value, std::string& out) {
  for (int i = 0; i < 8; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
}

std::string hash_of(const BpeModel& model) {
  std::string text;
  append_number(static_cast<int64_t>(model.tokens.size()), text);
  for (const std::string& token : model.tokens) {
    append_number(static_cast<int64_t>(token.size()), text);
    text += token;
  }
  for (const MergeRule& merge : model.merges) {
    append_number(merge.left, text);
    append_number(merge.right, text);
    append_number(merge.merged, text);
  }
  std::vector<int32_t> added;
  for (const AddedToken& token : model.added_tokens) added.push_back(token.id);
  for (const int32_t id : added) append_number(id, text);
  append_number(static_cast<int64_t>(model.pre_tokenizer), text);
  append_number(model.ignore_merges ? 1 : 0, text);
  // Only what is not as in the simplest tokenizers, so that their hashes stay what they were in old datasets.
  for (const AddedToken& token : model.added_tokens) {
    const int options = (token.special ? 0 : 1) + (token.lstrip ? 2 : 0) + (token.rstrip ? 4 : 0) +
                        (token.special && token.normalized ? 8 : 0) + (!token.special && !token.normalized ? 16 : 0);
    if (options != 0) text += fmt::format("added {} {};", token.id, options);
  }
  for (size_t id = 0; id < model.literal.size(); ++id) {
    if (model.is_literal(id)) text += fmt::format("literal {};", id);
  }
  for (const AddedToken& token : model.added_tokens) {
    if (token.single_word) text += fmt::format("single_word {};", token.id);
    if (token.as_normalized) text += fmt::format("as_normalized {};", token.id);
  }
  text += model.normalizer.description();
  if (!model.word_normalizer.empty()) text += "words " + model.word_normalizer.description();
  for (const Cut& cut : model.cuts) {
    text += fmt::format("cut {} {} {};", static_cast<int>(cut.behavior), cut.inverted, cut.pattern.name());
  }
  if (model.prefix_space == PrefixSpace::each) text += "prefix_space;";
  if (model.prefix_space == PrefixSpace::first) text += "first prefix_space;";
  if (model.of_characters()) {
    text += fmt::format("characters {} {} {};", model.byte_ids[0], model.unknown, model.fuse_unknown);
    text += fmt::format("start {} {};", model.decode_start.spaces, static_cast<int>(model.decode_start.of));
    for (size_t i = 0; i < model.merges.size(); ++i) {
      if (model.merges[i].rank != i) append_number(model.merges[i].rank, text);
    }
  }
  return fmt::format("{:016x}", hash_name(text));
}

// Short pieces: look for the lowest rank, merge, repeat. Quadratic, and faster than anything else up to some dozens.
// Nothing moves: a symbol stays where it began, and a bit says whether it is still there.
template <size_t kMost>
class ShortPiece {
 public:
  // Of at most kMost bytes.
  ShortPiece(const BpeModel& model, std::string_view piece) : pairs_(model.pairs) {
    order_.fill(kNever);
    const size_t count = model.first_ids(piece, symbols_.data());
    there_ = ~uint64_t{0} >> (64 - count);
    if (model.of_characters()) {
      for (size_t i = 0; i + 1 < count; ++i) set_rule(i, pairs_.find_rule(symbols_[i], symbols_[i + 1]));
    } else {
      for (size_t i = 0; i + 1 < count; ++i) {
        const size_t left = static_cast<uint8_t>(piece[i]), right = static_cast<uint8_t>(piece[i + 1]);
        set_rule(i, model.byte_rules[left << 8 | right]);
      }
    }
    // What many of the merges will ask for: all at once, where one after another each would wait for memory.
    for (size_t i = 0; i + 1 < count; ++i) {
      if (rules_[i] == PairTable::kNone) continue;
      const int32_t id = pairs_.merged_by(rules_[i]);
      if (i > 0) pairs_.prefetch(symbols_[i - 1], id);
      if (i + 2 < count) pairs_.prefetch(id, symbols_[i + 2]);
    }
  }

  size_t merge_all(int32_t* ids) {
    for (uint64_t lowest = this->lowest(); lowest < kNever; lowest = this->lowest()) merge_at(lowest % kPlaces);
    size_t count = 0;
    for (uint64_t rest = there_; rest != 0; rest &= rest - 1) ids[count++] = symbols_[std::countr_zero(rest)];
    return count;
  }

 private:
  static constexpr size_t kPlaces = 64;
  static_assert(kMost % 4 == 0 && kMost <= kPlaces);
  static constexpr uint64_t kNever = uint64_t{PairTable::kNone} * kPlaces;

  void set_rule(size_t place, uint32_t number) {
    order_[place] = pairs_.order_of(number) * uint64_t{kPlaces} + place;
    rules_[place] = number;
  }

  // Of order_: in four chains, which do not wait for each other.
  uint64_t lowest() const {
    uint64_t a = order_[0], b = order_[1], c = order_[2], d = order_[3];
    for (size_t i = 4; i < kMost; i += 4) {
      a = std::min(a, order_[i]);
      b = std::min(b, order_[i + 1]);
      c = std::min(c, order_[i + 2]);
      d = std::min(d, order_[i + 3]);
    }
    return std::min(std::min(a, b), std::min(c, d));
  }

  void merge_at(size_t place) {
    const uint64_t after = there_ & ~uint64_t{1} << place, behind = after & (after - 1);
    const size_t next = static_cast<size_t>(std::countr_zero(after));
    const int32_t id = pairs_.merged_by(rules_[place]);
    symbols_[place] = id;
    order_[next] = kNever;
    there_ &= ~(uint64_t{1} << next);
    const uint64_t before = there_ & ((uint64_t{1} << place) - 1);
    const size_t last = static_cast<size_t>(std::countr_zero(behind | uint64_t{1} << 63));
    const size_t first = static_cast<size_t>(63 - std::countl_zero(before | 1));
    const uint32_t with_last = pairs_.find_rule_if(behind != 0, id, symbols_[last % kMost]);
    const uint32_t with_first = pairs_.find_rule_if(before != 0, symbols_[first], id);
    // Before the first symbol, at 0, there is none: what is set for it there is overwritten.
    set_rule(first, with_first);
    set_rule(place, with_last);
  }

  const PairTable& pairs_;
  uint64_t there_;  // a bit per symbol
  // By the symbol's place: the order of its rule with the next one, then the place, so that the leftmost of several is
  // the lowest (from kNever on: none); and the number of that rule.
  std::array<uint64_t, kMost> order_;
  std::array<int32_t, kMost> symbols_;
  std::array<uint32_t, kMost> rules_;
};

// Long pieces: a heap of candidate merges over a linked list, O(n log n).
size_t merge_long(const BpeModel& model, std::string_view piece, int32_t* ids) {
  struct Symbol {
    int32_t id;
    int64_t previous, next;  // -1: none
  };
  struct Candidate {
    uint32_t rank;
    int64_t place;
    int32_t left, right;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : place > other.place;
    }
  };
  std::vector<int32_t> start(piece.size());
  const auto count = static_cast<int64_t>(model.first_ids(piece, start.data()));
  std::vector<Symbol> symbols(static_cast<size_t>(count));
  std::vector<Candidate> first;
  const auto candidate = [&](int64_t i) -> std::optional<Candidate> {
    if (i < 0 || symbols[i].next < 0) return std::nullopt;
    const int32_t left = symbols[i].id, right = symbols[symbols[i].next].id;
    const uint32_t rank = model.pairs.find(left, right).rank;
    if (rank == PairTable::kNone) return std::nullopt;
    return Candidate{rank, i, left, right};
  };
  for (int64_t i = 0; i < count; ++i) {
    symbols[i] = {start[i], i - 1, i + 1 < count ? i + 1 : -1};
  }
  for (int64_t i = 0; i < count; ++i) {
    if (const auto c = candidate(i)) first.push_back(*c);
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> heap(std::greater<>{}, std::move(first));
  while (!heap.empty()) {
    const Candidate best = heap.top();
    heap.pop();
    Symbol& left = symbols[best.place];
    // Stale when either side has changed since; a swallowed symbol has id -1.
    if (left.id != best.left || left.next < 0 || symbols[left.next].id != best.right) continue;
    Symbol& right = symbols[left.next];
    left.id = model.pairs.find(best.left, best.right).merged;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) symbols[left.next].previous = best.place;
    if (const auto c = candidate(left.previous)) heap.push(*c);
    if (const auto c = candidate(best.place)) heap.push(*c);
  }
  size_t written = 0;
  for (int64_t i = 0; i >= 0; i = symbols[i].next) ids[written++] = symbols[i].id;
  return written;
}

}  // namespace

uint32_t printable_of(uint8_t byte) {
  return kAlphabet.code[byte];
}

int byte_of_printable(uint32_t code) {
  return code < kAlphabet.byte.size() ? kAlphabet.byte[code] : -1;
}

const std::array<uint8_t, 256>& bytes_in_printable_order() {
  return kAlphabet.order;
}

std::string to_printable(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) append_utf8(printable_of(static_cast<uint8_t>(c)), out);
  return out;
}

std::optional<std::string> from_printable(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const Utf8Char c = decode_utf8(text);
    const int byte = c.status == Utf8Char::Status::valid ? byte_of_printable(c.code) : -1;
    if (byte < 0) return std::nullopt;
    out.push_back(static_cast<char>(byte));
    text.remove_prefix(c.length);
  }
  return out;
}

std::string BpeModel::name_of(int32_t id) const {
  const auto place = static_cast<size_t>(id);
  if (of_characters()) return place < names.size() ? names[place] : tokens[place];
  return is_literal(place) ? tokens[place] : to_printable(tokens[place]);
}

void BpeModel::finish(std::string_view origin) {
  std::sort(added_tokens.begin(), added_tokens.end(),
            [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  std::vector<uint8_t> added(tokens.size(), 0);
  special_ids.assign(tokens.size(), 0);
  for (size_t i = 0; i < added_tokens.size(); ++i) {
    const AddedToken& token = added_tokens[i];
    added[token.id] = 1;
    special_ids[token.id] = token.special ? 1 : 0;
    if (token.normalized) {
      std::string buffer;
      const std::string_view content =
          token.as_normalized ? std::string_view(token.content) : normalizer.apply(token.content, buffer);
      if (content.empty()) {
        throw Error(
            fmt::format("{}: nothing is left of the added token '{}' in the normal form", origin, token.content),
            "Give it \"normalized\": false.");
      }
      normalized_tokens.add(token, content, i);
      // As Hugging Face tokenizers decode it: "[TAG]" with the space that the normalizer puts before it.
      if (of_characters()) tokens[token.id] = content;
    } else {
      raw_tokens.add(token, token.content, i);
    }
  }
  for (size_t byte = 0; byte < 256; ++byte) {
    if (byte_ids[byte] >= 0) continue;
    every_byte = false;
    if (of_characters()) continue;
    if (never_in_utf8(static_cast<uint8_t>(byte))) continue;
    throw UnsupportedTokenizer(
        fmt::format("{}: the vocabulary has no token for the single byte 0x{:02x}", origin, byte),
        "Characters with it would be left away: only byte-level BPE vocabularies that can write any text are "
        "supported.");
  }
  if (std::ssize(tokens) > PairTable::kMostIds || std::ssize(merges) > PairTable::kMostRules) {
    throw Error(fmt::format("{}: {} tokens and {} merges", origin, tokens.size(), merges.size()),
                fmt::format("At most {} and {} are supported.", PairTable::kMostIds, PairTable::kMostRules));
  }
  pairs.build(merges, std::ssize(tokens));
  if (!of_characters()) {
    byte_rules.resize(256 * 256);
    for (size_t i = 0; i < byte_rules.size(); ++i) byte_rules[i] = pairs.find_rule(byte_ids[i >> 8], byte_ids[i & 255]);
  }
  if (ignore_merges) find_unmerged(added);
  find_joins();
  hash = hash_of(*this);
}

void BpeModel::find_unmerged(const std::vector<uint8_t>& added) {
  std::vector<int32_t> ids;
  for (size_t place = 0; place < tokens.size(); ++place) {
    const std::string& token = tokens[place];
    if (added[place] != 0 || token.empty() || is_literal(place) || !has_ids_for(token)) continue;
    const auto id = static_cast<int32_t>(place);
    ids.resize(token.size());
    if (merge_piece(token, ids.data()) != 1 || ids.front() != id) unmerged.emplace(token, id);
  }
}

void BpeModel::find_joins() {
  // The bytes with which what a symbol stands for begins and ends; -1: no text leads to it.
  struct Edges {
    int first = -1, last = -1;
    bool operator==(const Edges&) const = default;
  };
  joins_.fill(0);
  std::vector<Edges> edges(tokens.size());
  const auto set = [&](int32_t id, Edges value) { return std::exchange(edges[id], value) != value; };
  for (int byte = 0; byte < 256; ++byte) {
    if (byte_ids[byte] >= 0) set(byte_ids[byte], {byte, byte});
  }
  for (const auto& [code, id] : character_ids) {
    std::string bytes;
    append_utf8(code, bytes);
    set(id, {static_cast<uint8_t>(bytes.front()), static_cast<uint8_t>(bytes.back())});
  }
  if (of_characters()) join_characters();
  // Files may give a merge before those that its sides come from.
  for (bool changed = true; changed;) {
    changed = false;
    for (const MergeRule& merge : merges) {
      const Edges left = edges[merge.left], right = edges[merge.right];
      if (left.first < 0 || right.first < 0) continue;
      changed |= set(merge.merged, {left.first, right.last});
      join(static_cast<uint8_t>(left.last), static_cast<uint8_t>(right.first));
    }
  }
}

// What holds beside merges where pieces begin as characters: none is cut in two, nor are two unknown ones that become
// one id.
void BpeModel::join_characters() {
  for (size_t last = 0; last < 256; ++last) {
    for (size_t first = 0x80; first < 0xC0; ++first) join(static_cast<uint8_t>(last), static_cast<uint8_t>(first));
  }
  if (every_byte) return;
  const auto may_be_unknown = [&](size_t byte) {
    return byte >= 0x80 || !character_ids.contains(static_cast<uint32_t>(byte));
  };
  for (size_t last = 0; last < 256; ++last) {
    for (size_t first = 0; first < 256; ++first) {
      if (may_be_unknown(last) && may_be_unknown(first)) join(static_cast<uint8_t>(last), static_cast<uint8_t>(first));
    }
  }
}

bool BpeModel::has_ids_for(std::string_view text) const {
  return std::all_of(text.begin(), text.end(), [&](char c) { return byte_ids[static_cast<uint8_t>(c)] >= 0; });
}

size_t BpeModel::first_ids(std::string_view piece, int32_t* ids) const {
  if (!of_characters()) {
    for (size_t i = 0; i < piece.size(); ++i) ids[i] = byte_ids[static_cast<uint8_t>(piece[i])];
    return piece.size();
  }
  size_t count = 0;
  bool after_unknown = false;
  while (!piece.empty()) {
    const Utf8Char character = decode_utf8(piece);
    const auto found =
        character.status == Utf8Char::Status::valid ? character_ids.find(character.code) : character_ids.end();
    const bool is_unknown = found == character_ids.end() && !every_byte;
    if (found != character_ids.end()) {
      ids[count++] = found->second;
    } else if (every_byte) {
      for (size_t i = 0; i < character.length; ++i) ids[count++] = byte_ids[static_cast<uint8_t>(piece[i])];
    } else if (!after_unknown || !fuse_unknown) {
      ids[count++] = unknown;
    }
    after_unknown = is_unknown;
    piece.remove_prefix(character.length);
  }
  return count;
}

size_t BpeModel::merge_piece(std::string_view piece, int32_t* ids) const {
  if (piece.size() <= 16) return ShortPiece<16>(*this, piece).merge_all(ids);
  if (piece.size() <= 32) return ShortPiece<32>(*this, piece).merge_all(ids);
  if (piece.size() <= 64) return ShortPiece<64>(*this, piece).merge_all(ids);
  return merge_long(*this, piece, ids);
}

void BpeModel::merge_piece(std::string_view piece, std::vector<int32_t>& ids) const {
  const size_t before = ids.size();
  ids.resize(before + piece.size());
  ids.resize(before + merge_piece(piece, ids.data() + before));
}

}  // namespace ridgeline::data
