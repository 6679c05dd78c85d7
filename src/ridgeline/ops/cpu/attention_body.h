// The attention kernels, written once for every instruction set; each translation unit that includes this compiles its
// own copy. Scores are held transposed, S^T [key][query], one panel of 32 queries at a time: maxima and sums over keys
// are then vertical, and P^T and dS^T come out in the forms that the following products take.
//   forward:   S^T = K Q^T,  O^T += V^T P^T
//   backward:  S^T = K Q^T,  dP^T = V dO^T,  dV += P^T dO,  dK += dS^T Q,  dQ^T += K^T dS^T
#pragma once

#include "ridgeline/ops/cpu/attention_dropout.h"
#include "ridgeline/ops/cpu/attention_pack.h"
#include "ridgeline/ops/cpu/attention_product.h"

namespace ridgeline::ops::cpu {
namespace {

constexpr float kLog2e = 0x1.715476p0F, kLn2 = 0x1.62e43p-1F;

struct Bump {
  char* next;
  template <typename T>
  T* take(int64_t count) {
    T* at = reinterpret_cast<T*>(next);
    next += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return at;
  }
};

template <typename S>
const S* head_of(const void* base, int64_t head, int64_t width) {
  return static_cast<const S*>(base) + head * width;
}
template <typename S>
S* head_of(void* base, int64_t head, int64_t width) {
  return static_cast<S*>(base) + head * width;
}

// Which key each query of a panel sees first.
struct FirstKeys {
  I of[kPanelLanes] = {};
  int64_t least = 0, most = 0;

