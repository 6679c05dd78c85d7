#include "ridgeline/data/tokenizer_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/base/json.h"
#include "ridgeline/data/sentencepiece.h"
#include "ridgeline/data/unicode.h"

namespace ridgeline::data {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// Ids far beyond any vocabulary come from damaged files; they must not size our tables.
constexpr int64_t kLargestId = 1 << 21;

constexpr std::string_view kSupported =
    "docs/tokenizers.md says which tokenizers work. Others must be converted to one of these first.";

// token string -> id, with what is needed to resolve merges.
struct Vocabulary {
  std::unordered_map<std::string, int32_t> id;
};

void set_token(BpeModel& model, int32_t id, std::string bytes) {
  if (model.tokens.size() <= static_cast<size_t>(id)) model.tokens.resize(static_cast<size_t>(id) + 1);
  model.tokens[id] = std::move(bytes);
}

// An entry of the vocabulary. One outside the printable alphabet is no sequence of bytes: it is written as it stands.
void set_entry(BpeModel& model, int32_t id, const std::string& name) {
  if (std::optional<std::string> bytes = from_printable(name)) {
    if (bytes->size() == 1) model.byte_ids[static_cast<uint8_t>(bytes->front())] = id;
    return set_token(model, id, *std::move(bytes));
  }
  set_token(model, id, name);
  model.literal.resize(model.tokens.size());
  model.literal[id] = 1;
}

// The byte of "<0x0A>"; -1 for another name.
int byte_named(std::string_view name) {
  if (name.size() != 6 || !name.starts_with("<0x") || name[5] != '>') return -1;
  for (int byte = 0; byte < 256; ++byte) {
    if (name == fmt::format("<0x{:02X}>", byte)) return byte;
  }
  return -1;
}

// An entry of a vocabulary in which U+2581 stands for spaces.
void set_marked_entry(BpeModel& model, int32_t id, const std::string& name, bool byte_fallback) {
  const auto literal = [&] {
    model.literal.resize(model.tokens.size());
    model.literal[id] = 1;
  };
  if (model.names.size() <= static_cast<size_t>(id)) model.names.resize(static_cast<size_t>(id) + 1);
  model.names[id] = name;
  if (const int byte = byte_fallback ? byte_named(name) : -1; byte >= 0) {
    model.byte_ids[static_cast<size_t>(byte)] = id;
    set_token(model, id, std::string(1, static_cast<char>(byte)));
    return literal();
  }
  const bool spaced = name.find(' ') != std::string::npos;  // no text has one
  set_token(model, id, spaced ? name : without_marks(name));
  if (spaced) return literal();
  const std::string& token = model.tokens[id];
  if (token.empty()) return;
  const Utf8Char first = decode_utf8(token);
  if (first.length == token.size()) model.character_ids.emplace(first.code, id);
}

Vocabulary read_vocabulary(BpeModel& model, const json& vocab, std::string_view name,
                           VocabularyForm form = VocabularyForm::bytes, bool byte_fallback = false) {
  if (!vocab.is_object() || vocab.empty()) malformed(name, "the vocabulary is not an object of token: id");
  Vocabulary result;
  std::vector<uint8_t> seen;
  for (const auto& [token, value] : vocab.items()) {
    const int32_t id = id_of(value, name, token);
    if (seen.size() <= static_cast<size_t>(id)) seen.resize(static_cast<size_t>(id) + 1);
    if (seen[id] != 0) malformed(name, fmt::format("id {} is given to '{}' and to another token", id, token));
    seen[id] = 1;
    if (form == VocabularyForm::bytes) {
      set_entry(model, id, token);
    } else {
      set_marked_entry(model, id, token, byte_fallback);
    }
    result.id.emplace(token, id);
  }
  return result;
}

void add_merge(BpeModel& model, const Vocabulary& vocabulary, const std::string& left, const std::string& right,
               std::string_view name) {
  const auto find = [&](const std::string& token) {
    const auto found = vocabulary.id.find(token);
    if (found == vocabulary.id.end()) {
      malformed(name, fmt::format("merge {} ('{}' and '{}') needs '{}', which is not in the vocabulary",
                                  model.merges.size(), left, right, token));
    }
    return found->second;
  };
  const int32_t a = find(left), b = find(right);
  model.merges.push_back({a, b, find(left + right), static_cast<uint32_t>(model.merges.size())});
}

// "left right"
void add_merge_line(BpeModel& model, const Vocabulary& vocabulary, std::string_view line, std::string_view name) {
  const size_t space = line.find(' ');
  if (space == std::string_view::npos || space == 0 || space + 1 == line.size() ||
      line.find(' ', space + 1) != std::string_view::npos) {
    malformed(name, fmt::format("merge {} is '{}', not two tokens with one space between", model.merges.size(), line));
  }
  add_merge(model, vocabulary, std::string(line.substr(0, space)), std::string(line.substr(space + 1)), name);
}

AddedToken options_of(const json& entry) {
  const bool special = flag_of(entry, "special", false);
  return {.special = special,
          .lstrip = flag_of(entry, "lstrip", false),
          .rstrip = flag_of(entry, "rstrip", false),
          .normalized = flag_of(entry, "normalized", !special),
          .single_word = flag_of(entry, "single_word", false)};
}

void read_added_tokens(BpeModel& model, const Vocabulary& vocabulary, const json& list, std::string_view name) {
  if (!list.is_array()) malformed(name, "added_tokens is not an array");
  for (const json& entry : list) {
    const std::string content = text_of(entry, "content");
    if (content.empty()) malformed(name, "an added token has no content");
    const json* id = member(entry, "id");
    if (id == nullptr) malformed(name, fmt::format("added token '{}' has no id", content));
    const int32_t number = id_of(*id, name, content);
    if (const auto known = vocabulary.id.find(content); known != vocabulary.id.end() && known->second != number) {
      malformed(name,
                fmt::format("added token '{}' has id {}, but the vocabulary says {}", content, number, known->second));
    }
    add_added_token(model, number, content, options_of(entry));
  }
}

// What becomes of a character that the vocabulary lacks, where pieces begin as characters.
void read_unknown(BpeModel& model, const Vocabulary& vocabulary, const json& bpe, std::string_view name) {
  if (model.every_byte_has_id()) return;
  const auto bytes = std::count_if(model.byte_ids.begin(), model.byte_ids.end(), [](int32_t id) { return id >= 0; });
  if (bytes > 0) unsupported(name, fmt::format("model BPE with byte_fallback to {} of 256 bytes", bytes));
  const auto unknown = vocabulary.id.find(text_of(bpe, "unk_token"));
  if (unknown == vocabulary.id.end()) unsupported(name, "model BPE that leaves characters away (no unk_token)");
  model.unknown = unknown->second;
  model.fuse_unknown = flag_of(bpe, "fuse_unk", false);
}

Vocabulary read_bpe(BpeModel& model, const json& bpe, VocabularyForm form, std::string_view name) {
  const std::string type = text_of(bpe, "type");
  if (!type.empty() && type != "BPE") unsupported(name, fmt::format("model '{}'", type));
  for (const char* option : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!text_of(bpe, option).empty()) unsupported(name, fmt::format("model BPE with {}", option));
  }
  if (const json* dropout = member(bpe, "dropout"); dropout != nullptr && *dropout != 0.0) {
    unsupported(name, "model BPE with dropout");
  }
  model.ignore_merges = flag_of(bpe, "ignore_merges", false);

