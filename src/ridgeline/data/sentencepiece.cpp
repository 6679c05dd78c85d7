#include "ridgeline/data/sentencepiece.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>

#include "ridgeline/base/error.h"
#include "ridgeline/base/random.h"
#include "ridgeline/data/sentencepiece_normalizer.h"
#include "ridgeline/data/tokenizer_json.h"
#include "ridgeline/data/unicode.h"

namespace ridgeline::data {
namespace {

[[noreturn]] void damaged(std::string_view where, std::string_view what) {
  throw Error(fmt::format("{}: {}", where, what), "Get the file again: it is no whole SentencePiece model.");
}

// The fields of a message, one after another. Source: protocol buffers' wire format.
class Fields {
 public:
  Fields(std::string_view bytes, std::string_view where) : rest_(bytes), where_(where) {}

  bool next() {
    if (rest_.empty()) return false;
    const uint64_t tag = varint();
    number_ = tag >> 3, type_ = tag & 7;
    bytes_ = {};
    switch (type_) {
      case 0:
        value_ = varint();
        break;
      case 1:
        bytes_ = take(8);
        break;
      case 2:
        bytes_ = take(varint());
        break;
      case 5:
        bytes_ = take(4);
        break;
      default:
        damaged(where_, fmt::format("a field of wire type {}", type_));
    }
    return true;
  }

  uint64_t number() const { return number_; }
  // Of the field; Error when it is of another type.
  std::string_view bytes() const {
    require(2);
    return bytes_;
  }
  bool flag() const { return integer() != 0; }
  int64_t integer() const {
    require(0);
    return static_cast<int64_t>(value_);
  }
  float number_32() const {
    require(5);
    uint32_t bits = 0;
    for (size_t i = 0; i < 4; ++i) bits |= uint32_t{static_cast<uint8_t>(bytes_[i])} << (8 * i);
    return std::bit_cast<float>(bits);
  }

 private:
  void require(uint64_t type) const {
    if (type_ != type) damaged(where_, fmt::format("field {} has wire type {} instead of {}", number_, type_, type));
  }
  std::string_view take(uint64_t size) {
    if (size > rest_.size()) damaged(where_, "a field goes on behind the end of the file");
    const std::string_view bytes = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return bytes;
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<uint8_t>(take(1)[0]);
      value |= uint64_t{byte & 0x7FU} << shift;
      if (byte < 0x80) return value;
    }
    damaged(where_, "a number of more than 64 bits");
  }

