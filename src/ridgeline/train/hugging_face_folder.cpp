#include "ridgeline/train/hugging_face_folder.h"

#include <algorithm>

#include "ridgeline/base/error.h"
#include "ridgeline/train/hugging_face_names.h"

namespace ridgeline::train {
namespace {

namespace fs = std::filesystem;

bool holds_weights(const fs::path& folder) {
  std::error_code ignored;
  return fs::exists(folder / "model.safetensors", ignored) ||
         fs::exists(folder / "model.safetensors.index.json", ignored);
}

// "resid_pdrop = 0.1, attn_pdrop = 0".
std::string listed(const model::DropoutRates& rates) {
  std::string text;
  for (const auto& [name, rate] : rates) text += fmt::format("{}{} = {}", text.empty() ? "" : ", ", name, rate);
  return text;
}

void add_notes_on_options(HuggingFaceFolder& result) {
  const model::TransformerConfig& config = result.config;
  if (config.family == "llama" && config.rotary_width < config.head_width()) {
    result.notes.push_back(
        fmt::format("'{}': partial_rotary_factor: the first {} of a head's {} elements turn; transformers' LLaMA class "
                    "does not read this key",
                    result.folder.string(), config.rotary_width, config.head_width()));
  }
}

}  // namespace

HuggingFaceFolder open_hugging_face(const fs::path& folder, bool weights_needed) {
  HuggingFaceFolder result;
  result.folder = folder;
  const std::string where = (folder / "config.json").string();
  const nlohmann::json json = checkpoint::read_config(folder);
  result.config = model::from_hugging_face(json, where);
  result.dropout = model::hugging_face_dropout(json, where);
  add_notes_on_options(result);
  if (!weights_needed && !holds_weights(folder)) return result;
  checkpoint::TensorFolder files = checkpoint::open_weights(folder);
  result.notes.insert(result.notes.end(), files.notes().begin(), files.notes().end());
  if (result.config.tied) {
    if (const auto pair = checkpoint::differing_pair(files, hugging_face_names(result.config))) {
      result.config.tied = false;
      result.notes.push_back(fmt::format(
          "'{}': config.json says tie_word_embeddings, but '{}' and '{}' are both stored and differ: the model is read "
          "with a head of its own, as transformers does",
          folder.string(), pair->first, pair->second));
    }
  }
  result.weights = std::make_shared<checkpoint::HuggingFaceModel>(std::move(files), hugging_face_names(result.config));
  return result;
}

Config with_imported_folder(Config config, const HuggingFaceFolder& folder) {
  if (model::differ(folder.dropout) && !config.origins.contains("model.dropout")) {
    const auto largest = std::max_element(folder.dropout.begin(), folder.dropout.end(),
                                          [](const auto& a, const auto& b) { return a.second < b.second; });
    throw Error(fmt::format("'{}': {}: training has one dropout rate for all, model.dropout, and it is not given",
                            (folder.folder / "config.json").string(), listed(folder.dropout)),
                fmt::format("For example: --set model.dropout={} (0: none)", largest->second));
  }
  return with_imported_model(std::move(config), folder.config);
}

}  // namespace ridgeline::train
