#include "ridgeline/train/run_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "ridgeline/base/error.h"
#include "ridgeline/base/json.h"

namespace ridgeline::train {
namespace {

constexpr const char* kGenerationConfig = "generation_config.json";

// A member that may be missing, null, or something else; the file may be absent or damaged (only its ids are wanted).
nlohmann::json generation_settings(const data::TokenizerFiles& files) {
  const std::string* text = files.find(kGenerationConfig);
  if (text == nullptr) return nlohmann::json::object();
  nlohmann::json settings = parse_json_if_any(*text);
  if (!settings.is_object())
    throw Error("the model's generation_config.json is not valid JSON", "Correct it, or leave it away.");
  return settings;
}

std::vector<int32_t> ids_of(const nlohmann::json& settings, const char* key) {
  std::vector<int32_t> ids;
  if (!settings.is_object()) return ids;
  const auto found = settings.find(key);
  if (found == settings.end()) return ids;
  for (const nlohmann::json& id : found->is_array() ? *found : nlohmann::json::array({*found})) {
    if (id.is_number_integer()) ids.push_back(id.get<int32_t>());
  }
  return ids;
}

struct NamedDataset {
  std::string name;  // "data.train", "data.train[2]"
  const data::IndexedDataset* dataset;
};

std::vector<NamedDataset> datasets_of(const Config& config, const RunDocuments& documents) {
  std::vector<NamedDataset> all;
  for (size_t i = 0; i < documents.train.size(); ++i)
    all.push_back({entry_name("data.train", config.data.train, i), documents.train[i].dataset.get()});
  for (size_t i = 0; i < config.data.valid.entries.size(); ++i)
    all.push_back({entry_name("data.valid", config.data.valid, i), documents.valid[i].dataset.get()});
  return all;
}

// Datasets must agree with each other also where no tokenizer is there to compare them with.
void require_alike(const std::vector<NamedDataset>& all) {
  const auto noted =
      std::find_if(all.begin(), all.end(), [](const NamedDataset& each) { return each.dataset->note().has_value(); });
  for (const NamedDataset& each : all) {
    if (!each.dataset->note()) continue;
    const data::DatasetNote &first = *noted->dataset->note(), &note = *each.dataset->note();
    if (first.tokenizer_hash != note.tokenizer_hash || first.vocabulary != note.vocabulary) {
      throw Error(fmt::format("{} was prepared with tokenizer '{}' ({} ids, hash {}), {} with '{}' ({} ids, hash {})",
                              noted->name, first.tokenizer, first.vocabulary, first.tokenizer_hash, each.name,
                              note.tokenizer, note.vocabulary, note.tokenizer_hash),
                  "An id must mean the same in all of them: prepare them with the same tokenizer.");
    }
    if (first.end_of_document != note.end_of_document) {
      throw Error(fmt::format("{} ends its documents with id {}, {} with id {} (-1: with none)", noted->name,
                              first.end_of_document, each.name, note.end_of_document),
                  "Prepare them with the same tokenizer and the same --no-eod (--blocks appends no end either).");
    }
  }
}

void take_noted(const std::vector<NamedDataset>& all, int64_t vocabulary, RunTokenizer& run) {
  const auto with_note =
      std::find_if(all.begin(), all.end(), [](const NamedDataset& each) { return each.dataset->note().has_value(); });
  if (with_note == all.end()) return;
  NotedTokenizer noted = noted_tokenizer(*with_note->dataset);
  run.message = noted.message;
  if (!noted.tokenizer) return;
  if (noted.tokenizer->vocab_size() > vocabulary) {
    run.message = fmt::format(
        "no tokenizer is named, and '{}', with which {} was prepared, has {} ids, more than "
        "model.vocab = {}",
        noted.path, with_note->name, noted.tokenizer->vocab_size(), vocabulary);
    return;
  }
  run.files = std::move(noted.files);
  run.tokenizer = std::move(noted.tokenizer);
}

}  // namespace

NotedTokenizer noted_tokenizer(const data::IndexedDataset& dataset) {
  const std::optional<data::DatasetNote>& note = dataset.note();
  std::error_code unknown;
  if (!note || note->tokenizer.empty() || !std::filesystem::exists(note->tokenizer, unknown)) return {};
  NotedTokenizer noted{.path = note->tokenizer};
  const std::string what =
      fmt::format("'{}', with which '{}' was prepared,", note->tokenizer, dataset.prefix().string());
  try {
    noted.files = data::TokenizerFiles::read(note->tokenizer);
    const auto found = data::Tokenizer::from_files(noted.files, note->tokenizer);
    const bool same_end = note->end_of_document < 0 || found.end_of_document() == note->end_of_document;
    if (found.hash() == note->tokenizer_hash && same_end) {
      noted.tokenizer = found;
      noted.message = fmt::format("no tokenizer is named: {} is taken", what);
    } else {
      noted.message = fmt::format("no tokenizer is named, and {} is another one by now", what);
    }
  } catch (const Error& error) {
    noted.message = fmt::format("no tokenizer is named, and {} cannot be read: {}", what, error.message());
  }
  return noted;
}

RunTokenizer open_tokenizer(const Config& config, const RunDocuments& documents) {
  RunTokenizer run;
  const std::vector<NamedDataset> all = datasets_of(config, documents);
  require_alike(all);
  for (const data::BlendPart& part : documents.train) {
    const std::optional<data::DatasetNote>& note = part.dataset->note();
    if (note && note->end_of_document >= 0) run.end_of_document = note->end_of_document;
  }
  const bool named = !config.data.tokenizer.empty();
  const std::string& where = named ? config.data.tokenizer : config.train.init_from;
  if (named || !where.empty()) run.files = data::TokenizerFiles::read(where);
  if (named && !config.train.init_from.empty() && run.files.find(kGenerationConfig) == nullptr) {
    const data::TokenizerFiles beside = data::TokenizerFiles::read(config.train.init_from);
    if (const std::string* text = beside.find(kGenerationConfig)) run.files.set(kGenerationConfig, *text);
  }
  if (!named && run.files.empty()) {
    take_noted(all, config.model.transformer.vocab, run);
    return run;
  }
  try {
    run.tokenizer = data::Tokenizer::from_files(run.files, where);
  } catch (const data::UnsupportedTokenizer&) {
    return run;  // it was not needed to read the data, and travels along
  }
  const char* key = named ? "data.tokenizer" : "train.init_from";
  const int64_t vocabulary = config.model.transformer.vocab;
  const int32_t ids = run.tokenizer->vocab_size();
  if (ids > vocabulary) {
    throw Error(fmt::format("model.vocab = {} is smaller than the {} ids of the tokenizer '{}' ({})", vocabulary, ids,
                            where, key),
                fmt::format("Set model.vocab to at least {}.", ids));
  }
  for (const NamedDataset& each : all)
    each.dataset->require_tokenizer(run.tokenizer->hash(), ids, run.tokenizer->end_of_document());
  return run;
}

void require_same_end(std::optional<int32_t> trained, const data::Tokenizer& tokenizer) {
  const std::optional<int32_t> now = tokenizer.end_of_document();
  if (!trained || !now || *trained == *now) return;
  throw Error(fmt::format("the model learned to end a document with id {}, this tokenizer's eos_token is id {} ('{}')",
                          *trained, *now, tokenizer.token_bytes(*now)),
              "Use the tokenizer with which the data was prepared: leave --tokenizer away where the checkpoint keeps "
              "it, or name it there.");
}

ExportedIds exported_ids(const data::TokenizerFiles& files, const std::optional<data::Tokenizer>& tokenizer,
                         std::optional<int32_t> trained_end, const nlohmann::json& model_config, int64_t vocabulary) {
  const nlohmann::json settings = generation_settings(files);
  const auto first = [&](const char* key) -> std::optional<int32_t> {
    for (const nlohmann::json* file : {&settings, &model_config}) {
      if (const std::vector<int32_t> found = ids_of(*file, key); !found.empty()) return found.front();
    }
    return std::nullopt;
  };
  ExportedIds ids{.bos = first("bos_token_id"), .pad = first("pad_token_id")};
  if (tokenizer) {
    if (tokenizer->special().bos) ids.bos = tokenizer->special().bos;
    if (tokenizer->special().pad) ids.pad = tokenizer->special().pad;
  }
  const auto add = [&](int32_t id) {
    if (id >= 0 && id < vocabulary && std::find(ids.eos.begin(), ids.eos.end(), id) == ids.eos.end())
      ids.eos.push_back(id);
  };
  if (trained_end) add(*trained_end);
  if (tokenizer && tokenizer->end_of_document()) add(*tokenizer->end_of_document());
  for (const int32_t id : ids_of(settings, "eos_token_id")) add(id);
  if (ids.eos.empty()) {
    for (const int32_t id : ids_of(model_config, "eos_token_id")) add(id);
  }
  for (std::optional<int32_t>* id : {&ids.bos, &ids.pad}) {
    if (*id && (**id < 0 || **id >= vocabulary)) id->reset();
  }
  return ids;
}

void set_ids(nlohmann::json& config, const ExportedIds& ids) {
  const auto set = [&](const char* key, std::optional<int32_t> id) {
    config[key] = id ? nlohmann::json(*id) : nlohmann::json();
  };
  set("bos_token_id", ids.bos);
  set("eos_token_id", ids.eos.empty() ? std::nullopt : std::optional(ids.eos.front()));
  set("pad_token_id", ids.pad);
}

nlohmann::json generation_config(const data::TokenizerFiles& files, const ExportedIds& ids) {
  nlohmann::json settings = generation_settings(files);
  if (settings.empty()) settings["_from_model_config"] = true;
  if (ids.bos) settings["bos_token_id"] = *ids.bos;
  if (ids.pad) settings["pad_token_id"] = *ids.pad;
  if (ids.eos.size() == 1) {
    settings["eos_token_id"] = ids.eos.front();
  } else if (!ids.eos.empty()) {
    settings["eos_token_id"] = ids.eos;
  }
  return settings;
}

}  // namespace ridgeline::train