  std::string_view rest_, where_;
  uint64_t number_ = 0, type_ = 0, value_ = 0;
  std::string_view bytes_;
};

enum class PieceType : int64_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

struct ModelPiece {
  std::string_view text;
  float score = 0;
  PieceType type = PieceType::normal;
};

// Of a ModelProto what decides about ids; defaults as in the proto.
struct Model {
  std::vector<ModelPiece> pieces;
  int64_t model_type = 1;  // unigram
  bool byte_fallback = false, whitespace_as_suffix = false;
  int64_t bos = 1, eos = 2, pad = -1;
  std::string_view unknown_surface = " \xE2\x81\x87 ";
  std::string_view character_map;
  bool add_dummy_prefix = true, remove_extra_whitespaces = true, escape_whitespaces = true;
  bool denormalizes = false;
};

ModelPiece read_piece(std::string_view bytes, std::string_view where) {
  ModelPiece piece;
  for (Fields fields(bytes, where); fields.next();) {
    if (fields.number() == 1) piece.text = fields.bytes();
    if (fields.number() == 2) piece.score = fields.number_32();
    if (fields.number() == 3) piece.type = static_cast<PieceType>(fields.integer());
  }
  if (piece.text.empty() || valid_utf8_prefix(piece.text) != piece.text.size()) {
    damaged(where, "a piece that is empty, or no UTF-8");
  }
  if (!std::isfinite(piece.score)) damaged(where, fmt::format("the score of '{}' is no number", piece.text));
  return piece;
}

void read_trainer_spec(Model& model, std::string_view bytes, std::string_view where) {
  for (Fields fields(bytes, where); fields.next();) {
    switch (fields.number()) {
      case 3:
        model.model_type = fields.integer();
        break;
      case 24:
        model.whitespace_as_suffix = fields.flag();
        break;
      case 35:
        model.byte_fallback = fields.flag();
        break;
      case 41:
        model.bos = fields.integer();
        break;
      case 42:
        model.eos = fields.integer();
        break;
      case 43:
        model.pad = fields.integer();
        break;
      case 44:
        model.unknown_surface = fields.bytes();
        break;
      default:
        break;
    }
  }
}

void read_normalizer_spec(Model& model, std::string_view bytes, std::string_view where) {
  for (Fields fields(bytes, where); fields.next();) {
    if (fields.number() == 2) model.character_map = fields.bytes();
    if (fields.number() == 3) model.add_dummy_prefix = fields.flag();
    if (fields.number() == 4) model.remove_extra_whitespaces = fields.flag();
    if (fields.number() == 5) model.escape_whitespaces = fields.flag();
  }
}

Model read_model(std::string_view bytes, std::string_view where) {
  Model model;
  for (Fields fields(bytes, where); fields.next();) {
    if (fields.number() == 1) model.pieces.push_back(read_piece(fields.bytes(), where));
    if (fields.number() == 2) read_trainer_spec(model, fields.bytes(), where);
    if (fields.number() == 3) read_normalizer_spec(model, fields.bytes(), where);
    if (fields.number() == 5) {
      Model other;
      read_normalizer_spec(other, fields.bytes(), where);
      model.denormalizes = !other.character_map.empty();
    }
  }
  if (model.pieces.empty()) damaged(where, "no pieces");
  if (model.pieces.size() > size_t{1} << 21) damaged(where, fmt::format("{} pieces", model.pieces.size()));
  return model;
}

void require_supported(const Model& model, std::string_view where) {
  constexpr const char* kTypes[] = {"unigram", "BPE", "word", "char"};
  if (model.model_type != 2) {
    const bool known = model.model_type >= 1 && model.model_type <= 4;
    unsupported(where,
                fmt::format("a SentencePiece model of type {}", known ? kTypes[model.model_type - 1] : "unknown"));
  }
  if (model.whitespace_as_suffix) unsupported(where, "a SentencePiece model with treat_whitespace_as_suffix");
  if (!model.escape_whitespaces) unsupported(where, "a SentencePiece model without escape_whitespaces");
  if (model.denormalizes) unsupported(where, "a SentencePiece model with a denormalizer");
}

class Builder {
 public:
  Builder(const Model& model, const std::string& where) : from_(model), where_(where) {}

  BpeModel build() {
    model_.byte_ids.fill(-1);
    model_.tokens.resize(from_.pieces.size());
    model_.names.resize(from_.pieces.size());
    model_.literal.resize(from_.pieces.size());
    for (size_t id = 0; id < from_.pieces.size(); ++id) add_piece(static_cast<int32_t>(id));
    if (model_.unknown < 0) damaged(where_, "no piece of type UNKNOWN");
    if (!model_.of_characters()) damaged(where_, "no piece is a character");
    if (from_.byte_fallback && !model_.every_byte_has_id())
      damaged(where_, "byte_fallback without the 256 byte pieces");
    add_merges();
    add_normalizer();
    model_.pre_tokenizer = PreTokenizer::whole;
    model_.fuse_unknown = true;
    model_.decode_start.of = DecodeStart::Of::each_token;
    if (from_.add_dummy_prefix) model_.decode_start.spaces = 1;
    if (from_.remove_extra_whitespaces) model_.decode_start.spaces = std::string::npos;
    const auto role = [&](int64_t id) -> std::optional<int32_t> {
      if (id < 0 || id >= std::ssize(from_.pieces)) return std::nullopt;
      if (from_.pieces[static_cast<size_t>(id)].type != PieceType::control) return std::nullopt;
      return static_cast<int32_t>(id);
    };
    model_.special.bos = role(from_.bos);
    model_.special.end_of_document = role(from_.eos);
    model_.special.pad = role(from_.pad);
    return std::move(model_);
  }

 private:
  void add_piece(int32_t id) {
    const ModelPiece& piece = from_.pieces[static_cast<size_t>(id)];
    const std::string name(piece.text);
    model_.names[id] = name;
    model_.tokens[id] = without_marks(name);
    switch (piece.type) {
      case PieceType::normal:
        return add_normal(id, name);
      case PieceType::unknown:
        if (model_.unknown >= 0) damaged(where_, "two pieces of type UNKNOWN");
        model_.unknown = id;
        model_.literal[id] = 1;
        model_.tokens[id] = from_.unknown_surface;
        return;
      case PieceType::control:
        model_.added_tokens.push_back({.id = id, .content = name, .special = true});
        model_.tokens[id] = name;
        return;
      case PieceType::user_defined:
        symbols_.add({.id = id}, name, 0);
        // Of the normal form there is nothing with a space.
        if (name.find(' ') != std::string::npos) {
          model_.literal[id] = 1;
          model_.tokens[id] = name;
          return;
        }
        model_.added_tokens.push_back(
            {.id = id, .content = model_.tokens[id], .special = false, .normalized = true, .as_normalized = true});
        return;
      case PieceType::byte:
        return add_byte(id, name);
      case PieceType::unused:
        unsupported(where_, fmt::format("a SentencePiece model with UNUSED pieces ('{}')", name));
    }
    damaged(where_, fmt::format("the piece '{}' has type {}", name, static_cast<int64_t>(piece.type)));
  }

