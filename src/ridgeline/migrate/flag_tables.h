// The flags that are known, by whose they are.
#pragma once

#include <span>

#include "ridgeline/migrate/original.h"

namespace ridgeline::migrate {

// Of Megatron-LM and Megatron-DeepSpeed.
std::span<const FlagRow> megatron_flags();
// Of Hugging Face's TrainingArguments, and those that scripts around it usually add.
std::span<const FlagRow> trainer_flags();

}  // namespace ridgeline::migrate
