#include <cstring>
#include <limits>
#include <memory>
#include <utility>

#include "ridgeline/data/bpe_model.h"
#include "ridgeline/data/piece_cache.h"
#include "ridgeline/data/piece_hash.h"
#include "ridgeline/data/piece_lookup.h"
#include "ridgeline/data/piece_scanner.h"
#include "ridgeline/data/tokenizer.h"
#include "ridgeline/data/unicode.h"
#include "ridgeline/device/huge_pages.h"

namespace ridgeline::data {

// A text is encoded some hundred pieces at a time: first where they end, then their keys, whose places in the cache are
// fetched meanwhile, then their ids, which wait for the others before they are appended to the caller's. Most pieces
// are short and known: only the others leave the loops of LookupFunctions.
template <typename Id>
struct EncoderOf<Id>::State {
  // Bytes of a long piece that is looked up with the short ones; ids of those, and of longer ones, that may wait.
  static constexpr size_t kAmongShort = 64;
  static constexpr size_t kShortIds = PieceScanner::kMost * kAmongShort;
  static constexpr size_t kLongIds = 4096;

  // For that many words of a text no table has to grow: 2 MiB.
  static constexpr size_t kFirstPieces = size_t{1} << 14;

  // What is found is remembered here, unless nothing is.
  PieceCache<Id> known;
  bool remembers;
  const char* text_end = nullptr;
  const Id* in_huge_pages = nullptr;  // the caller's memory for which they were asked for
  const LookupFunctions<Id>& lookups = lookup_functions<Id>(device::isa());
  PieceScanner::Ends ends;
  std::array<PiecePlace, PieceScanner::kMost> places;
  std::array<uint32_t, PieceScanner::kMost> longs;
  // What the places of long pieces name: a slot and a free one.
  struct alignas(PieceSlots::kPair) Pair {
    std::array<typename PieceCache<Id>::Slot, 2> slots;
  };
  std::array<Pair, PieceScanner::kMost> long_pairs;
  std::array<Id, kLongIds + kShortIds> waiting;
  std::string prefixed;

  explicit State(Memory memory)
      : known(memory == Memory::pieces ? kFirstPieces : 0), remembers(memory == Memory::pieces) {}

