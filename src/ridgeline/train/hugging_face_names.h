// How each family's tensors are named and shaped in Hugging Face files: a table per family, used by import and export.
#pragma once

#include "ridgeline/checkpoint/hugging_face.h"
#include "ridgeline/model/transformer_config.h"

namespace ridgeline::train {

// Error for a family without a table.
checkpoint::NameTable hugging_face_names(const model::TransformerConfig& config);

}  // namespace ridgeline::train
