// Backward of attention_body.h: for every query head, key blocks ascending, and for each the query blocks that see it,
// ascending. dK and dV of a key block collect over query blocks, dQ^T of a head over key blocks. Queries are packed
// when the first key block meets them and dQ is written when the last has, so that memory is read beside arithmetic.
#pragma once

#include "ridgeline/ops/cpu/attention_body.h"

namespace ridgeline::ops::cpu {
namespace {

template <typename S, typename E>
class Backward {
 public:
  explicit Backward(const AttentionItem& item)
      : item_(item),
        width_(round_up(item.head_width, kPanel)),
        tokens_(round_up(item.queries, kPanel)),
        dropout_(item) {
    Bump bump{static_cast<char*>(item.workspace)};
    q_transposed_ = bump.take<E>(tokens_ * width_);
    dout_transposed_ = bump.take<E>(tokens_ * width_);
    q_rows_ = bump.take<E>(tokens_ * width_);
    dout_rows_ = bump.take<E>(tokens_ * width_);
    dq_transposed_ = bump.take<float>(tokens_ * width_);
    lse_ = bump.take<float>(tokens_);
    delta_ = bump.take<float>(tokens_);
    k_rows_ = bump.take<E>(kBackwardKeys * width_);
    v_rows_ = bump.take<E>(kBackwardKeys * width_);
    k_transposed_ = bump.take<E>(kBackwardKeys * width_);
    p_left_ = bump.take<E>(kBackwardKeys * kBackwardQueries);
    ds_left_ = bump.take<E>(kBackwardKeys * kBackwardQueries);
    if constexpr (sizeof(E) == 2) {
      ds_right_ = bump.take<E>(kBackwardKeys * kPanel);
      scores_ = bump.take<float>(kPanel * kPanel);
      dp_ = bump.take<float>(kPanel * kPanel);
    }
    kv_rows_ = item.group > 1 ? round_up(tokens_, kBackwardKeys) : kBackwardKeys;
    dk_ = bump.take<float>(kv_rows_ * width_);
    dv_ = bump.take<float>(kv_rows_ * width_);
  }

  void run() {
    for (int64_t head = 0; head < item_.group; ++head) {
      seen_ = packed_ = 0;
      __builtin_memset(dq_transposed_, 0, static_cast<size_t>(tokens_ * width_) * sizeof(float));
      for (int64_t key = 0; key < tokens_; key += kBackwardKeys) key_block(head, key);
    }
  }

 private:
  void key_block(int64_t head, int64_t key) {
    const int64_t block = smaller(kBackwardKeys, tokens_ - key), row = item_.group > 1 ? key : 0;
    if (item_.group == 1 || (head == 0 && key == 0)) {
      const size_t bytes = static_cast<size_t>(kv_rows_ * width_) * sizeof(float);
      __builtin_memset(dk_, 0, bytes);
      __builtin_memset(dv_, 0, bytes);
    }
    pack_keys(key, block);
    while (seen_ < item_.queries && (item_.first_keys == nullptr || item_.first_keys[seen_] < key + block)) ++seen_;
    const int64_t seen = round_up(seen_, kPanel);
    for (int64_t query = key / kBackwardQueries * kBackwardQueries; query < seen; query += kBackwardQueries) {
      const int64_t end = smaller(seen, query + kBackwardQueries);
      pack_queries(head, end);
      plan_ahead(head, key, query, end, seen);
      block_pair(head, key, block, larger(query, key), end, row);
    }
    if (head + 1 < item_.group) return;
    const int64_t rows = smaller(block, item_.keys - key), stride = item_.kv_stride, panel = kv_rows_ * kPanel;
    unpack_rows(static_cast<S*>(item_.dk) + key * stride, stride, dk_ + row * kPanel, panel, rows, item_.head_width,
                item_.scale);
    unpack_rows(static_cast<S*>(item_.dv) + key * stride, stride, dv_ + row * kPanel, panel, rows, item_.head_width,
                1.0F);
  }

  // Up to `end`, as the first key block that they see comes.
  void pack_queries(int64_t head, int64_t end) {
    const S* q = head_of<S>(item_.q, head, item_.head_width);
    const S* dout = head_of<S>(item_.dout, head, item_.head_width);
    const S* out = head_of<S>(static_cast<const void*>(item_.out), head, item_.head_width);
    for (int64_t& i = packed_; i < end; i += kPanel) {
      const int64_t rows = smaller(kPanel, item_.queries - i), width = item_.head_width;
      const S *q_at = q + i * item_.q_stride, *dout_at = dout + i * item_.out_stride;
      pack_rows_right(q_rows_ + i * kPanel, tokens_ * kPanel, q_at, item_.q_stride, rows, kPanel, width);
      pack_transposed_right(q_transposed_ + i * width_, q_at, item_.q_stride, rows, width);
      pack_rows_right(dout_rows_ + i * kPanel, tokens_ * kPanel, dout_at, item_.out_stride, rows, kPanel, width);
      pack_transposed_right(dout_transposed_ + i * width_, dout_at, item_.out_stride, rows, width);
      for (int64_t r = 0; r < kPanel; ++r) {
        // Beyond the last query Q and dO are zero; with lse = 0 its probabilities are finite and contribute nothing.
        const bool real = r < rows;
        lse_[i + r] = real ? item_.lse[head * item_.queries + i + r] * kLog2e : 0.0F;
        delta_[i + r] = real ? dot(out + (i + r) * item_.out_stride, dout_at + r * item_.out_stride) : 0.0F;
      }
    }
  }