  // The places of pieces `from` to `to`, the first of which begins at `begin`; has the processor fetch them.
  void fetch_places(std::string_view text, size_t begin, size_t from, size_t to);
  // Both write the ids of a piece of at most kLongestKeptPiece bytes to `to` and return how many. merge: that is not in
  // the cache; `hash` is of its key, or hash_piece().
  size_t find(const BpeModel& model, std::string_view piece, Id* to);
  // The same of a part of a piece, which is found by merges alone.
  size_t find_part(const BpeModel& model, std::string_view part, Id* to);
  size_t merge(const BpeModel& model, std::string_view piece, uint64_t hash, Id* to);
  // By merges alone.
  size_t merge_part(const BpeModel& model, std::string_view part, Id* to);
  void insert(std::string_view piece, uint64_t hash, std::span<const Id> ids);
};

template <typename Id>
void EncoderOf<Id>::State::fetch_places(std::string_view text, size_t begin, size_t from, size_t to) {
  const auto begin_of = [&](size_t piece) { return piece == from ? begin : size_t{ends[piece - 1]}; };
  const PieceTable<Id> table = known.table();
  // Behind the last few pieces of a text there are no 16 bytes to read.
  size_t readable = to;
  while (readable > from && text.size() - begin_of(readable - 1) < 16) --readable;
  const size_t long_ones = lookups.places(text.data(), begin, ends.data() + from, readable - from, table,
                                          places.data() + from, longs.data());
  const auto long_piece = [&](size_t i) {
    const size_t piece = from + longs[i], piece_begin = begin_of(piece);
    return text.substr(piece_begin, ends[piece] - piece_begin);
  };
  for (size_t i = 0; i < long_ones; ++i) {
    const std::string_view piece = long_piece(i);
    const uint64_t hash = piece.size() <= kLongestKeptPiece ? hash_piece(piece) : 0;
    places[from + longs[i]].key.low = hash;
    known.prefetch_long(hash);
  }
  for (size_t i = 0; i < long_ones; ++i) known.prefetch_entry(places[from + longs[i]].key.low);
  for (size_t i = 0; i < long_ones; ++i) {
    const std::string_view piece = long_piece(i);
    PiecePlace& place = places[from + longs[i]];
    Pair& pair = long_pairs[i];
    pair = {};
    if (piece.size() <= kAmongShort && known.slot_of_long(piece, place.key.low, pair.slots[0]))
      place.pair = reinterpret_cast<const char*>(&pair);
  }
  for (size_t i = readable; i < to; ++i) {
    const std::string_view piece = text.substr(begin_of(i), ends[i] - begin_of(i));
    places[i].key = key_of_piece(piece, text.data() + text.size());
    places[i].pair = table.pair_of(places[i].key);
  }
}

template <typename Id>
size_t EncoderOf<Id>::State::find(const BpeModel& model, std::string_view piece, Id* to) {
  size_t found = 0;
  uint64_t hash = 0;
  if (piece.size() <= kLongestPieceKey) {
    const PieceKey key = key_of_piece(piece, text_end);
    hash = hash_of_key(key);
    found = known.find(key, hash, to);
  } else {
    hash = hash_piece(piece);
    found = known.find_long(piece, hash, to);
  }
  return found != 0 ? found : merge(model, piece, hash, to);
}

template <typename Id>
size_t EncoderOf<Id>::State::find_part(const BpeModel& model, std::string_view part, Id* to) {
  // What is remembered of such a text is what a whole piece of it is.
  return model.unmerged_token(part) >= 0 ? merge_part(model, part, to) : find(model, part, to);
}

template <typename Id>
size_t EncoderOf<Id>::State::merge_part(const BpeModel& model, std::string_view part, Id* to) {
  std::array<int32_t, kLongestKeptPiece> ids;
  const size_t count = model.merge_piece(part, ids.data());
  for (size_t i = 0; i < count; ++i) to[i] = static_cast<Id>(ids[i]);
  return count;
}

template <typename Id>
size_t EncoderOf<Id>::State::merge(const BpeModel& model, std::string_view piece, uint64_t hash, Id* to) {
  size_t count = 0;
  if (const int32_t whole = model.unmerged_token(piece); whole >= 0) {
    to[count++] = static_cast<Id>(whole);
  } else {
    for (size_t begin = 0, end = 0; begin < piece.size(); begin = end) {
      end = model.part_end(piece, begin);
      if (end - begin < piece.size()) {
        count += find_part(model, piece.substr(begin, end - begin), to + count);
      } else {
        count = merge_part(model, piece, to);
      }
    }
  }
  if (remembers) insert(piece, hash, {to, count});
  return count;
}

template <typename Id>
void EncoderOf<Id>::State::insert(std::string_view piece, uint64_t hash, std::span<const Id> ids) {
  if (known.full()) known = PieceCache<Id>(kFirstPieces);
  if (piece.size() <= kLongestPieceKey) {
    known.insert(key_of_piece(piece, text_end), hash, ids);
  } else {
    known.insert_long(piece, hash, ids);
  }
}

template <typename Id>
EncoderOf<Id>::EncoderOf(const Tokenizer& tokenizer, Memory memory)
    : model_(tokenizer.model_), state_(new State(memory)) {
  // Every id there may be is one of an Id.
  RL_CHECK(std::ssize(model_->tokens) - 1, <=, int64_t{std::numeric_limits<Id>::max()});
}
template <typename Id>
EncoderOf<Id>::~EncoderOf() = default;
template <typename Id>
EncoderOf<Id>::EncoderOf(EncoderOf&&) noexcept = default;
template <typename Id>
EncoderOf<Id>& EncoderOf<Id>::operator=(EncoderOf&&) noexcept = default;

template <typename Id>
void EncoderOf<Id>::encode_words(std::string_view text, std::vector<Id>& ids) {
  const BpeModel& model = *model_;
  State& state = *state_;
  PieceScanner scanner(model.pre_tokenizer, text);
  Id* to = state.waiting.data();
  const auto flush = [&] {
    ids.insert(ids.end(), state.waiting.data(), to);
    to = state.waiting.data();
  };
  const auto room_for = [&](std::string_view piece) {
    if (static_cast<size_t>(to - state.waiting.data()) + piece.size() > State::kLongIds) flush();
  };
  // Of more bytes than may be kept: by its parts.
  const auto encode_longest = [&](std::string_view piece) {
    if (const int32_t whole = model.unmerged_token(piece); whole >= 0) {
      room_for(piece);
      *to++ = static_cast<Id>(whole);
      return;
    }
    for (size_t begin = 0, end = 0; begin < piece.size(); begin = end) {
      end = model.part_end(piece, begin);
      const std::string_view part = piece.substr(begin, end - begin);
      if (part.size() <= kLongestKeptPiece) {
        room_for(part);
        to += state.find_part(model, part, to);
      } else {
        flush();
        std::vector<int32_t> merged;
        model.merge_piece(part, merged);
        for (const int32_t id : merged) ids.push_back(static_cast<Id>(id));
      }
    }
  };
  state.text_end = text.data() + text.size();
  const PieceCache<Id>& known = state.known;
  // One that is not where its place says.
  const auto encode_further = [&](std::string_view piece, const PieceKey& key) {
    if (piece.size() <= kLongestPieceKey) {
      const uint64_t hash = hash_of_key(key);
      const size_t found = known.find(key, hash, to);
      to += found != 0 ? found : state.merge(model, piece, hash, to);
    } else if (piece.size() <= kLongestKeptPiece) {
      room_for(piece);
      const size_t found = known.find_long(piece, key.low, to);
      to += found != 0 ? found : state.merge(model, piece, key.low, to);
    } else {
      encode_longest(piece);
    }
  };
  while (const size_t count = scanner.next(state.ends)) {
    state.fetch_places(text, 0, 0, count);
    PieceTable<Id> table = known.table();
    // Where their ids will go, about.
    constexpr size_t kIdsOfLine = 64 / sizeof(Id);
    const size_t lines = std::min(2 * count, ids.capacity() - ids.size()) / kIdsOfLine;
    for (size_t i = 0; i < lines; ++i) __builtin_prefetch(ids.data() + ids.size() + kIdsOfLine * i, 1);
    for (size_t i = 0;; ++i) {
      i += state.lookups.ids(state.places.data() + i, count - i, table, to);
      if (i == count) break;
      const size_t begin = i != 0 ? state.ends[i - 1] : 0;
      encode_further(text.substr(begin, state.ends[i] - begin), state.places[i].key);
      // A piece that was new may have moved the others.
      const PieceTable<Id> now = known.table();
      if (now.pairs != table.pairs || now.shift != table.shift) state.fetch_places(text, state.ends[i], i + 1, count);
      table = now;
    }
    text.remove_prefix(state.ends[count - 1]);
    flush();
  }
}

template <typename Id>
void EncoderOf<Id>::encode_stretch(std::string_view text, bool begins, size_t cut, std::vector<Id>& ids) {
  if (cut < model_->cuts.size()) {
    model_->cuts[cut].for_each_part(
        text, [&](std::string_view part) { encode_stretch(part, begins && part.data() == text.data(), cut + 1, ids); });
    return;
  }
  const PrefixSpace prefix = model_->prefix_space;
  if (prefix == PrefixSpace::none || (prefix == PrefixSpace::first && !begins) || text.starts_with(' ')) {
    return encode_words(text, ids);
  }
  encode_words(state_->prefixed.assign(1, ' ').append(text), ids);
}

template <typename Id>
void EncoderOf<Id>::encode(std::string_view text, std::vector<Id>& ids, Specials specials) {
  // In small pages a fifth of the time of a first long text is page faults.
  constexpr size_t kWorthHugePages = size_t{4} << 20;
  const size_t room = (ids.capacity() - ids.size()) * sizeof(Id);
  if (room >= kWorthHugePages && std::exchange(state_->in_huge_pages, ids.data()) != ids.data())
    device::prefer_huge_pages(ids.data() + ids.size(), room);
  std::string repaired, normal, words_normal;
  if (!model_->every_byte && valid_utf8_prefix(text) != text.size() && !model_->has_ids_for(text)) {
    append_as_utf8(text, repaired);
    text = repaired;
  }
  const auto found = [&](const AddedToken& token) { ids.push_back(static_cast<Id>(token.id)); };
  split_at_added(
      model_->raw_tokens, model_->added_tokens, text, specials,
      [&](std::string_view stretch) {
        const std::string_view normalized = model_->normalizer.apply(stretch, normal);
        const auto words = [&](std::string_view part) {
          const bool begins = stretch.data() == text.data() && part.data() == normalized.data();
          encode_stretch(model_->word_normalizer.apply(part, words_normal), begins, 0, ids);
        };
        split_at_added(model_->normalized_tokens, model_->added_tokens, normalized, specials, words, found);
      },
      found);
}

template class EncoderOf<uint16_t>;
template class EncoderOf<int32_t>;

}  // namespace ridgeline::data