  const json* vocab = member(bpe, "vocab");
  const json* merges = member(bpe, "merges");
  // Older files name no type.
  if (type.empty() && vocab != nullptr && vocab->is_array()) unsupported(name, "model 'Unigram'");
  if (vocab == nullptr || merges == nullptr || !merges->is_array()) malformed(name, "model BPE lacks vocab or merges");
  Vocabulary vocabulary = read_vocabulary(model, *vocab, name, form, flag_of(bpe, "byte_fallback", false));
  if (form == VocabularyForm::characters) {
    if (!model.of_characters()) malformed(name, "no character is an entry of the vocabulary");
    read_unknown(model, vocabulary, bpe, name);
  }
  for (const json& merge : *merges) {
    if (merge.is_string()) {
      add_merge_line(model, vocabulary, merge.get_ref<const std::string&>(), name);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      add_merge(model, vocabulary, merge[0].get<std::string>(), merge[1].get<std::string>(), name);
    } else {
      malformed(name,
                fmt::format("merge {} is {}, not two tokens", model.merges.size(), json_text(merge).substr(0, 100)));
    }
  }
  return vocabulary;
}

BpeModel read_vocab_and_merges(const TokenizerFiles& files, const fs::path& where) {
  BpeModel model;
  model.byte_ids.fill(-1);
  const std::string vocab_name = (where / "vocab.json").string(), merges_name = (where / "merges.txt").string();
  const Vocabulary vocabulary = read_vocabulary(model, parse_file(files, where, "vocab.json"), vocab_name);
  std::string_view rest = *files.find("merges.txt");
  while (!rest.empty()) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || line.starts_with("#version")) continue;
    add_merge_line(model, vocabulary, line, merges_name);
  }
  const json list = parse_file(files, where, "added_tokens.json");
  const std::string added = (where / "added_tokens.json").string();
  if (!list.is_null() && !list.is_object()) malformed(added, "not an object of token: id");
  for (const auto& [token, id] : list.items()) {
    if (token.empty()) malformed(added, "an added token has no content");
    // Which of them are special the other files say.
    add_added_token(model, id_of(id, added, token), token, {.special = false, .normalized = true});
  }
  return model;
}