  void add_normal(int32_t id, const std::string& name) {
    // The normal form of a text has no space, it writes marks.
    if (name.find(' ') != std::string::npos) {
      model_.literal[id] = 1;
      model_.tokens[id] = name;
      return;
    }
    const std::string& token = model_.tokens[id];
    if (!ids_.emplace(token, id).second) damaged(where_, fmt::format("the piece '{}' occurs twice", name));
    const Utf8Char first = decode_utf8(token);
    if (first.length == token.size()) model_.character_ids.emplace(first.code, id);
  }

  void add_byte(int32_t id, const std::string& name) {
    if (!from_.byte_fallback) damaged(where_, "byte pieces without byte_fallback");
    for (int byte = 0; byte < 256; ++byte) {
      if (name != fmt::format("<0x{:02X}>", byte)) continue;
      model_.byte_ids[static_cast<size_t>(byte)] = id;
      model_.literal[id] = 1;
      model_.tokens[id] = std::string(1, static_cast<char>(byte));
      return;
    }
    damaged(where_, fmt::format("the byte piece '{}' is not <0x00> … <0xFF>", name));
  }

  // The rank of each score: the highest is merged first.
  std::map<float, uint32_t, std::greater<>> ranks() const {
    std::map<float, uint32_t, std::greater<>> ranks;
    for (const auto& [token, id] : ids_) ranks.emplace(from_.pieces[static_cast<size_t>(id)].score, 0);
    uint32_t rank = 0;
    for (auto& [score, its] : ranks) its = rank++;
    return ranks;
  }

  void add_merges() {
    const std::map<float, uint32_t, std::greater<>> rank_of = ranks();
    for (size_t id = 0; id < from_.pieces.size(); ++id) {
      if (from_.pieces[id].type != PieceType::normal || model_.is_literal(id)) continue;
      const std::string_view token = model_.tokens[id];
      const uint32_t rank = rank_of.at(from_.pieces[id].score);
      for (size_t cut = decode_utf8(token).length; cut < token.size(); cut += decode_utf8(token.substr(cut)).length) {
        require_character(token.substr(cut), token);
        const auto left = ids_.find(token.substr(0, cut)), right = ids_.find(token.substr(cut));
        if (left == ids_.end() || right == ids_.end()) continue;
        model_.merges.push_back({left->second, right->second, static_cast<int32_t>(id), rank});
      }
      require_character(token, token);
    }
  }

  // The library also merges characters that are no pieces, which have no id here.
  void require_character(std::string_view text, std::string_view token) const {
    const Utf8Char first = decode_utf8(text);
    if (model_.character_ids.contains(first.code)) return;
    unsupported(where_, fmt::format("a SentencePiece model with a piece ('{}') of which a character ('{}') is none",
                                    token, text.substr(0, first.length)));
  }

  void add_normalizer() {
    SentencePieceNormalizer::Settings settings;
    settings.add_dummy_prefix = from_.add_dummy_prefix;
    settings.remove_extra_whitespaces = from_.remove_extra_whitespaces;
    if (!from_.character_map.empty()) settings.map = CharacterMap(from_.character_map, where_);
    settings.map_name = fmt::format("{:016x}", hash_name(from_.character_map));
    model_.normalizer.sentencepiece(
        std::make_shared<const SentencePieceNormalizer>(std::move(settings), std::move(symbols_)));
  }

  const Model& from_;
  const std::string& where_;
  BpeModel model_;
  std::map<std::string, int32_t, std::less<>> ids_;  // of normal pieces, by their text
  AddedTokenMatcher symbols_;
};

}  // namespace

BpeModel read_sentencepiece(std::string_view bytes, const std::string& where) {
  const Model model = read_model(bytes, where);
  require_supported(model, where);
  return Builder(model, where).build();
}

}  // namespace ridgeline::data
