#include "ridgeline/data/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "ridgeline/base/error.h"
#include "ridgeline/data/bpe_model.h"
#include "ridgeline/data/normalize.h"
#include "ridgeline/data/piece_hash.h"
#include "ridgeline/data/tokenizer_json.h"
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

void Encoder::encode_words(std::string_view text, std::vector<int32_t>& ids) {
  for_each_piece(model_->pre_tokenizer, text, [&](std::string_view piece) {
    if (piece.size() > Cache::kLongestKey) return model_->encode_piece(piece, ids);
    const uint64_t hash = hash_piece(piece);
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
}

void Encoder::encode(std::string_view text, std::vector<int32_t>& ids, Specials specials) {
  std::string repaired, normal, prefixed;
  if (!model_->every_byte && valid_utf8_prefix(text) != text.size() && !model_->has_ids_for(text)) {
    append_as_utf8(text, repaired);
    text = repaired;
  }
  const auto found = [&](const AddedToken& token) { ids.push_back(token.id); };
  const auto words = [&](std::string_view stretch) {
    if (model_->prefix_space && !stretch.starts_with(' ')) {
      prefixed.assign(1, ' ').append(stretch);
      stretch = prefixed;
    }
    encode_words(stretch, ids);
  };
  split_at_added(
      model_->raw_tokens, model_->added_tokens, text, specials,
      [&](std::string_view stretch) {
        split_at_added(model_->normalized_tokens, model_->added_tokens, model_->nfc ? to_nfc(stretch, normal) : stretch,
                       specials, words, found);
      },
      found);
}

Tokenizer::Tokenizer(std::shared_ptr<const BpeModel> model) : model_(std::move(model)) {}

Tokenizer Tokenizer::from_files(const TokenizerFiles& files, const std::filesystem::path& where) {
  return Tokenizer(std::make_shared<const BpeModel>(read_bpe_model(files, where)));
}

Tokenizer Tokenizer::from_json(std::string_view text, std::string_view where) {
  TokenizerFiles files;
  files.set("tokenizer.json", std::string(text));
  return from_files(files, where);
}

std::string Tokenizer::to_json() const {
  return tokenizer_json(*model_);
}

Tokenizer Tokenizer::load(const std::filesystem::path& folder) {
  const bool is_file = std::filesystem::is_regular_file(folder);
  return from_files(TokenizerFiles::read(folder), is_file ? folder.parent_path() : folder);
}

Tokenizer Tokenizer::from_parts(const TokenizerParts& parts) {
  BpeModel model;
  model.tokens = parts.tokens;
  model.byte_ids.fill(-1);
  for (size_t i = 0; i < parts.tokens.size(); ++i) {
    if (parts.tokens[i].size() == 1) model.byte_ids[static_cast<uint8_t>(parts.tokens[i][0])] = static_cast<int32_t>(i);
  }
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
  model.added_tokens.push_back({.id = id, .content = parts.end_of_document});
  model.special = {.end_of_document = id, .bos = id, .stop = {id}};
  model.finish("tokenizer");
  return Tokenizer(std::make_shared<const BpeModel>(std::move(model)));
}

TokenizerFiles Tokenizer::files(int64_t model_max_length) const {
  return files_of(*model_, model_max_length);
}

void Tokenizer::save(const std::filesystem::path& folder, int64_t model_max_length) const {
  files(model_max_length).write(folder);
}

int32_t Tokenizer::vocab_size() const {
  return static_cast<int32_t>(model_->tokens.size());
}
const SpecialTokens& Tokenizer::special() const {
  return model_->special;
}
const std::string& Tokenizer::hash() const {
  return model_->hash;
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, Specials specials) const {
  std::vector<int32_t> ids;
  Encoder(*this).encode(text, ids, specials);
  return ids;
}

std::vector<int32_t> Tokenizer::encode_prompt(std::string_view text) const {
  const std::vector<int32_t>& before = special().before_text;
  std::vector<int32_t> ids = encode(text, Specials::recognise);
  const bool there = ids.size() >= before.size() && std::equal(before.begin(), before.end(), ids.begin());
  if (!there) ids.insert(ids.begin(), before.begin(), before.end());
  return ids;
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  if (id < 0 || id >= vocab_size()) {
    throw Error(fmt::format("token id {} is outside the tokenizer's vocabulary of {}", id, vocab_size()),
                "Use the tokenizer with which the tokens, or the model that made them, were prepared.");
  }
  return model_->tokens[id];
}

bool Tokenizer::is_special(int32_t id) const {
  token_bytes(id);
  return model_->special_ids[id] != 0;
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
