// What block.cpp and block_memory.cpp share.
#pragma once

#include "ridgeline/model/block.h"

namespace ridgeline::model {

// What Recompute leaves of a forward: what products and attention made, and what element-wise operators made of it.
bool keeps_products(Recompute recompute);
bool keeps_outputs(Recompute recompute);
// Nor outputs of norms where a slice normalises its own tokens only.
bool keeps_norms(const LocalShape& shape);

// carve_block_scratch() without the workspace.
BlockScratch carve_block_buffers(Carver& carver, const LocalShape& shape, Pass pass);

}  // namespace ridgeline::model
