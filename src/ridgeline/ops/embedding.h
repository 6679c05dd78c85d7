// Token (and learned position) embedding.
//   out[n] = table[tokens[n]] + positions_table[positions[n]]      (the second term only when a table is given)
// Shapes: tokens, positions i32 [N]; table [V][C]; positions_table [P][C]; out [N][C].
// Dtypes: tables f32, bf16 or f16 (both the same), out and dout any of the three; gradients accumulate into f32.
// Tokens must lie in [0, V), positions in [0, P): checked (RL_CHECK), since outside data was validated before.
#pragma once

#include <cstdint>

#include "ridgeline/base/dtype.h"
#include "ridgeline/device/stream.h"
#include "ridgeline/ops/workspace.h"

namespace ridgeline::ops {

void embedding_forward(device::Stream& stream, int64_t n, int64_t c, int64_t v, int64_t p, const int32_t* tokens,
                       const int32_t* positions, ConstRef table, ConstRef positions_table, Ref out);

int64_t embedding_backward_workspace_bytes(int64_t n, int64_t v, int team_size);

// dtable[rows[n]][c] += dout[n][c] (f32). Deterministic: rows with the same index are added in ascending n; independent
// of the team's size. `rows` are tokens or positions; V the number of rows of dtable.
void embedding_backward(device::Stream& stream, int64_t n, int64_t c, int64_t v, const int32_t* rows, ConstRef dout,
                        float* dtable, Workspace workspace);

}  // namespace ridgeline::ops
