// Token (and learned position) embedding, by a table that may hold a slice of the vocabulary.
//   out[n] = table[tokens[n] - held.first] + positions_table[positions[n]]
// The second term only when a table is given. The first is zero for a token whose row the table does not hold: it is in
// another's slice.
// Shapes: tokens, positions i32 [N]; table [held.count][C]; positions_table [P][C]; out [N][C].
// Dtypes: tables f32, bf16 or f16 (both the same), out and dout any of the three; gradients accumulate into f32.
// Tokens must lie in [0, V), V = held.whole, positions in [0, P): checked (RL_CHECK), since outside data was validated
// before.
//
// The outputs of slices that divide the vocabulary, one of which was given the positions_table, add up to the output of
// the whole: one addend per element is not zero, or two. With two the sum is rounded once, as the whole is, when `out`
// can hold what the tables hold (the same dtype, or f32). (A row's -0 may come out as +0.)
#pragma once

#include <cstdint>

#include "ridgeline/base/dtype.h"
#include "ridgeline/device/stream.h"
#include "ridgeline/ops/index_range.h"
#include "ridgeline/ops/workspace.h"

namespace ridgeline::ops {

void embedding_forward(device::Stream& stream, int64_t n, int64_t c, const IndexRange& held, int64_t p,
                       const int32_t* tokens, const int32_t* positions, ConstRef table, ConstRef positions_table,
                       Ref out);

// `v`: the rows of dtable.
int64_t embedding_backward_workspace_bytes(int64_t n, int64_t v, int team_size);

// dtable[rows[n] - held.first][c] += dout[n][c] (f32) where dtable holds that row; other n are skipped. Deterministic:
// rows with the same index are added in ascending n; independent of the team's size and of the slice. `rows` are tokens
// or positions, in [0, held.whole) (RL_CHECK); dtable [held.count][C].
void embedding_backward(device::Stream& stream, int64_t n, int64_t c, const IndexRange& held, const int32_t* rows,
                        ConstRef dout, float* dtable, Workspace workspace);

}  // namespace ridgeline::ops
