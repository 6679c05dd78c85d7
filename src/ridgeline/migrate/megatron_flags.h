// The flags of Megatron-LM and Megatron-DeepSpeed.
#pragma once

#include <span>

#include "ridgeline/migrate/original.h"

namespace ridgeline::migrate {

std::span<const FlagRow> megatron_flags();

}  // namespace ridgeline::migrate
