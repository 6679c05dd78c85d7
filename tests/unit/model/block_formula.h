// A block in double precision, as its options are documented (model/transformer_config.h, ops/*.h): one plain formula
// per option, none of the program's code. What every block is compared with; finite differences alone agree with
// whichever function runs.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <string>
#include <vector>

#include "ridgeline/base/random.h"
#include "ridgeline/model/declarations.h"

namespace ridgeline::model {

using Doubles = std::vector<double>;

// A value of an enumeration that has no formula here fails the test that asks for it.
inline double no_formula(const char* option, int value) {
  ADD_FAILURE() << "no formula for " << option << " number " << value;
  return std::nan("");
}

// `bias` null: none.
inline Doubles norm_formula(const TransformerConfig& config, const Doubles& x, const double* weight,
                            const double* bias) {
  const auto c = static_cast<double>(x.size()), epsilon = static_cast<double>(config.norm_epsilon);
  double mean = 0.0, squares = 0.0, variance = 0.0;
  for (const double value : x) mean += value / c, squares += value * value / c;
  for (const double value : x) variance += (value - mean) * (value - mean) / c;
  Doubles y(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    switch (config.norm) {
      case Norm::layer:
        y[i] = (x[i] - mean) / std::sqrt(variance + epsilon) * weight[i] + (bias == nullptr ? 0.0 : bias[i]);
        continue;
      case Norm::rms:
        y[i] = x[i] / std::sqrt(squares + epsilon) * weight[i];
        continue;
    }
    y[i] = no_formula("model.norm", static_cast<int>(config.norm));
  }
  return y;
}

// Of a block on a micro-batch of `batch` sequences, each at positions 0 … sequence - 1.
struct BlockFormula {
  TransformerConfig config;  // by value: a test may ask what another option would give on the same tensors
  const Segment& unit;
  int64_t batch, sequence;
  // Dropout's address; probability 0: none.
  int layer = 0;
  double probability = 0.0;
  uint64_t dropout_key = 0, attention_dropout_key = 0;
  std::vector<uint32_t> samples = {};  // [batch]

  Doubles output(const Doubles& weights, const Doubles& input) const {
    const int64_t c = config.width, n = batch * sequence;
    Doubles y;
    Doubles normed, attended;
    for (int64_t i = 0; i < n; ++i) append(normed, norm("norm1", weights, row(input, i, c)));
    append(attended, attention(weights, normed));
    for (int64_t i = 0; i < n; ++i) {
      const Doubles x = row(input, i, c);
      const Doubles r = plus(
          x, dropped(in_out("attention.out", weights, row(attended, i, config.heads * config.head_width()), c), 0, i));
      append(y, plus(r, dropped(mlp(weights, mlp_input(weights, x, r, row(normed, i, c))), 1, i)));
    }
    return y;
  }

 private:
  static Doubles row(const Doubles& x, int64_t i, int64_t width) {
    return {x.begin() + i * width, x.begin() + (i + 1) * width};
  }
  static void append(Doubles& to, const Doubles& more) { to.insert(to.end(), more.begin(), more.end()); }
  static Doubles plus(Doubles a, const Doubles& b) {
    for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
    return a;
  }

  // A tensor's elements; zeros stand for one that the model does not have.
  const double* find(const std::string& name, const Doubles& weights) const {
    const Tensor* const tensor = unit.find(name);
    return tensor == nullptr ? nullptr : weights.data() + tensor->offset;
  }
  bool biased(const std::string& name) const {
    if (name == "attention.out") return config.out_bias;
    if (name.starts_with("attention")) return config.qkv_bias;
    return config.mlp_bias;
  }
  Doubles start(const std::string& name, const Doubles& weights, int64_t out) const {
    const double* const bias = biased(name) ? find(name + ".bias", weights) : nullptr;
    return bias == nullptr ? Doubles(static_cast<size_t>(out)) : Doubles(bias, bias + out);
  }
  // y_j = b_j + sum_i W[j][i] x_i
  Doubles out_in(const std::string& name, const Doubles& weights, const Doubles& x, int64_t out) const {
    Doubles y = start(name, weights, out);
    const double* w = find(name + ".weight", weights);
    for (double& sum : y) {
      for (const double value : x) sum += *w++ * value;
    }
    return y;
  }
  // y_j = b_j + sum_i W[i][j] x_i
  Doubles in_out(const std::string& name, const Doubles& weights, const Doubles& x, int64_t out) const {
    Doubles y = start(name, weights, out);
    const double* w = find(name + ".weight", weights);
    for (const double value : x) {
      for (double& sum : y) sum += *w++ * value;
    }
    return y;
  }

  Doubles norm(const std::string& name, const Doubles& weights, const Doubles& x) const {
    return norm_formula(config, x, find(name + ".weight", weights), find(name + ".bias", weights));
  }

  Doubles mlp_input(const Doubles& weights, const Doubles& x, const Doubles& r, const Doubles& normed1) const {
    switch (config.residual) {
      case Residual::sequential:
        return norm("norm2", weights, r);
      case Residual::parallel:
        return norm("norm2", weights, x);
      case Residual::parallel_one_norm:
        return normed1;
    }
    return {no_formula("model.residual", static_cast<int>(config.residual))};
  }

