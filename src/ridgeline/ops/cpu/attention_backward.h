// Backward of attention_body.h: for every query head, key blocks ascending, and for each the query blocks that see it,
// ascending. dK and dV of a key block collect over query blocks, dQ^T of a head over key blocks.
#pragma once

#include "ridgeline/ops/cpu/attention_body.h"

namespace ridgeline::ops::cpu {
namespace {

template <typename E>
struct BackwardBuffers {
  // Of one query head: Q^T, dO^T [panel of queries][width][32] and Q, dO [panel of width][queries][32], all in B form.
  E *q_transposed, *dout_transposed, *q_rows, *dout_rows;
  float* dq_transposed;  // [panel of queries][width][32]
  float *lse, *delta;    // [queries], lse in units of log2
  // Of one key block: K, V in A form, K^T in A form.
  E *k_rows, *v_rows, *k_transposed;
  // Of one block pair: P^T and dS^T in A form (one panel per 32 queries), dS^T of one panel in B form.
  E *p_left, *ds_left, *ds_right;
  float *scores, *dp;
  float *dk, *dv;   // [panel of width][kv_rows][32]
  int64_t kv_rows;  // all keys when a group of query heads collects, else one block
};

template <typename E>
BackwardBuffers<E> carve(const AttentionItem& item, int64_t width, int64_t tokens) {
  Bump bump{static_cast<char*>(item.workspace)};
  BackwardBuffers<E> b;
  b.q_transposed = bump.take<E>(tokens * width);
  b.dout_transposed = bump.take<E>(tokens * width);
  b.q_rows = bump.take<E>(tokens * width);
  b.dout_rows = bump.take<E>(tokens * width);
  b.dq_transposed = bump.take<float>(tokens * width);
  b.lse = bump.take<float>(tokens);
  b.delta = bump.take<float>(tokens);
  b.k_rows = bump.take<E>(kBackwardKeys * width);
  b.v_rows = bump.take<E>(kBackwardKeys * width);
  b.k_transposed = bump.take<E>(kBackwardKeys * width);
  b.p_left = bump.take<E>(kBackwardKeys * kBackwardQueries);
  b.ds_left = bump.take<E>(kBackwardKeys * kBackwardQueries);
  b.ds_right = bump.take<E>(kBackwardKeys * kPanel);
  b.scores = bump.take<float>(kBackwardKeys * kPanel);
  b.dp = bump.take<float>(kBackwardKeys * kPanel);
  b.kv_rows = item.group > 1 ? round_up(tokens, kBackwardKeys) : kBackwardKeys;
  b.dk = bump.take<float>(b.kv_rows * width);
  b.dv = bump.take<float>(b.kv_rows * width);
  return b;
}

template <typename S, typename E>
void pack_head(const BackwardBuffers<E>& b, const AttentionItem& item, int64_t head, int64_t width, int64_t tokens) {
  const S *q = head_of<S>(item.q, head, item.head_width), *dout = head_of<S>(item.dout, head, item.head_width);
  const S* out = head_of<S>(static_cast<const void*>(item.out), head, item.head_width);
  pack_rows_right(b.q_rows, tokens * kPanel, q, item.q_stride, item.queries, tokens, item.head_width);
  pack_rows_right(b.dout_rows, tokens * kPanel, dout, item.out_stride, item.queries, tokens, item.head_width);
  for (int64_t i = 0; i < tokens; i += kPanel) {
    const int64_t rows = smaller(kPanel, item.queries - i);
    pack_transposed_right(b.q_transposed + i * width, q + i * item.q_stride, item.q_stride, rows, item.head_width);
    pack_transposed_right(b.dout_transposed + i * width, dout + i * item.out_stride, item.out_stride, rows,
                          item.head_width);
  }
  __builtin_memset(b.dq_transposed, 0, static_cast<size_t>(tokens * width) * sizeof(float));
  const float* lse = item.lse + head * item.queries;
  const int64_t whole = item.head_width / kLanes * kLanes;
  for (int64_t i = 0; i < tokens; ++i) {
    // Beyond the last query Q and dO are zero; with lse = 0 its probabilities are finite and contribute nothing.
    b.lse[i] = i < item.queries ? lse[i] * kLog2e : 0.0F;
    b.delta[i] = 0;
    if (i >= item.queries) continue;
    const S *a = out + i * item.out_stride, *c = dout + i * item.out_stride;
    F sum{};
    for (int64_t d = 0; d < whole; d += kLanes) sum = fma(load(a + d), load(c + d), sum);
    float dot = sum_lanes(sum);
    for (int64_t d = whole; d < item.head_width; ++d) dot += to_float(a[d]) * to_float(c[d]);
    b.delta[i] = dot;
  }
}

template <typename S, typename E>
void pack_keys(const BackwardBuffers<E>& b, const AttentionItem& item, int64_t key, int64_t block, int64_t width) {
  const S *k = static_cast<const S*>(item.k) + key * item.kv_stride,
          *v = static_cast<const S*>(item.v) + key * item.kv_stride;
  const int64_t rows = smaller(block, item.keys - key);
  pack_rows(b.k_rows, kBackwardKeys * kPanel, k, item.kv_stride, rows, block, item.head_width);
  pack_rows(b.v_rows, kBackwardKeys * kPanel, v, item.kv_stride, rows, block, item.head_width);
  for (int64_t j = 0; j < block; j += kPanel) {
    pack_transposed(b.k_transposed + j * width, k + j * item.kv_stride, item.kv_stride, smaller(kPanel, rows - j),
                    item.head_width);
  }
}

// P^T and dS^T of `rows` keys and one panel of queries, from its scores and dP^T.
template <typename S, typename E, bool kDropout>
void probabilities_and_gradients(const BackwardBuffers<E>& b, E* p_left, E* ds_left, const AttentionItem& item,
                                 int64_t head, int64_t key, int64_t query, int64_t rows) {
  const float factor = item.scale * kLog2e;
  float keep[4][kPanel];
  F lse[kPanelLanes], delta[kPanelLanes];
  for (int v = 0; v < kPanelLanes; ++v) {
    lse[v] = load(b.lse + query + v * kLanes);
    delta[v] = load(b.delta + query + v * kLanes);
  }
  for (int64_t r = 0; r < rows; r += 2) {
    if (kDropout && r % 4 == 0) dropout_factors(keep, item, head, key + r, query);
    RowPair p, ds;
    for (int i = 0; i < 2; ++i) {
      for (int v = 0; v < kPanelLanes; ++v) {
        const int64_t at = (r + i) * kPanel + v * kLanes;
        const F probability = exp2(fma(load(b.scores + at), splat(factor), -lse[v]));
        const F factors = kDropout ? load(keep[r % 4 + i] + v * kLanes) : splat(1.0F);
        const F dp = kDropout ? load(b.dp + at) * factors : load(b.dp + at);
        p.row[i][v] = kDropout ? probability * factors : probability;
        ds.row[i][v] = probability * (dp - delta[v]);
      }
    }
    round_like<S, E>(p);
    round_like<S, E>(ds);
    store_left(p_left + r * kPanel, p);
    store_left(ds_left + r * kPanel, ds);
    if constexpr (sizeof(E) == 2) store_right(b.ds_right + r * kPanel, ds);
  }
}

// One key block against the queries [query, query_end), at most kBackwardQueries: dQ^T, dK and dV collect.
template <typename S, typename E>
void block_pair(const BackwardBuffers<E>& b, const AttentionItem& item, int64_t head, int64_t width, int64_t tokens,
                int64_t key, int64_t block, int64_t query, int64_t query_end, float* dk, float* dv) {
  const int64_t width_panels = width / kPanel;
  for (int64_t i = query; i < query_end; i += kPanel) {
    const int64_t rows = smaller(block, i + kPanel - key);  // keys that some query of the panel sees
    E *p_left = b.p_left + (i - query) * kBackwardKeys, *ds_left = b.ds_left + (i - query) * kBackwardKeys;
    product(b.scores, rows, b.k_rows, kBackwardKeys * kPanel, b.q_transposed + i * width, width_panels, false);
    product(b.dp, rows, b.v_rows, kBackwardKeys * kPanel, b.dout_transposed + i * width, width_panels, false);
    mask_scores(b.scores, rows, key, i);
    if (item.threshold > 0) {
      probabilities_and_gradients<S, E, true>(b, p_left, ds_left, item, head, key, i, rows);
    } else {
      probabilities_and_gradients<S, E, false>(b, p_left, ds_left, item, head, key, i, rows);
    }
    const E* ds_right = b.ds_right;
    if constexpr (sizeof(E) == 4) ds_right = ds_left;
    product(b.dq_transposed + i * width, width, b.k_transposed, width * kPanel, ds_right, rows / kPanel, true);
  }
  // Where the diagonal crosses, each strip of 32 keys starts at its own query; below it the block is one strip.
  const bool diagonal = query < key + block;
  for (int64_t r = 0; r < block; r += diagonal ? kPanel : block) {
    const int64_t rows = diagonal ? kPanel : block;
    const int64_t first = larger(query, key + r) - query, chunks = (query_end - query - first) / kPanel;
    if (chunks <= 0) break;
    const int64_t left = first * kBackwardKeys + r * kPanel;
    for (int64_t p = 0; p < width_panels; ++p) {
      const int64_t right = p * tokens * kPanel + (query + first) * kPanel, to = (p * b.kv_rows + r) * kPanel;
      product(dv + to, rows, b.p_left + left, kBackwardKeys * kPanel, b.dout_rows + right, chunks, true);
      product(dk + to, rows, b.ds_left + left, kBackwardKeys * kPanel, b.q_rows + right, chunks, true);
    }
  }
}

template <typename S, typename E>
void backward(const AttentionItem& item) {
  const TileSession session;
  const int64_t width = round_up(item.head_width, kPanel), tokens = round_up(item.queries, kPanel);
  const BackwardBuffers<E> b = carve<E>(item, width, tokens);
  const size_t kv_bytes = static_cast<size_t>(b.kv_rows * width) * sizeof(float);
  for (int64_t head = 0; head < item.group; ++head) {
    pack_head<S, E>(b, item, head, width, tokens);
    for (int64_t key = 0; key < tokens; key += kBackwardKeys) {
      const int64_t block = smaller(kBackwardKeys, tokens - key);
      const int64_t row = item.group > 1 ? key : 0;
      float *dk = b.dk + row * kPanel, *dv = b.dv + row * kPanel;
      if (item.group == 1 || (head == 0 && key == 0)) {
        __builtin_memset(b.dk, 0, kv_bytes);
        __builtin_memset(b.dv, 0, kv_bytes);
      }
      pack_keys<S, E>(b, item, key, block, width);
      for (int64_t query = key; query < tokens; query += kBackwardQueries) {
        block_pair<S, E>(b, item, head, width, tokens, key, block, query, smaller(tokens, query + kBackwardQueries), dk,
                         dv);
      }
      if (head + 1 < item.group) continue;
      const int64_t rows = smaller(block, item.keys - key), stride = item.kv_stride;
      unpack_rows(static_cast<S*>(item.dk) + key * stride, stride, dk, b.kv_rows * kPanel, rows, item.head_width,
                  item.scale);
      unpack_rows(static_cast<S*>(item.dv) + key * stride, stride, dv, b.kv_rows * kPanel, rows, item.head_width, 1.0F);
    }
    S* dq = head_of<S>(item.dq, head, item.head_width);
    for (int64_t i = 0; i < item.queries; i += kPanel) {
      unpack_transposed(dq + i * item.q_stride, item.q_stride, b.dq_transposed + i * width,
                        smaller(kPanel, item.queries - i), item.head_width, item.scale);
    }
  }
}

}  // namespace
}  // namespace ridgeline::ops::cpu
