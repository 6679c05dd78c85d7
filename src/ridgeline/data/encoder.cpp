#include <cstring>
#include <memory>
#include <optional>

#include "ridgeline/data/bpe_model.h"
#include "ridgeline/data/piece_cache.h"
#include "ridgeline/data/piece_hash.h"
#include "ridgeline/data/piece_scanner.h"
#include "ridgeline/data/tokenizer.h"
#include "ridgeline/data/unicode.h"

namespace ridgeline::data {

// A text is encoded some hundred pieces at a time: first where they end, then their keys, whose places in the cache are
// fetched meanwhile, then their ids, which wait for the others before they are appended to the caller's.
struct Encoder::State {
  // Where a piece is in the cache, if it is there.
  struct Place {
    PieceCache::Key key;  // of length 0: a long piece
    uint64_t hash = 0;
  };
  // Ids of long pieces that may wait, beside those of the short ones.
  static constexpr size_t kLongIds = 4096;
  static constexpr size_t kShortIds = PieceScanner::kMost * PieceCache::kRoom;

  // What is found and not known yet; null: the model's vocabulary alone, and nothing is remembered.
  std::optional<PieceCache> cache;
  const char* text_end = nullptr;
  PieceScanner::Ends ends;
  std::array<Place, PieceScanner::kMost> places;
  std::array<int32_t, kLongIds + kShortIds> waiting;
  std::string prefixed;

  // The places of the next `count` pieces; has the processor fetch them.
  void fetch_places(const char* begin_of_text, size_t begin, size_t count, const PieceCache& from);
  // Both write the ids of a piece of at most kLongestPiece bytes to `to` and return how many. merge: that is not in the
  // cache.
  size_t find(const BpeModel& model, std::string_view piece, int32_t* to);
  size_t merge(const BpeModel& model, std::string_view piece, const Place& place, int32_t* to);
  void insert(const BpeModel& model, std::string_view piece, const Place& place, std::span<const int32_t> ids);

  const PieceCache& known(const BpeModel& model) const { return cache ? *cache : model.vocabulary; }
};

void Encoder::State::fetch_places(const char* begin_of_text, size_t begin, size_t count, const PieceCache& from) {
  for (size_t i = 0; i < count; begin = ends[i++]) {
    const std::string_view piece(begin_of_text + begin, ends[i] - begin);
    if (piece.size() > PieceCache::kLongestKey) [[unlikely]] {
      places[i] = {{}, piece.size() <= PieceCache::kLongestPiece ? hash_piece(piece) : 0};
      from.prefetch_long(places[i].hash);
      continue;
    }
    const PieceCache::Key key = PieceCache::key_of(piece, text_end);
    const uint64_t hash = PieceCache::hash_of(key);
    from.prefetch(hash);
    places[i] = {key, hash};
  }
}

size_t Encoder::State::find(const BpeModel& model, std::string_view piece, int32_t* to) {
  Place place;
  size_t found = 0;
  if (piece.size() <= PieceCache::kLongestKey) {
    place.key = PieceCache::key_of(piece, text_end);
    place.hash = PieceCache::hash_of(place.key);
    found = known(model).find(place.key, place.hash, to);
  } else {
    place.hash = hash_piece(piece);
    found = known(model).find_long(piece, place.hash, to);
  }
  return found != 0 ? found : merge(model, piece, place, to);
}

size_t Encoder::State::merge(const BpeModel& model, std::string_view piece, const Place& place, int32_t* to) {
  size_t count = 0;
  for (size_t begin = 0, end = 0; begin < piece.size(); begin = end) {
    end = model.part_end(piece, begin);
    if (end - begin < piece.size()) {
      count += find(model, piece.substr(begin, end - begin), to + count);
    } else {
      count = model.encode_piece(piece, to);
    }
  }
  if (cache) insert(model, piece, place, {to, count});
  return count;
}

void Encoder::State::insert(const BpeModel& model, std::string_view piece, const Place& place,
                            std::span<const int32_t> ids) {
  if (cache->full()) *cache = model.vocabulary;
  if (piece.size() <= PieceCache::kLongestKey) {
    cache->insert(place.key, place.hash, ids);
  } else {
    cache->insert_long(piece, place.hash, ids);
  }
}

Encoder::Encoder(const Tokenizer& tokenizer, Memory memory)
    : model_(tokenizer.model_), state_(std::make_unique_for_overwrite<State>()) {
  if (memory == Memory::pieces) state_->cache.emplace(model_->vocabulary);
}
Encoder::~Encoder() = default;
Encoder::Encoder(Encoder&&) noexcept = default;
Encoder& Encoder::operator=(Encoder&&) noexcept = default;

void Encoder::encode_words(std::string_view text, std::vector<int32_t>& ids) {
  const BpeModel& model = *model_;
  State& state = *state_;
  PieceScanner scanner(model.pre_tokenizer, text);
  int32_t* to = state.waiting.data();
  const auto flush = [&] {
    ids.insert(ids.end(), state.waiting.data(), to);
    to = state.waiting.data();
  };
  const auto room_for = [&](std::string_view piece) {
    if (static_cast<size_t>(to - state.waiting.data()) + piece.size() > State::kLongIds) flush();
  };
  // Of more bytes than may be kept: by its parts.
  const auto encode_longest = [&](std::string_view piece) {
    for (size_t begin = 0, end = 0; begin < piece.size(); begin = end) {
      end = model.part_end(piece, begin);
      const std::string_view part = piece.substr(begin, end - begin);
      if (part.size() <= PieceCache::kLongestPiece) {
        room_for(part);
        to += state.find(model, part, to);
      } else {
        flush();
        model.encode_piece(part, ids);
      }
    }
  };
  state.text_end = text.data() + text.size();
  size_t begin = 0;
  while (const size_t count = scanner.next(state.ends)) {
    const PieceCache& known = state.known(model);
    state.fetch_places(text.data(), begin, count, known);
    for (size_t i = 0; i < count; begin = state.ends[i++]) {
      const State::Place& place = state.places[i];
      const std::string_view piece(text.data() + begin, state.ends[i] - begin);
      if (place.key.high != 0) [[likely]] {
        const size_t found = known.find(place.key, place.hash, to);
        to += found != 0 ? found : state.merge(model, piece, place, to);
      } else if (piece.size() <= PieceCache::kLongestPiece) {
        room_for(piece);
        const size_t found = known.find_long(piece, place.hash, to);
        to += found != 0 ? found : state.merge(model, piece, place, to);
      } else {
        encode_longest(piece);
      }
    }
    flush();
  }
}

void Encoder::encode_stretch(std::string_view text, bool begins, size_t cut, std::vector<int32_t>& ids) {
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

void Encoder::encode(std::string_view text, std::vector<int32_t>& ids, Specials specials) {
  std::string repaired, normal, words_normal;
  if (!model_->every_byte && valid_utf8_prefix(text) != text.size() && !model_->has_ids_for(text)) {
    append_as_utf8(text, repaired);
    text = repaired;
  }
  const auto found = [&](const AddedToken& token) { ids.push_back(token.id); };
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

}  // namespace ridgeline::data