  // Of the panel's `rows` queries from `query` on; lanes behind them see what the last one does.
  FirstKeys(const AttentionItem& item, int64_t query, int64_t rows) {
    if (item.first_keys == nullptr) return;
    const int32_t* const first = item.first_keys + query;
    int32_t lanes[kPanel];
    for (int64_t i = 0; i < kPanel; ++i) lanes[i] = first[smaller(i, rows - 1)];
    for (int v = 0; v < kPanelLanes; ++v) of[v] = load_as<I>(lanes + v * kLanes);
    least = first[0];
    most = first[rows - 1];
  }
};

// Scores whose key lies after the query, or before the first that it sees, become -inf; score row r is key `key + r`,
// lane i query `query + i`.
void mask_scores(float* scores, int64_t rows, int64_t key, int64_t query, const FirstKeys& first_keys) {
  for (int64_t r = 0; r < smaller(rows, first_keys.most - key); ++r) {
    const I its_key = splat_int(static_cast<int32_t>(key + r));
    for (int v = 0; v < kPanelLanes; ++v) {
      float* at = scores + r * kPanel + v * kLanes;
      store(at, first_keys.of[v] <= its_key ? load(at) : splat(-__builtin_inff()));
    }
  }
  for (int64_t r = larger(0, query - key + 1); r < rows; ++r) {
    const I first = splat_int(static_cast<int32_t>(smaller(key + r - query, kPanel)));
    for (int v = 0; v < kPanelLanes; ++v) {
      float* at = scores + r * kPanel + v * kLanes;
      store(at, lane_numbers() + v * kLanes >= first ? load(at) : splat(-__builtin_inff()));
    }
  }
}

// Two rows of a panel in registers.
struct RowPair {
  F row[2][kPanelLanes];
};

#if defined(__AVX512BF16__)
RL_INLINE __m512i to_bf16_row(const F (&row)[kPanelLanes]) {
  return bits_as<__m512i>(_mm512_cvtne2ps_pbh(row[1], row[0]));
}
#endif

// B form.
RL_INLINE void store_right(float* to, const RowPair& pair) {
  for (int r = 0; r < 2; ++r) {
    for (int v = 0; v < kPanelLanes; ++v) store(to + r * kPanel + v * kLanes, pair.row[r][v]);
  }
}
// A form.
RL_INLINE void store_left(float* to, const RowPair& pair) {
  store_right(to, pair);
}

#if defined(__AVX512BF16__)
RL_INLINE void store_left(bf16_t* to, const RowPair& pair) {
  _mm512_storeu_si512(to, to_bf16_row(pair.row[0]));
  _mm512_storeu_si512(to + kPanel, to_bf16_row(pair.row[1]));
}
RL_INLINE __m512i interleave_low() {
  return _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35,
                          3, 34, 2, 33, 1, 32, 0);
}
RL_INLINE void store_right(bf16_t* to, const RowPair& pair) {
  const __m512i even = to_bf16_row(pair.row[0]), odd = to_bf16_row(pair.row[1]);
  const __m512i low = interleave_low(), high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  _mm512_storeu_si512(to, _mm512_permutex2var_epi16(even, low, odd));
  _mm512_storeu_si512(to + kPanel, _mm512_permutex2var_epi16(even, high, odd));
}
#endif

// Probabilities and dS are rounded to bf16 before their products when the tensors are bf16; packing them as bf16 does
// it.
template <typename S, typename E>
RL_INLINE void round_like(RowPair& pair) {
  if constexpr (__is_same(S, bf16_t) && sizeof(E) == 4) {
    for (auto& row : pair.row) {
      for (F& v : row) v = round_to_bf16(v);
    }
  }
}

// Softmax state of one panel of queries; maxima in units of log2.
struct Running {
  F max[kPanelLanes], sum[kPanelLanes];
};

// The maximum before any score: below those that are finite in effect, and finite itself, since a query may see no key
// of a block, and then the exponentials of -inf less the maximum must be zero.
constexpr float kNoScore = -0x1p126F;

// Takes the scores of a key block into the running maximum; scales the sum, and O^T when it has contributions already.
void advance_max(Running& state, const float* scores, int64_t rows, float factor, float* out_t, int64_t out_rows) {
  F top[2][kPanelLanes];
  for (int v = 0; v < kPanelLanes; ++v) top[0][v] = top[1][v] = splat(-__builtin_inff());
  for (int64_t r = 0; r < rows; r += 2) {
    for (int i = 0; i < 2; ++i) {
      for (int v = 0; v < kPanelLanes; ++v) top[i][v] = max(top[i][v], load(scores + (r + i) * kPanel + v * kLanes));
    }
  }
  F correction[kPanelLanes];
  for (int v = 0; v < kPanelLanes; ++v) {
    const F next = max(max(top[0][v], top[1][v]) * factor, state.max[v]);
    correction[v] = exp2(state.max[v] - next);
    state.max[v] = next;
    state.sum[v] = state.sum[v] * correction[v];
  }
  for (int64_t r = 0; r < out_rows; ++r) {
    for (int v = 0; v < kPanelLanes; ++v) {
      float* at = out_t + r * kPanel + v * kLanes;
      store(at, load(at) * correction[v]);
    }
  }
}

// P^T of a key block in B form, from its scores; adds to the running sums.
template <typename S, typename E, bool kDropout>
void exponentials(E* probabilities, Running& state, const float* scores, int64_t rows, float factor,
                  const Dropout& dropout, int64_t key, Ahead& ahead) {
  alignas(64) float keep[4][kPanel];
  F sum[2][kPanelLanes] = {};
  for (int64_t r = 0; r < rows; r += 2) {
    ahead.step();
    if (kDropout && r % 4 == 0) dropout.factors(keep, key + r);
    RowPair pair;
    for (int i = 0; i < 2; ++i) {
      for (int v = 0; v < kPanelLanes; ++v) {
        const F x = load(scores + (r + i) * kPanel + v * kLanes);
        const F p = exp2(fma(x, splat(factor), -state.max[v]));
        sum[i][v] = sum[i][v] + p;
        pair.row[i][v] = kDropout ? p * load(keep[r % 4 + i] + v * kLanes) : p;
      }
    }
    round_like<S, E>(pair);
    store_right(probabilities + r * kPanel, pair);
  }
  for (int v = 0; v < kPanelLanes; ++v) state.sum[v] = state.sum[v] + (sum[0][v] + sum[1][v]);
}

// Divides O^T by the sums, writes `rows` queries of `out` and, when given, their logarithms of sums.
template <typename S>
void finish_panel(S* out, int64_t stride, float* lse, float* out_t, const Running& state, int64_t rows, int64_t width) {
  F inverse[kPanelLanes];
  for (int v = 0; v < kPanelLanes; ++v) inverse[v] = splat(1.0F) / state.sum[v];
  for (int64_t d = 0; d < round_up(width, kPanel); ++d) {
    for (int v = 0; v < kPanelLanes; ++v) {
      float* at = out_t + d * kPanel + v * kLanes;
      store(at, load(at) * inverse[v]);
    }
  }
  unpack_transposed(out, stride, out_t, rows, width, 1.0F);
  if (lse == nullptr) return;
  float top[kPanel], sum[kPanel];
  for (int v = 0; v < kPanelLanes; ++v) {
    store(top + v * kLanes, state.max[v]);
    store(sum + v * kLanes, state.sum[v]);
  }
  for (int64_t i = 0; i < rows; ++i) lse[i] = top[i] * kLn2 + __builtin_logf(sum[i]);
}

template <typename S, typename E>
class Forward {
 public:
  explicit Forward(const AttentionItem& item)
      : item_(item), width_(round_up(item.head_width, kPanel)), keys_(round_up(item.keys, kPanel)), dropout_(item) {
    Bump bump{static_cast<char*>(item.workspace)};
    k_packed_ = bump.take<E>(keys_ * width_);
    v_transposed_ = bump.take<E>(keys_ * width_);
    q_right_ = bump.take<E>(width_ * kPanel);
    probabilities_ = bump.take<E>(kForwardBlock * kPanel);
    if constexpr (sizeof(E) == 4) {
      scores_ = probabilities_;  // turned into P^T where they lie
    } else {
      scores_ = bump.take<float>(kForwardBlock * kPanel);
    }
    out_t_ = bump.take<float>(width_ * kPanel);
  }

