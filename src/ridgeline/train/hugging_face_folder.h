// A Hugging Face folder as one of our models: what `eval`, `generate`, `export`, `inspect` and train.init_from open.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "ridgeline/checkpoint/hugging_face.h"
#include "ridgeline/model/transformer_config.h"
#include "ridgeline/train/config.h"

namespace ridgeline::train {

struct HuggingFaceFolder {
  std::filesystem::path folder;
  // As its weights are: where config.json ties the head to the vocabulary matrix, but both are stored and differ, the
  // model is not tied (transformers decides the same).
  model::TransformerConfig config;
  model::DropoutRates dropout;
  // What whoever opened it should be told, a sentence each; usually none.
  std::vector<std::string> notes;
  // Null where the folder has a config.json but no weights, and `weights_needed` was false.
  std::shared_ptr<const checkpoint::HuggingFaceModel> weights;
};

// Errors of from_hugging_face and of HuggingFaceModel.
HuggingFaceFolder open_hugging_face(const std::filesystem::path& folder, bool weights_needed = true);

// with_imported_model() of a folder. Error when its dropout rates differ and model.dropout does not say which one this
// run is to have.
Config with_imported_folder(Config config, const HuggingFaceFolder& folder);

}  // namespace ridgeline::train