  float dot(const S* a, const S* b) const {
    const int64_t whole = item_.head_width / kLanes * kLanes;
    F sums{};
    for (int64_t d = 0; d < whole; d += kLanes) sums = fma(load(a + d), load(b + d), sums);
    float sum = sum_lanes(sums);
    for (int64_t d = whole; d < item_.head_width; ++d) sum += to_float(a[d]) * to_float(b[d]);
    return sum;
  }

  void pack_keys(int64_t key, int64_t block) {
    const S* k = static_cast<const S*>(item_.k) + key * item_.kv_stride;
    const S* v = static_cast<const S*>(item_.v) + key * item_.kv_stride;
    const int64_t rows = smaller(block, item_.keys - key), width = item_.head_width, stride = item_.kv_stride;
    pack_rows(k_rows_, kBackwardKeys * kPanel, k, stride, rows, block, width);
    pack_rows(v_rows_, kBackwardKeys * kPanel, v, stride, rows, block, width);
    for (int64_t j = 0; j < block; j += kPanel) {
      pack_transposed(k_transposed_ + j * width_, k + j * stride, stride, smaller(kPanel, rows - j), width);
    }
  }

  // While a block pair is computed: the next queries when they are new, a part of the next keys, and where results go.
  void plan_ahead(int64_t head, int64_t key, int64_t query, int64_t end, int64_t seen) {
    const int64_t width = item_.head_width, kv = item_.kv_stride;
    ahead_.clear();
    const int64_t next = smaller(kBackwardQueries, item_.queries - end);
    if (end == packed_ && next > 0) {
      ahead_.add(head_of<S>(item_.q, head, width) + end * item_.q_stride, item_.q_stride, next, width);
      ahead_.add(head_of<S>(item_.dout, head, width) + end * item_.out_stride, item_.out_stride, next, width);
      ahead_.add(head_of<S>(static_cast<const void*>(item_.out), head, width) + end * item_.out_stride,
                 item_.out_stride, next, width);
    }
    // The query blocks of this key block share the rows of the next.
    const int64_t blocks = larger(1, (seen - key) / kBackwardQueries), share = (kBackwardKeys + blocks - 1) / blocks;
    const int64_t begin = key + kBackwardKeys + (query - key) / kBackwardQueries * share;
    const int64_t rows = smaller(share, smaller(item_.keys, key + 2 * kBackwardKeys) - begin);
    ahead_.add(static_cast<const S*>(item_.k) + begin * kv, kv, rows, width);
    ahead_.add(static_cast<const S*>(item_.v) + begin * kv, kv, rows, width);
  }

  // One key block against the queries [query, end), at most kBackwardQueries.
  void block_pair(int64_t head, int64_t key, int64_t block, int64_t query, int64_t end, int64_t kv_row) {
    const int64_t panels = width_ / kPanel;
    for (int64_t i = query; i < end; i += kPanel) {
      const int64_t rows = smaller(block, i + kPanel - key);  // keys that some query of the panel sees
      const FirstKeys first_keys(item_, i, smaller(kPanel, item_.queries - i));
      if (item_.threshold > 0) dropout_.start(head, i);
      E *p_left = p_left_ + (i - query) * kBackwardKeys, *ds_left = ds_left_ + (i - query) * kBackwardKeys;
      // For bf16 in strips, so that scores and dP^T live in a few kilobytes; f32 has them where P^T and dS^T come.
      constexpr int64_t kStrip = sizeof(E) == 2 ? kPanel : kBackwardKeys;
      for (int64_t r = 0; r < rows; r += kStrip) {
        const int64_t strip = smaller(kStrip, rows - r), at = r * kPanel, chunk = kBackwardKeys * kPanel;
        float *scores = scores_, *dp = dp_;
        if constexpr (sizeof(E) == 4) scores = p_left, dp = ds_left;
        product(scores, strip, k_rows_ + at, chunk, q_transposed_ + i * width_, panels, false);
        product(dp, strip, v_rows_ + at, chunk, dout_transposed_ + i * width_, panels, false);
        mask_scores(scores, strip, key + r, i, first_keys);
        if (item_.threshold > 0) {
          differentiate<true>(scores, dp, p_left + at, ds_left + at, ds_right_ + at, key + r, i, strip);
        } else {
          differentiate<false>(scores, dp, p_left + at, ds_left + at, ds_right_ + at, key + r, i, strip);
        }
      }
      const E* ds_right = ds_right_;
      if constexpr (sizeof(E) == 4) ds_right = ds_left;
      product(dq_transposed_ + i * width_, width_, k_transposed_, width_ * kPanel, ds_right, rows / kPanel, true);
      if (i < key + block) finish_queries(head, i);
    }
    // Where the diagonal crosses, each strip of 32 keys starts at its own query; below it the block is one strip.
    const bool diagonal = query < key + block;
    for (int64_t r = 0; r < block; r += diagonal ? kPanel : block) {
      const int64_t first = larger(query, key + r) - query, chunks = (end - query - first) / kPanel;
      if (chunks <= 0) break;
      const int64_t rows = diagonal ? kPanel : block, left = first * kBackwardKeys + r * kPanel;
      for (int64_t p = 0; p < panels; ++p) {
        const int64_t right = p * tokens_ * kPanel + (query + first) * kPanel,
                      to = (p * kv_rows_ + kv_row + r) * kPanel;
        product(dv_ + to, rows, p_left_ + left, kBackwardKeys * kPanel, dout_rows_ + right, chunks, true);
        product(dk_ + to, rows, ds_left_ + left, kBackwardKeys * kPanel, q_rows_ + right, chunks, true);
      }
    }
  }