// tokenizer_config.json's list of added tokens, as far as the other files do not have them.
void read_added_tokens_decoder(BpeModel& model, const json& configuration, std::string_view name) {
  const json* decoder = member(configuration, "added_tokens_decoder");
  if (decoder == nullptr || !decoder->is_object()) return;
  for (const auto& [key, entry] : decoder->items()) {
    const std::string content = text_of(entry, "content");
    if (content.empty()) malformed(name, fmt::format("the added token {} has no content", key));
    const json number = parse_json_if_any(key);
    const int32_t id = id_of(number, name, content), known = find_token(model, content);
    if (known >= 0 && known != id) {
      malformed(name, fmt::format("the added token '{}' has id {}, elsewhere it has {}", content, id, known));
    }
    const bool is_added = std::any_of(model.added_tokens.begin(), model.added_tokens.end(),
                                      [&](const AddedToken& token) { return token.id == id; });
    if (!is_added) add_added_token(model, id, content, options_of(entry));
  }
}

BpeModel read_tokenizer_json(const json& root, const std::string& name) {
  if (!root.is_object()) malformed(name, "not an object");
  const json* bpe = member(root, "model");
  if (bpe == nullptr || !bpe->is_object()) malformed(name, "no model");
  BpeModel model;
  model.byte_ids.fill(-1);
  const VocabularyForm form = vocabulary_form(root, name);
  // First the model: what it is decides whether anything else is worth a message.
  const Vocabulary vocabulary = read_bpe(model, *bpe, form, name);
  const bool marked = read_pipeline(model, root, form, name);
  if (const json* added = member(root, "added_tokens")) read_added_tokens(model, vocabulary, *added, name);
  if (!marked) return model;
  for (const AddedToken& token : model.added_tokens) {
    // Behind the normalizer its spaces are none.
    if (!token.normalized || !(token.lstrip || token.rstrip)) continue;
    unsupported(name, fmt::format("added token '{}' with lstrip or rstrip and normalized where '▁' stands for spaces",
                                  token.content));
  }
  return model;
}

// Whether these are lines of tiktoken's form, "base64 rank", as Llama 3's tokenizer.model is. (A SentencePiece model
// begins with a line's end: the tag of its first field.)
bool is_tiktoken(std::string_view bytes) {
  const std::string_view line = bytes.substr(0, bytes.find('\n'));
  const size_t space = line.find(' ');
  constexpr std::string_view kBase64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=";
  return space != 0 && space != std::string_view::npos && line.find_first_not_of(kBase64) == space &&
         space + 1 < line.size() && line.find_first_not_of("0123456789\r", space + 1) == std::string_view::npos;
}

[[noreturn]] void tiktoken(std::string_view name) {
  throw UnsupportedTokenizer(fmt::format("{}: a vocabulary in tiktoken's form is not supported: it says neither by "
                                         "which pattern text is cut nor which tokens are special",
                                         name),
                             "Give the folder with the tokenizer.json that is published with the same model.");
}

}  // namespace

json parse_file(const TokenizerFiles& files, const fs::path& where, const char* name) {
  const std::string* text = files.find(name);
  if (text == nullptr) return {};
  try {
    return parse_json(*text);
  } catch (const json::exception& error) {
    throw Error(fmt::format("{}: not valid JSON: {}", (where / name).string(), error.what()),
                "Get the file again; it may be cut short.");
  }
}

[[noreturn]] void unsupported(std::string_view name, std::string_view feature) {
  throw UnsupportedTokenizer(fmt::format("{}: {} is not supported", name, feature), std::string(kSupported));
}

[[noreturn]] void malformed(std::string_view name, std::string_view what) {
  throw Error(fmt::format("{}: {}", name, what), "The file does not have the form that Hugging Face tools write.");
}

