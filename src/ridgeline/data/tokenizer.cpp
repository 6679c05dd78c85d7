#include "ridgeline/data/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "ridgeline/base/error.h"
#include "ridgeline/data/bpe_model.h"
#include "ridgeline/data/tokenizer_files.h"
#include "ridgeline/data/unicode.h"

namespace ridgeline::data {

// Pieces seen before and their ids. Keys and ids lie in two growing stores; when those exceed the budget everything is
// forgotten, so that memory stays bounded on text whose words never repeat.
struct Encoder::Cache {
  struct Slot {
    uint64_t hash = 0;
    uint32_t key_begin = 0, ids_begin = 0;
    uint16_t key_length = 0;  // 0: free
    uint16_t ids_count = 0;
  };
  static constexpr size_t kLongestKey = 256;
  static constexpr size_t kMostEntries = size_t{1} << 19;

  std::vector<Slot> slots = std::vector<Slot>(1U << 12);
  std::string keys;
  std::vector<int32_t> ids;
  size_t entries = 0;

  static uint64_t hash_of(std::string_view key) {
    uint64_t hash = key.size() * 0x9E3779B97F4A7C15U;
    const char* p = key.data();
    size_t left = key.size();
    const auto mix = [&](uint64_t word) {
      hash = (hash ^ word) * 0xD6E8FEB86659FD93U;
      hash ^= hash >> 32;
    };
    for (; left >= 8; left -= 8, p += 8) {
      uint64_t word = 0;
      std::memcpy(&word, p, 8);
      mix(word);
    }
    uint64_t word = 0;
    std::memcpy(&word, p, left);
    mix(word);
    return hash;
  }

  // The slot of `key`, or the free slot where it belongs.
  Slot& find(std::string_view key, uint64_t hash) {
    const size_t mask = slots.size() - 1;
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
      Slot& slot = slots[i];
      if (slot.key_length == 0) return slot;
      if (slot.hash == hash && slot.key_length == key.size() &&
          std::memcmp(keys.data() + slot.key_begin, key.data(), key.size()) == 0) {
        return slot;
      }
    }
  }

  void insert(std::string_view key, uint64_t hash, std::span<const int32_t> value) {
    if (entries == kMostEntries) {
      std::fill(slots.begin(), slots.end(), Slot{});
      keys.clear();
      ids.clear();
      entries = 0;
    }
    if (entries * 2 >= slots.size()) {
      std::vector<Slot> old(slots.size() * 2);
      old.swap(slots);
      const size_t mask = slots.size() - 1;
      for (const Slot& slot : old) {
        if (slot.key_length == 0) continue;
        size_t i = slot.hash & mask;
        while (slots[i].key_length != 0) i = (i + 1) & mask;
        slots[i] = slot;
      }
    }
    find(key, hash) = {hash, static_cast<uint32_t>(keys.size()), static_cast<uint32_t>(ids.size()),
                       static_cast<uint16_t>(key.size()), static_cast<uint16_t>(value.size())};
    keys.append(key);
    ids.insert(ids.end(), value.begin(), value.end());
    ++entries;
  }
};

Encoder::Encoder(const Tokenizer& tokenizer) : model_(tokenizer.model_), cache_(std::make_unique<Cache>()) {}
Encoder::~Encoder() = default;
Encoder::Encoder(Encoder&&) noexcept = default;
Encoder& Encoder::operator=(Encoder&&) noexcept = default;

void Encoder::encode(std::string_view text, std::vector<int32_t>& ids, Specials specials) {
  const auto ordinary = [&](std::string_view stretch) {
    for_each_piece(model_->pre_tokenizer, stretch, [&](std::string_view piece) {
      if (piece.size() > Cache::kLongestKey) return model_->encode_piece(piece, ids);
      const uint64_t hash = Cache::hash_of(piece);
      const Cache::Slot& slot = cache_->find(piece, hash);
      if (slot.key_length != 0) {
        const int32_t* known = cache_->ids.data() + slot.ids_begin;
        ids.insert(ids.end(), known, known + slot.ids_count);
        return;
      }
      const size_t before = ids.size();
      model_->encode_piece(piece, ids);
      cache_->insert(piece, hash, std::span(ids).subspan(before));
    });
  };
  if (specials == Specials::recognise) {
    for (size_t i = 0; i < text.size();) {
      const AddedToken* token =
          model_->starts_added[static_cast<uint8_t>(text[i])] ? model_->added_at(text.substr(i)) : nullptr;
      if (token == nullptr) {
        ++i;
        continue;
      }
      ordinary(text.substr(0, i));
      ids.push_back(token->id);
      text.remove_prefix(i + token->content.size());
      i = 0;
    }
  }
  ordinary(text);
}

