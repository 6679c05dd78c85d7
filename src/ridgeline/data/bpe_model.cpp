#include "ridgeline/data/bpe_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <queue>

#include "ridgeline/base/error.h"
#include "ridgeline/base/random.h"
#include "ridgeline/data/normalize.h"
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
  if (model.nfc) text += "nfc;";
  if (model.prefix_space) text += "prefix_space;";
  return fmt::format("{:016x}", hash_name(text));
}

// Short pieces: scan for the lowest rank, merge, repeat. Quadratic, and faster than anything else up to some dozens.
void merge_short(const BpeModel& model, std::string_view piece, std::vector<int32_t>& ids) {
  constexpr size_t kMost = 64;
  std::array<int32_t, kMost> symbol;
  std::array<PairTable::Merge, kMost> merge;  // of symbol i with symbol i+1
  size_t count = piece.size();
  for (size_t i = 0; i < count; ++i) symbol[i] = model.byte_ids[static_cast<uint8_t>(piece[i])];
  for (size_t i = 0; i + 1 < count; ++i) merge[i] = model.pairs.find(symbol[i], symbol[i + 1]);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (merge[i].rank < merge[best].rank) best = i;
    }
    if (merge[best].rank == PairTable::kNone) break;
    symbol[best] = merge[best].merged;
    --count;
    for (size_t i = best + 1; i < count; ++i) {
      symbol[i] = symbol[i + 1];
      merge[i - 1] = merge[i];
    }
    if (best > 0) merge[best - 1] = model.pairs.find(symbol[best - 1], symbol[best]);
    if (best + 1 < count) merge[best] = model.pairs.find(symbol[best], symbol[best + 1]);
  }
  ids.insert(ids.end(), symbol.begin(), symbol.begin() + static_cast<std::ptrdiff_t>(count));
}

// Long pieces: a heap of candidate merges over a linked list, O(n log n).
void merge_long(const BpeModel& model, std::string_view piece, std::vector<int32_t>& ids) {
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
  const auto count = static_cast<int64_t>(piece.size());
  std::vector<Symbol> symbols(piece.size());
  std::vector<Candidate> first;
  const auto candidate = [&](int64_t i) -> std::optional<Candidate> {
    if (i < 0 || symbols[i].next < 0) return std::nullopt;
    const int32_t left = symbols[i].id, right = symbols[symbols[i].next].id;
    const uint32_t rank = model.pairs.find(left, right).rank;
    if (rank == PairTable::kNone) return std::nullopt;
    return Candidate{rank, i, left, right};
  };
  for (int64_t i = 0; i < count; ++i) {
    symbols[i] = {model.byte_ids[static_cast<uint8_t>(piece[i])], i - 1, i + 1 < count ? i + 1 : -1};
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
  for (int64_t i = 0; i >= 0; i = symbols[i].next) ids.push_back(symbols[i].id);
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

void PairTable::build(const std::vector<MergeRule>& merges) {
  const size_t size = std::bit_ceil(std::max<size_t>(2, merges.size() * 2 + 1));
  slots_.assign(size, Slot{});
  mask_ = size - 1;
  shift_ = 64 - std::countr_zero(size);
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const uint64_t key = key_of(merges[rank].left, merges[rank].right);
    size_t i = slot_of(key);
    while (slots_[i].key != key && slots_[i].key != kEmpty) i = (i + 1) & mask_;
    slots_[i] = {key, {static_cast<uint32_t>(rank), merges[rank].merged}};
  }
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
      normalized_tokens.add(nfc ? to_nfc(token.content) : token.content, i);
    } else {
      raw_tokens.add(token.content, i);
    }
  }
  for (size_t byte = 0; byte < 256; ++byte) {
    if (byte_ids[byte] >= 0) continue;
    every_byte = false;
    if (never_in_utf8(static_cast<uint8_t>(byte))) continue;
    throw Error(fmt::format("{}: the vocabulary has no token for the single byte 0x{:02x}", origin, byte),
                "Only byte-level BPE vocabularies, which can write any text, are supported.");
  }
  pairs.build(merges);
  if (ignore_merges) {
    for (size_t id = 0; id < tokens.size(); ++id) {
      if (added[id] == 0 && !tokens[id].empty() && !is_literal(id))
        by_bytes.emplace(tokens[id], static_cast<int32_t>(id));
    }
  }
  hash = hash_of(*this);
}

bool BpeModel::has_ids_for(std::string_view text) const {
  return std::all_of(text.begin(), text.end(), [&](char c) { return byte_ids[static_cast<uint8_t>(c)] >= 0; });
}

void BpeModel::encode_piece(std::string_view piece, std::vector<int32_t>& ids) const {
  if (ignore_merges) {
    if (const auto found = by_bytes.find(piece); found != by_bytes.end()) {
      ids.push_back(found->second);
      return;
    }
  }
  if (piece.size() <= 64) return merge_short(*this, piece, ids);
  merge_long(*this, piece, ids);
}

}  // namespace ridgeline::data