// Members that may be absent or null.
const json* member(const json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::string text_of(const json& object, const char* key) {
  const json* value = member(object, key);
  return value != nullptr && value->is_string() ? value->get<std::string>() : std::string();
}

bool flag_of(const json& object, const char* key, bool otherwise) {
  const json* value = member(object, key);
  return value != nullptr && value->is_boolean() ? value->get<bool>() : otherwise;
}

int32_t id_of(const json& value, std::string_view name, std::string_view token) {
  if (!value.is_number_integer() || value.get<int64_t>() < 0 || value.get<int64_t>() > kLargestId) {
    malformed(name,
              fmt::format("the id of '{}' is {}, not a number from 0 to {}", token, json_text(value), kLargestId));
  }
  return value.get<int32_t>();
}

void add_added_token(BpeModel& model, int32_t id, const std::string& content, const AddedToken& options) {
  AddedToken token = options;
  token.id = id;
  token.content = content;
  for (AddedToken& old : model.added_tokens) {
    if (old.id != id) continue;
    token.in_vocabulary = old.in_vocabulary;
    old = token;
    return;
  }
  token.in_vocabulary = static_cast<size_t>(id) < model.tokens.size() && !model.tokens[id].empty();
  set_token(model, id, content);
  model.added_tokens.push_back(token);
}

int32_t find_token(const BpeModel& model, std::string_view content) {
  for (const AddedToken& token : model.added_tokens) {
    if (token.content == content) return token.id;
  }
  if (content.empty()) return -1;
  if (model.of_characters()) {
    const auto found = std::find(model.names.begin(), model.names.end(), content);
    return found == model.names.end() ? -1 : static_cast<int32_t>(found - model.names.begin());
  }
  // As an entry of the vocabulary is spelled there: two spaces, and the name of the bytes of two, are two entries.
  const std::optional<std::string> bytes = from_printable(content);
  const std::string_view token = bytes ? std::string_view(*bytes) : content;
  for (size_t id = 0; id < model.tokens.size(); ++id) {
    if (model.tokens[id] == token && model.is_literal(id) == !bytes) return static_cast<int32_t>(id);
  }
  return -1;
}

BpeModel read_bpe_model(const TokenizerFiles& files, const fs::path& where) {
  const bool has_json = files.find("tokenizer.json") != nullptr;
  const json root = parse_file(files, where, "tokenizer.json");
  std::string name = (where / (has_json ? "tokenizer.json" : "vocab.json")).string();
  BpeModel model;
  if (has_json) {
    model = read_tokenizer_json(root, name);
  } else if (files.find("vocab.json") != nullptr && files.find("merges.txt") != nullptr) {
    model = read_vocab_and_merges(files, where);
  } else if (const std::string* bytes = files.find("tokenizer.model");
             bytes != nullptr && files.vocabulary_file() == "tokenizer.model") {
    name = (where / "tokenizer.model").string();
    if (is_tiktoken(*bytes)) tiktoken(name);
    model = read_sentencepiece(*bytes, name);
  } else if (files.empty()) {
    throw Error(
        fmt::format("no tokenizer in '{}': neither tokenizer.json, nor vocab.json and merges.txt, nor tokenizer.model",
                    where.string()),
        "Give the folder of a tokenizer, or make one: ridgeline tokenizer train --vocab 4096 --out DIR INPUT.");
  } else {
    if (files.vocabulary_file().ends_with(".tiktoken")) tiktoken((where / files.vocabulary_file()).string());
    unsupported(where.string(), fmt::format("a tokenizer that is given by {}", files.vocabulary_file()));
  }
  const json configuration = parse_file(files, where, "tokenizer_config.json");
  const std::string configuration_name = (where / "tokenizer_config.json").string();
  read_added_tokens_decoder(model, configuration, configuration_name);
  if (const json* prefix = member(configuration, "add_prefix_space"); prefix != nullptr && prefix->is_boolean()) {
    // Only ByteLevel alone has the option; elsewhere transformers ignores it as well.
    if (model.pre_tokenizer == PreTokenizer::gpt2 && model.cuts.empty()) {
      model.prefix_space = prefix->get<bool>() ? PrefixSpace::each : PrefixSpace::none;
    }
  }
  const json* const post_processor = member(root, "post_processor");
  read_special_tokens(model, files, post_processor != nullptr ? *post_processor : json(), where);
  model.source = files;
  model.finish(name);
  return model;
}

}  // namespace ridgeline::data
