// Between the files of a tokenizer's folder and BpeModel. Internal to the room.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "ridgeline/data/bpe_model.h"

namespace ridgeline::data {

// As Tokenizer::from_files.
BpeModel read_bpe_model(const TokenizerFiles& files, const std::filesystem::path& where);

// The text of its tokenizer.json: as it was read, if it was.
std::string tokenizer_json(const BpeModel& model);

// As Tokenizer::files.
TokenizerFiles files_of(const BpeModel& model, int64_t model_max_length);

// ------------------------------------------------------------------------------------ what the readers share: JSON
// that may lack members, and messages that name the file

// The file of that name as JSON; a null value when there is none. Error when it is no JSON.
nlohmann::json parse_file(const TokenizerFiles& files, const std::filesystem::path& where, const char* name);

[[noreturn]] void malformed(std::string_view file, std::string_view what);
[[noreturn]] void unsupported(std::string_view file, std::string_view feature);

// Members that may be absent or null (also when `object` is none): nullptr, "", `otherwise`.
const nlohmann::json* member(const nlohmann::json& object, const char* key);
std::string text_of(const nlohmann::json& object, const char* key);
bool flag_of(const nlohmann::json& object, const char* key, bool otherwise);

int32_t id_of(const nlohmann::json& value, std::string_view file, std::string_view token);

// What the names of a vocabulary are: bytes in GPT-2's printable alphabet, or characters, with U+2581 for a space.
enum class VocabularyForm { bytes, characters };
VocabularyForm vocabulary_form(const nlohmann::json& root, std::string_view file);

// Normalizer, pre_tokenizer and decoder of a tokenizer.json, into a model whose vocabulary is read; returns whether the
// normalizer writes U+2581 for spaces. UnsupportedTokenizer: a step that the model cannot do exactly.
bool read_pipeline(BpeModel& model, const nlohmann::json& root, VocabularyForm form, std::string_view file);

// Adds a token, or changes the one with this id; `options` has all but `id`, `content` and `in_vocabulary`.
void add_added_token(BpeModel& model, int32_t id, const std::string& content, const AddedToken& options);

// The id of an added token, or else of an entry of the vocabulary, of that name; -1.
int32_t find_token(const BpeModel& model, std::string_view content);

// Fills model.special (what is in it stays unless a file says otherwise), and makes the tokens that it names special.
// `post_processor`: of tokenizer.json, may be null.
void read_special_tokens(BpeModel& model, const TokenizerFiles& files, const nlohmann::json& post_processor,
                         const std::filesystem::path& where);

}  // namespace ridgeline::data
