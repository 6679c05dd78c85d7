#include "ridgeline/data/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "ridgeline/base/error.h"
#include "ridgeline/data/bpe_model.h"
#include "ridgeline/data/tokenizer_json.h"
#include "ridgeline/data/unicode.h"

namespace ridgeline::data {

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
    model.merges.push_back({left, right, joined->second, static_cast<uint32_t>(model.merges.size())});
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
  constexpr size_t kLong = size_t{1} << 16;  // words come again
  std::vector<int32_t> ids;
  if (text.size() >= kLong) ids.reserve(text.size() + 1);
  Encoder(*this, text.size() < kLong ? Encoder::Memory::none : Encoder::Memory::pieces).encode(text, ids, specials);
  return ids;
}

size_t Tokenizer::next_cut(std::string_view text, size_t from, Specials specials) const {
  const BpeModel& model = *model_;
  const bool raw = !model.raw_tokens.empty(specials), normalized = !model.normalized_tokens.empty(specials);
  // What looks at more than the pieces of a known expression.
  if (model.prefix_space != PrefixSpace::none || !model.cuts.empty() || model.pre_tokenizer == PreTokenizer::whole ||
      !model.normalizer.only_nfc() || !model.word_normalizer.empty() || (!model.normalizer.empty() && normalized) ||
      std::any_of(model.added_tokens.begin(), model.added_tokens.end(),
                  [](const auto& token) { return token.single_word; }))
    return text.size();
  size_t cut = data::next_cut(text, from);
  while (cut < text.size() &&
         ((raw && model.raw_tokens.touches(text, cut)) || (normalized && model.normalized_tokens.touches(text, cut)))) {
    cut = data::next_cut(text, cut + 1);
  }
  return cut;
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

std::vector<int64_t> Tokenizer::text_bytes_of_ids() const {
  std::vector<int64_t> bytes(static_cast<size_t>(vocab_size()));
  for (size_t id = 0; id < bytes.size(); ++id) {
    const auto token = static_cast<int32_t>(id);
    bytes[id] = is_special(token) ? 0 : static_cast<int64_t>(token_bytes(token).size());
  }
  return bytes;
}

bool Tokenizer::is_special(int32_t id) const {
  token_bytes(id);
  return model_->special_ids[id] != 0;
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  using Of = DecodeStart::Of;
  const Of of = model_->decode_start.of;
  size_t spaces = model_->decode_start.spaces;
  std::string text;
  for (size_t i = 0; i < ids.size(); ++i) {
    std::string_view bytes = token_bytes(ids[i]);
    if (text.empty() && spaces > 0 && (of != Of::first_token || i == 0)) {
      size_t leave = std::min({bytes.find_first_not_of(' '), bytes.size(), spaces});
      if (of == Of::each_token)
        leave = model_->is_literal(static_cast<size_t>(ids[i])) ? 0 : std::min<size_t>(leave, 1);
      bytes.remove_prefix(leave);
      spaces -= leave;
    }
    text += bytes;
  }
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
