// Causal softmax attention, blocked: scores are never whole in memory.
//
//   S[i][j] = scale * q[i]·k[j]  for first[i] <= j <= i + query_start, else -inf
//   P       = softmax_j(S),  P~ = dropout(P),  out[i] = sum_j P~[i][j] v[j]
//   lse[i]  = log sum_j exp(S[i][j])
//
// Shapes (row-major, strides in elements between consecutive tokens, heads lie [head][D] inside a token):
//   q, out   [B][Tq][H][D]      k, v  [B][Tk][KV][D]      lse f32 [B][H][Tq]
// H is a multiple of KV; query head h reads key head h / (H / KV) (grouped-query attention; KV = H is multi-head).
// first[i] is 0, or where the query's document begins (Attention::first_keys): tiles before it are not computed.
// Training: Tq = Tk, query_start = 0. Generation: Tk cached keys, Tq new queries at positions query_start … (Tk =
// query_start + Tq). Dtypes: q, k, v, out (and gradients) all f32, all bf16 or all f16; scores, softmax and sums in
// fp32. In bf16 the probabilities are rounded to bf16 before the product with v (and dS before its products), as the
// matrix unit needs them; in f16 they stay fp32. Dropout: address (sample, layer, head, query, key), see Dropout below;
// 0 = none. Source: Dao, "FlashAttention-2", 2023 (tiling and backward by recomputation).
#pragma once

#include <cstdint>

#include "ridgeline/base/dtype.h"
#include "ridgeline/device/stream.h"
#include "ridgeline/ops/workspace.h"

namespace ridgeline::ops {

// keep(sample, query, key) = word (key % 4) of philox(random_key, {key / 4, query, first_head + head, sample}) >=
// probability * 2^32; kept values are scaled by 1 / (1 - probability). `query` and `key` are positions: a new query at
// the end of a cache counts from query_start.
struct AttentionDropout {
  float probability = 0.0F;
  uint64_t random_key = 0;  // random_key(seed, step, Purpose::attention_dropout)
  // The number of head 0 in the whole model: its layer times the heads of a layer; of a slice, and the heads before it.
  uint32_t first_head = 0;
  const uint32_t* samples = nullptr;  // [B] global sample numbers; may be null when probability = 0
};

struct Attention {
  int64_t batch = 0, queries = 0, keys = 0, heads = 0, kv_heads = 0, head_width = 0;  // B, Tq, Tk, H, KV, D (D <= 256)
  int64_t query_start = 0;
  float scale = 1.0F;  // > 0, usually 1/sqrt(D)
  AttentionDropout dropout;
  // [B][Tq] the first key that each query sees: at most its own, and never less than the query before it has
  // (RL_CHECK). Null: key 0.
  const int32_t* first_keys = nullptr;
  // Elements between consecutive tokens; consecutive samples are `queries` (q side) or `keys` (k, v side) tokens apart,
  // or `kv_batch_stride` elements when that is not 0 (a cache longer than Tk).
  int64_t q_stride = 0, kv_stride = 0, out_stride = 0, kv_batch_stride = 0;
};

// Bytes of workspace, which both check. Enough for the forward and, where Tq = Tk,
// for the backward; does not shrink when a length grows, so one buffer sized for the longest cache serves a whole
// generation (size it for the largest Tq too: up to 4 new queries need far less than more).
int64_t attention_workspace_bytes(const Attention& shape, DType dtype, int team_size);

// lse may be null (generation). out must not alias q, k, v.
void attention_forward(device::Stream& stream, const Attention& shape, ConstRef q, ConstRef k, ConstRef v, Ref out,
                       float* lse, Workspace workspace);

// dq, dk, dv have the strides of q, k, v and are overwritten. dout has out's stride. Only for queries = keys,
// query_start = 0. Deterministic: no atomics, fixed order, independent of the team's size.
void attention_backward(device::Stream& stream, const Attention& shape, ConstRef q, ConstRef k, ConstRef v,
                        ConstRef out, ConstRef dout, const float* lse, Ref dq, Ref dk, Ref dv, Workspace workspace);

}  // namespace ridgeline::ops