  // P^T and dS^T of `rows` keys and one panel of queries, from scores and dP^T.
  template <bool kDropout>
  void differentiate(const float* scores, const float* dp_t, E* p_left, E* ds_left, E* ds_right, int64_t key,
                     int64_t query, int64_t rows) {
    const float factor = item_.scale * kLog2e;
    Ahead ahead = ahead_;
    alignas(64) float keep[4][kPanel];
    F lse[kPanelLanes], delta[kPanelLanes];
    for (int v = 0; v < kPanelLanes; ++v) {
      lse[v] = load(lse_ + query + v * kLanes);
      delta[v] = load(delta_ + query + v * kLanes);
    }
    for (int64_t r = 0; r < rows; r += 2) {
      ahead.step();
      if (kDropout && r % 4 == 0) dropout_.factors(keep, key + r);
      RowPair p, ds;
      for (int i = 0; i < 2; ++i) {
        for (int v = 0; v < kPanelLanes; ++v) {
          const int64_t at = (r + i) * kPanel + v * kLanes;
          const F probability = exp2(fma(load(scores + at), splat(factor), -lse[v]));
          const F factors = kDropout ? load(keep[r % 4 + i] + v * kLanes) : splat(1.0F);
          const F dp = kDropout ? load(dp_t + at) * factors : load(dp_t + at);
          p.row[i][v] = kDropout ? probability * factors : probability;
          ds.row[i][v] = probability * (dp - delta[v]);
        }
      }
      round_like<S, E>(p);
      round_like<S, E>(ds);
      store_left(p_left + r * kPanel, p);
      store_left(ds_left + r * kPanel, ds);
      if constexpr (sizeof(E) == 2) store_right(ds_right + r * kPanel, ds);
    }
    ahead_ = ahead;
  }

  // dQ of a panel whose last key block is done.
  void finish_queries(int64_t head, int64_t query) {
    const int64_t rows = smaller(kPanel, item_.queries - query);
    S* dq = head_of<S>(item_.dq, head, item_.head_width) + query * item_.q_stride;
    unpack_transposed(dq, item_.q_stride, dq_transposed_ + query * width_, rows, item_.head_width, item_.scale);
  }

  const AttentionItem& item_;
  const int64_t width_, tokens_;  // padded to panels
  // Of one query head: Q^T, dO^T [panel of queries][width][32] and Q, dO [panel of width][queries][32], all in B form.
  E *q_transposed_, *dout_transposed_, *q_rows_, *dout_rows_;
  float* dq_transposed_;  // [panel of queries][width][32]
  float *lse_, *delta_;   // [queries], lse in units of log2
  // Of one key block: K, V in A form, K^T in A form.
  E *k_rows_, *v_rows_, *k_transposed_;
  // Of one block pair: P^T and dS^T in A form (one panel per 32 queries). For bf16 also scores, dP^T and dS^T in B
  // form, of one panel; f32 has them where P^T and dS^T come.
  E *p_left_, *ds_left_, *ds_right_ = nullptr;
  float *scores_ = nullptr, *dp_ = nullptr;
  float *dk_, *dv_;  // [panel of width][kv_rows][32]
  int64_t kv_rows_;  // all keys when a group of query heads collects, else one block
  // Of this head: queries that see the key block at hand or one before, and how many are packed.
  int64_t seen_ = 0, packed_ = 0;
  Ahead ahead_;
  Dropout dropout_;
};

template <typename S, typename E>
void backward(const AttentionItem& item) {
  const TileSession session;
  Backward<S, E>(item).run();
}

}  // namespace
}  // namespace ridgeline::ops::cpu
