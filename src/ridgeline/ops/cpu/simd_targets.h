// The Highway targets of the element-wise operators; included before hwy/foreach_target.h.
#pragma once

#include "ridgeline/device/cpu/vector_targets.h"  // IWYU pragma: export

namespace ridgeline::ops::cpu {

// Makes Highway choose the target of device::isa(), which RIDGELINE_ISA may have lowered. Every op calls it before its
// first dispatch; all calls but the first cost a load.
void agree_on_targets();

}  // namespace ridgeline::ops::cpu
