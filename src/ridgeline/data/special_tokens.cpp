// Which ids mean what: tokenizer_config.json, special_tokens_map.json, generation_config.json and the post-processor of
// tokenizer.json, with the precedence that transformers gives them.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "ridgeline/base/error.h"
#include "ridgeline/data/tokenizer_json.h"

namespace ridgeline::data {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// A token's name: a string, or an object with `content`.
std::string name_of(const json* value) {
  if (value == nullptr) return "";
  return value->is_string() ? value->get<std::string>() : text_of(*value, "content");
}

class Roles {
 public:
  Roles(const TokenizerFiles& files, const fs::path& where)
      : where_(where),
        configuration_(parse_file(files, where, "tokenizer_config.json")),
        map_(parse_file(files, where, "special_tokens_map.json")) {}

  struct Named {
    std::string token, file;
  };
  // With a list of added tokens, tokenizer_config.json is complete; without, the older file has the last word.
  Named find(const char* role) const {
    const bool complete = member(configuration_, "added_tokens_decoder") != nullptr;
    const Named first{name_of(member(configuration_, role)), (where_ / "tokenizer_config.json").string()};
    const Named second{name_of(member(map_, role)), (where_ / "special_tokens_map.json").string()};
    if (first.token.empty() || (!complete && !second.token.empty())) return second;
    return first;
  }

  // The names of further special tokens.
  std::vector<std::string> others() const {
    std::vector<std::string> names;
    for (const json* file : {&configuration_, &map_}) {
      for (const char* role : {"unk_token", "sep_token", "cls_token", "mask_token"}) {
        names.push_back(name_of(member(*file, role)));
      }
      for (const char* list : {"additional_special_tokens", "extra_special_tokens"}) {
        const json* tokens = member(*file, list);
        if (tokens == nullptr || !tokens->is_structured()) continue;
        for (const json& token : *tokens) names.push_back(name_of(&token));
      }
    }
    return names;
  }

  bool puts_bos() const { return flag_of(configuration_, "add_bos_token", false); }

 private:
  fs::path where_;
  json configuration_, map_;
};

// The token is found in texts from now on (a vocabulary's entry was not), and special.
void make_special(BpeModel& model, int32_t id) {
  for (AddedToken& token : model.added_tokens) {
    if (token.id != id) continue;
    token.special = true;
    return;
  }
  add_added_token(model, id, model.name_of(id), {.special = true});
}

std::optional<int32_t> special_id(BpeModel& model, std::string_view name) {
  const int32_t id = find_token(model, name);
  if (id < 0) return std::nullopt;
  make_special(model, id);
  return id;
}

std::optional<int32_t> required(BpeModel& model, const Roles& roles, const char* role) {
  const Roles::Named named = roles.find(role);
  if (named.token.empty()) return std::nullopt;
  if (const std::optional<int32_t> id = special_id(model, named.token)) return id;
  std::vector<std::string> names;
  for (const AddedToken& token : model.added_tokens) names.push_back(token.content);
  const std::string near = nearest(named.token, names);
  throw Error(fmt::format("{}: the {} '{}' is not in the tokenizer", named.file, role, named.token),
              near.empty()
                  ? "Name a token that it has, or add this one to its tokenizer.json (added_tokens)."
                  : fmt::format("Did you mean '{}'? Otherwise add it to tokenizer.json (added_tokens).", near));
}

// The special tokens that a post-processor puts before a text.
std::vector<std::string> names_before_text(const json& processor) {
  const std::string type = text_of(processor, "type");
  std::vector<std::string> names;
  if (type == "Sequence") {
    const json* list = member(processor, "processors");
    if (list == nullptr || !list->is_array()) return names;
    for (const json& part : *list) {
      const std::vector<std::string> more = names_before_text(part);
      names.insert(names.begin(), more.begin(), more.end());  // a later one works on the result of the earlier
    }
  } else if (type == "TemplateProcessing") {
    const json* single = member(processor, "single");
    if (single == nullptr || !single->is_array()) return names;
    for (const json& piece : *single) {
      const json* token = member(piece, "SpecialToken");
      if (token == nullptr) break;
      names.push_back(text_of(*token, "id"));
    }
  } else if (type == "RobertaProcessing" || type == "BertProcessing") {
    const json* first = member(processor, "cls");
    if (first != nullptr && first->is_array() && !first->empty()) names.push_back(name_of(&(*first)[0]));
  }
  return names;
}

// eos_token_id of generation_config.json: a number or a list.
std::vector<int32_t> generation_stops(const TokenizerFiles& files, const fs::path& where) {
  const json configuration = parse_file(files, where, "generation_config.json");
  const json* eos = member(configuration, "eos_token_id");
  if (eos == nullptr) return {};
  const std::string name = (where / "generation_config.json").string();
  std::vector<int32_t> ids;
  for (const json& id : eos->is_array() ? *eos : json::array({*eos})) ids.push_back(id_of(id, name, "eos_token_id"));
  return ids;
}

}  // namespace

void read_special_tokens(BpeModel& model, const TokenizerFiles& files, const json& post_processor,
                         const fs::path& where) {
  const Roles roles(files, where);
  SpecialTokens& special = model.special;
  if (const auto named = required(model, roles, "eos_token")) special.end_of_document = named;
  for (const char* usual : {"<|endoftext|>", "<|end_of_text|>", "</s>"}) {
    if (!special.end_of_document) special.end_of_document = special_id(model, usual);
  }
  if (const auto named = required(model, roles, "bos_token")) special.bos = named;
  // Padding is never seen by a model: a name that the tokenizer lacks harms nobody.
  if (const auto named = special_id(model, roles.find("pad_token").token)) special.pad = named;
  for (const std::string& name : roles.others()) special_id(model, name);

  for (const std::string& name : names_before_text(post_processor)) {
    const int32_t id = find_token(model, name);
    if (id < 0) malformed((where / "tokenizer.json").string(), fmt::format("post_processor: no token '{}'", name));
    special.before_text.push_back(id);
  }
  if (!special.bos && !special.before_text.empty()) special.bos = special.before_text.front();
  for (const char* usual : {"<|begin_of_text|>", "<s>"}) {
    const int32_t id = find_token(model, usual);
    if (!special.bos && id >= 0) special.bos = id;
  }
  // GPT-2 and its kin begin a text with the token that ended the one before.
  const bool one_for_both = special.end_of_document && model.tokens[*special.end_of_document] == "<|endoftext|>";
  if (!special.bos && one_for_both) special.bos = special.end_of_document;
  // As in transformers: where there is a tokenizer.json, its post-processor decides.
  const bool has_json = files.find("tokenizer.json") != nullptr;
  if (!has_json && roles.puts_bos() && special.bos) special.before_text = {*special.bos};

  special.stop = generation_stops(files, where);
  if (special.end_of_document) special.stop.push_back(*special.end_of_document);
  std::sort(special.stop.begin(), special.stop.end());
  special.stop.erase(std::unique(special.stop.begin(), special.stop.end()), special.stop.end());
}

}  // namespace ridgeline::data