  double activation(double x, double up) const {
    switch (config.mlp) {
      case Mlp::gelu_tanh:
        return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
      case Mlp::gelu_erf:
        return 0.5 * x * (1.0 + std::erf(x / std::numbers::sqrt2));
      case Mlp::swiglu:
        return x / (1.0 + std::exp(-x)) * up;
    }
    return no_formula("model.mlp", static_cast<int>(config.mlp));
  }
  Doubles mlp(const Doubles& weights, const Doubles& x) const {
    const Doubles before = out_in("mlp.up", weights, x, config.up_width());
    const auto f = static_cast<size_t>(config.ffn);
    Doubles after(f);
    for (size_t j = 0; j < f; ++j) after[j] = activation(before[j], before.size() > f ? before[f + j] : 1.0);
    return in_out("mlp.down", weights, after, config.width);
  }

  // The angle of pair i at a position.
  double angle(int64_t i, int64_t position) const {
    double frequency =
        std::pow(config.rotary_base, -2.0 * static_cast<double>(i) / static_cast<double>(config.rotated_width()));
    if (config.rotary_scaling != 1.0) {
      const double low = config.rotary_low_frequency_factor, high = config.rotary_high_frequency_factor;
      const double turns = static_cast<double>(config.rotary_original_context) * frequency / (2.0 * std::numbers::pi);
      const double kept = std::min(1.0, std::max(0.0, (turns - low) / (high - low)));
      frequency *= kept + (1.0 - kept) / config.rotary_scaling;
    }
    return static_cast<double>(position) * frequency;
  }
  void rotate(double* head, int64_t position) const {
    if (config.positions == Positions::learned) return;  // the embedding's
    if (config.positions != Positions::rotary) no_formula("model.positions", static_cast<int>(config.positions));
    const int64_t half = config.rotated_width() / 2;
    for (int64_t i = 0; i < half; ++i) {
      double *a = nullptr, *b = nullptr;
      switch (config.rotary_pairing) {
        case Pairing::interleaved:
          a = head + 2 * i, b = head + 2 * i + 1;
          break;
        case Pairing::half_split:
          a = head + i, b = head + i + half;
          break;
      }
      if (a == nullptr) no_formula("model.rotary_pairing", static_cast<int>(config.rotary_pairing));
      const double cos = std::cos(angle(i, position)), sin = std::sin(angle(i, position)), x = *a, y = *b;
      *a = x * cos - y * sin;
      *b = y * cos + x * sin;
    }
  }

  // Heads side by side: H queries, KV keys, KV values, each [N][heads][D].
  Doubles attention(const Doubles& weights, const Doubles& normed) const {
    const int64_t h = config.heads, kv = config.kv_heads, d = config.head_width(), t = sequence;
    Doubles q, k, v;
    for (int64_t i = 0; i < batch * t; ++i) {
      const Doubles x = row(normed, i, config.width);
      Doubles all;
      if (kv == h) {
        all = out_in("attention.qkv", weights, x, 3 * h * d);
      } else {
        append(all, out_in("attention.q", weights, x, h * d));
        append(all, out_in("attention.kv", weights, x, 2 * kv * d));
      }
      for (int64_t head = 0; head < h + kv; ++head) rotate(all.data() + head * d, i % t);
      q.insert(q.end(), all.begin(), all.begin() + h * d);
      k.insert(k.end(), all.begin() + h * d, all.begin() + (h + kv) * d);
      v.insert(v.end(), all.begin() + (h + kv) * d, all.end());
    }
    Doubles out(static_cast<size_t>(batch * t * h * d));
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t head = 0; head < h; ++head) {
        const int64_t key_head = head / (h / kv);
        for (int64_t i = 0; i < t; ++i) {
          Doubles p(static_cast<size_t>(i + 1));
          double sum = 0.0;
          for (int64_t j = 0; j <= i; ++j) {
            double score = 0.0;
            for (int64_t e = 0; e < d; ++e)
              score += q[((b * t + i) * h + head) * d + e] * k[((b * t + j) * kv + key_head) * d + e];
            p[j] = std::exp(score / std::sqrt(static_cast<double>(d)));
            sum += p[j];
          }
          for (int64_t j = 0; j <= i; ++j) {
            const double weight = p[j] / sum * kept_pair(b, head, i, j);
            for (int64_t e = 0; e < d; ++e)
              out[((b * t + i) * h + head) * d + e] += weight * v[((b * t + j) * kv + key_head) * d + e];
          }
        }
      }
    }
    return out;
  }

  // 0, or 1 / (1 - p).
  double kept(const Philox4& words, int64_t number) const {
    return static_cast<double>(words[static_cast<size_t>(number % 4)]) >= probability * 0x1p32
               ? 1.0 / (1.0 - probability)
               : 0.0;
  }
  double kept_pair(int64_t b, int64_t head, int64_t query, int64_t key) const {
    if (probability == 0.0) return 1.0;
    return kept(philox(attention_dropout_key,
                       {static_cast<uint32_t>(key / 4), static_cast<uint32_t>(query),
                        static_cast<uint32_t>(layer * config.heads + head), samples[static_cast<size_t>(b)]}),
                key);
  }
  // Of a branch's output for token n; sites 0 (attention) and 1 (MLP) of a layer's four.
  Doubles dropped(Doubles x, uint32_t site, int64_t n) const {
    if (probability == 0.0) return x;
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] *= kept(
          philox(dropout_key, {static_cast<uint32_t>(i / 4), static_cast<uint32_t>(n % sequence),
                               static_cast<uint32_t>(layer) * 4 + site, samples[static_cast<size_t>(n / sequence)]}),
          static_cast<int64_t>(i));
    }
    return x;
  }
};

}  // namespace ridgeline::model