  void run() {
    for (int64_t head = 0; head < item_.group; ++head) {
      for (int64_t i = 0; i < item_.queries; i += kPanel) panel(head, i);
    }
  }

 private:
  // Packs keys up to `end`, as the first panel that sees them comes.
  void pack_keys(int64_t end) {
    const auto *k = static_cast<const S*>(item_.k), *v = static_cast<const S*>(item_.v);
    for (int64_t& j = packed_; j < end; j += kPanel) {
      const int64_t rows = smaller(kPanel, item_.keys - j), at = j * item_.kv_stride;
      pack_rows(k_packed_ + j * kPanel, keys_ * kPanel, k + at, item_.kv_stride, rows, kPanel, item_.head_width);
      pack_transposed(v_transposed_ + j * width_, v + at, item_.kv_stride, rows, item_.head_width);
    }
    const int64_t rows = smaller(kPanel, item_.keys - end);
    if (end != packed_ || rows <= 0) return;
    ahead_.add(k + end * item_.kv_stride, item_.kv_stride, rows, item_.head_width);
    ahead_.add(v + end * item_.kv_stride, item_.kv_stride, rows, item_.head_width);
  }

  void panel(int64_t head, int64_t query) {
    const int64_t rows = smaller(kPanel, item_.queries - query), place = item_.query_start + query;
    const int64_t end = round_up(smaller(item_.keys, place + rows), kPanel);
    const S* q = head_of<S>(item_.q, head, item_.head_width) + query * item_.q_stride;
    S* out = head_of<S>(item_.out, head, item_.head_width) + query * item_.out_stride;
    ahead_.clear();
    ahead_.add(out, item_.out_stride, rows, item_.head_width);
    ahead_.add(q + kPanel * item_.q_stride, item_.q_stride, smaller(kPanel, item_.queries - query - kPanel),
               item_.head_width);
    pack_keys(end);
    pack_transposed_right(q_right_, q, item_.q_stride, rows, item_.head_width);
    if (item_.threshold > 0) dropout_.start(head, place);
    Running state;
    for (int l = 0; l < kPanelLanes; ++l) {
      state.max[l] = splat(kNoScore);
      state.sum[l] = F{};
    }
    const float factor = item_.scale * kLog2e;
    const FirstKeys first_keys(item_, query, rows);
    const int64_t begin = first_keys.least / kPanel * kPanel;
    for (int64_t j = begin; j < end; j += kForwardBlock) {
      const int64_t block = smaller(kForwardBlock, end - j);
      product(scores_, block, k_packed_ + j * kPanel, keys_ * kPanel, q_right_, width_ / kPanel, false);
      mask_scores(scores_, block, j, place, first_keys);
      advance_max(state, scores_, block, factor, out_t_, j > begin ? width_ : 0);
      if (item_.threshold > 0) {
        exponentials<S, E, true>(probabilities_, state, scores_, block, factor, dropout_, j, ahead_);
      } else {
        exponentials<S, E, false>(probabilities_, state, scores_, block, factor, dropout_, j, ahead_);
      }
      product(out_t_, width_, v_transposed_ + j * width_, width_ * kPanel, probabilities_, block / kPanel, j > begin);
    }
    float* lse = item_.lse == nullptr ? nullptr : item_.lse + head * item_.queries + query;
    finish_panel(out, item_.out_stride, lse, out_t_, state, rows, item_.head_width);
  }

