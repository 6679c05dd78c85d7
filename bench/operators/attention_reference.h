// Attention in double precision, written as the formula reads: the reference of the tests.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "ridgeline/base/random.h"
#include "ridgeline/ops/attention.h"

namespace ridgeline::ops::test {

// Dense tensors: q, out [B][Tq][H][D], k, v [B][Tk][KV][D].
struct Reference {
  Attention shape;
  std::vector<double> q, k, v, dout;
  std::vector<double> out, lse, dq, dk, dv;

  double& at(std::vector<double>& x, int64_t tokens, int64_t heads, int64_t b, int64_t t, int64_t h, int64_t d) const {
    return x[((b * tokens + t) * heads + h) * shape.head_width + d];
  }

  double keep(int64_t b, int64_t h, int64_t query, int64_t key) const {
    const AttentionDropout& drop = shape.dropout;
    if (drop.probability == 0.0F) return 1.0;
    const Philox4 words = philox(drop.random_key, {static_cast<uint32_t>(key / 4), static_cast<uint32_t>(query),
                                                   drop.first_head + static_cast<uint32_t>(h), drop.samples[b]});
    return words[static_cast<size_t>(key % 4)] >= static_cast<double>(drop.probability) * 0x1p32
               ? 1.0 / (1.0 - static_cast<double>(drop.probability))
               : 0.0;
  }

  // Forward, and the gradients when dout is given.
  void run() {
    const Attention& s = shape;
    const int64_t group = s.heads / s.kv_heads;
    out.assign(q.size(), 0);
    lse.assign(s.batch * s.heads * s.queries, 0);
    dq.assign(q.size(), 0);
    dk.assign(k.size(), 0);
    dv.assign(v.size(), 0);
    std::vector<double> p(s.keys), dp(s.keys);
    for (int64_t b = 0; b < s.batch; ++b) {
      for (int64_t h = 0; h < s.heads; ++h) {
        for (int64_t i = 0; i < s.queries; ++i) row(b, h, h / group, i, p, dp);
      }
    }
  }

 private:
  void row(int64_t b, int64_t h, int64_t kv, int64_t i, std::vector<double>& p, std::vector<double>& dp) {
    const Attention& s = shape;
    const int64_t seen = i + s.query_start + 1, first = s.first_keys == nullptr ? 0 : s.first_keys[b * s.queries + i];
    double top = -std::numeric_limits<double>::infinity(), sum = 0;
    for (int64_t j = first; j < seen; ++j) {
      p[j] = 0;
      for (int64_t d = 0; d < s.head_width; ++d) {
        p[j] += at(q, s.queries, s.heads, b, i, h, d) * at(k, s.keys, s.kv_heads, b, j, kv, d);
      }
      p[j] *= static_cast<double>(s.scale);
      top = std::max(top, p[j]);
    }
    for (int64_t j = first; j < seen; ++j) sum += p[j] = std::exp(p[j] - top);
    lse[(b * s.heads + h) * s.queries + i] = top + std::log(sum);
    for (int64_t j = first; j < seen; ++j) {
      p[j] /= sum;
      const double dropped = p[j] * keep(b, h, i + s.query_start, j);
      for (int64_t d = 0; d < s.head_width; ++d) {
        at(out, s.queries, s.heads, b, i, h, d) += dropped * at(v, s.keys, s.kv_heads, b, j, kv, d);
      }
    }
    if (dout.empty()) return;
    double delta = 0;
    for (int64_t j = first; j < seen; ++j) {
      const double factor = keep(b, h, i + s.query_start, j);
      dp[j] = 0;
      for (int64_t d = 0; d < s.head_width; ++d) {
        dp[j] += at(dout, s.queries, s.heads, b, i, h, d) * at(v, s.keys, s.kv_heads, b, j, kv, d);
        at(dv, s.keys, s.kv_heads, b, j, kv, d) += p[j] * factor * at(dout, s.queries, s.heads, b, i, h, d);
      }
      dp[j] *= factor;
      delta += p[j] * dp[j];
    }
    for (int64_t j = first; j < seen; ++j) {
      const double ds = p[j] * (dp[j] - delta) * static_cast<double>(s.scale);
      for (int64_t d = 0; d < s.head_width; ++d) {
        at(dq, s.queries, s.heads, b, i, h, d) += ds * at(k, s.keys, s.kv_heads, b, j, kv, d);
        at(dk, s.keys, s.kv_heads, b, j, kv, d) += ds * at(q, s.queries, s.heads, b, i, h, d);
      }
    }
  }
};

}  // namespace ridgeline::ops::test