Tokenizer::Tokenizer(std::shared_ptr<const BpeModel> model) : model_(std::move(model)) {}

Tokenizer Tokenizer::from_json(std::string_view text, std::string_view name) {
  return Tokenizer(std::make_shared<const BpeModel>(parse_tokenizer_json(text, name)));
}

std::string Tokenizer::to_json() const {
  return tokenizer_json(*model_);
}

Tokenizer Tokenizer::load(const std::filesystem::path& folder) {
  return Tokenizer(std::make_shared<const BpeModel>(load_bpe_model(folder)));
}

Tokenizer Tokenizer::from_parts(const TokenizerParts& parts) {
  BpeModel model;
  model.tokens = parts.tokens;
  std::unordered_map<std::string, int32_t> ids;
  for (size_t id = 0; id < parts.tokens.size(); ++id) ids.emplace(parts.tokens[id], static_cast<int32_t>(id));
  for (const auto& [left, right] : parts.merges) {
    const auto known = [&](int32_t id) { return id >= 0 && static_cast<size_t>(id) < parts.tokens.size(); };
    const auto joined = known(left) && known(right) ? ids.find(parts.tokens[left] + parts.tokens[right]) : ids.end();
    if (joined == ids.end()) throw Error(fmt::format("tokenizer: merge of {} and {} gives no token", left, right));
    model.merges.push_back({left, right, joined->second});
  }
  const auto id = static_cast<int32_t>(model.tokens.size());
  model.tokens.push_back(parts.end_of_document);
  model.added_tokens.push_back({id, parts.end_of_document, true, true});
  model.end_of_document = id;
  model.finish("tokenizer");
  return Tokenizer(std::make_shared<const BpeModel>(std::move(model)));
}

void Tokenizer::save(const std::filesystem::path& folder, int64_t model_max_length) const {
  save_bpe_model(*model_, folder, model_max_length);
}

int32_t Tokenizer::vocab_size() const {
  return static_cast<int32_t>(model_->tokens.size());
}
std::optional<int32_t> Tokenizer::end_of_document() const {
  return model_->end_of_document;
}
const std::string& Tokenizer::hash() const {
  return model_->hash;
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, Specials specials) const {
  std::vector<int32_t> ids;
  Encoder(*this).encode(text, ids, specials);
  return ids;
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  if (id < 0 || id >= vocab_size()) {
    throw Error(fmt::format("token id {} is outside the tokenizer's vocabulary of {}", id, vocab_size()),
                "Use the tokenizer with which the tokens, or the model that made them, were prepared.");
  }
  return model_->tokens[id];
}

bool Tokenizer::is_added(int32_t id) const {
  token_bytes(id);
  return model_->added[id] != 0;
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  for (const int32_t id : ids) text += token_bytes(id);
  return text;
}

std::string StreamDecoder::push(int32_t id) {
  pending_ += tokenizer_.token_bytes(id);
  std::string out;
  size_t used = 0;
  while (used < pending_.size()) {
    const std::string_view rest = std::string_view(pending_).substr(used);
    const Utf8Char character = decode_utf8(rest);
    if (character.status == Utf8Char::Status::incomplete) break;
    out += character.status == Utf8Char::Status::valid ? rest.substr(0, character.length) : kReplacement;
    used += character.length;
  }
  pending_.erase(0, used);
  return out;
}

std::string StreamDecoder::finish() {
  return std::exchange(pending_, {}).empty() ? "" : std::string(kReplacement);
}

}  // namespace ridgeline::data