  const AttentionItem& item_;
  const int64_t width_, keys_;  // padded to panels
  E *k_packed_, *v_transposed_, *q_right_, *probabilities_;
  float *scores_, *out_t_;
  int64_t packed_ = 0;
  Ahead ahead_;
  Dropout dropout_;
};

template <typename S, typename E>
void forward(const AttentionItem& item) {
  const TileSession session;
  Forward<S, E>(item).run();
}

// One query against keys in place: a dot product per key, then a weighted sum of values.
template <typename S>
void decode_query(const S* q, const S* k, const S* v, S* out, float* lse, float* scores, const AttentionItem& item,
                  int64_t keys) {
  const int64_t width = item.head_width, whole = width / kLanes * kLanes;
  alignas(64) float query[256], sums[256];
  for (int64_t d = 0; d < width; ++d) query[d] = to_float(q[d]) * item.scale;
  float top = -__builtin_inff();
  for (int64_t j = 0; j < keys; ++j) {
    const S* key = k + j * item.kv_stride;
    F sum{};
    for (int64_t d = 0; d < whole; d += kLanes) sum = fma(load(query + d), load(key + d), sum);
    float dot = sum_lanes(sum);
    for (int64_t d = whole; d < width; ++d) dot += query[d] * to_float(key[d]);
    scores[j] = dot * kLog2e;
    top = scores[j] > top || scores[j] != scores[j] ? scores[j] : top;
  }
  for (int64_t j = keys; j < round_up(keys, kLanes); ++j) scores[j] = -__builtin_inff();
  F sum{};
  for (int64_t j = 0; j < keys; j += kLanes) {
    F p = exp2(load(scores + j) - top);
    sum = sum + p;
    if constexpr (__is_same(S, bf16_t)) p = round_to_bf16(p);
    store(scores + j, p);
  }
  for (int64_t d = 0; d < width; ++d) sums[d] = 0;
  for (int64_t j = 0; j < keys; ++j) {
    const S* value = v + j * item.kv_stride;
    for (int64_t d = 0; d < whole; d += kLanes) {
      store(sums + d, fma(splat(scores[j]), load(value + d), load(sums + d)));
    }
    for (int64_t d = whole; d < width; ++d) sums[d] += scores[j] * to_float(value[d]);
  }
  const float total = sum_lanes(sum);
  for (int64_t d = 0; d < width; ++d) from_float(sums[d] / total, out + d);
  if (lse != nullptr) *lse = top * kLn2 + __builtin_logf(total);
}

template <typename S>
void decode(const AttentionItem& item) {
  for (int64_t head = 0; head < item.group; ++head) {
    for (int64_t i = 0; i < item.queries; ++i) {
      const int64_t first = item.first_keys == nullptr ? 0 : item.first_keys[i], at = first * item.kv_stride;
      decode_query(head_of<S>(item.q, head, item.head_width) + i * item.q_stride, static_cast<const S*>(item.k) + at,
                   static_cast<const S*>(item.v) + at,
                   head_of<S>(item.out, head, item.head_width) + i * item.out_stride,
                   item.lse == nullptr ? nullptr : item.lse + head * item.queries + i,
                   static_cast<float*>(item.workspace), item, item.query_start + i + 1 - first);
    }
  }
}

}  // namespace
}  // namespace ridgeline::ops::cpu
