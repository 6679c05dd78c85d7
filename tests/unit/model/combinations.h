// Every combination of a block's options, on sizes that divide by nothing.
#pragma once

#include <fmt/format.h>

#include <string>
#include <vector>

#include "ridgeline/model/transformer_config.h"

namespace ridgeline::model {

inline TransformerConfig small_config() {
  TransformerConfig config;
  config.layers = 2;
  config.width = 36;
  config.heads = 6;
  config.kv_heads = 6;
  config.ffn = 50;
  config.vocab = 61;
  config.context = 16;
  config.init_deviation = 0.2F;
  return config;
}

inline std::vector<TransformerConfig> option_combinations() {
  std::vector<TransformerConfig> all;
  int number = 0;
  for (const Positions positions : {Positions::learned, Positions::rotary}) {
    for (const Norm norm : {Norm::layer, Norm::rms}) {
      for (const Residual residual : {Residual::sequential, Residual::parallel, Residual::parallel_one_norm}) {
        for (const Mlp mlp : {Mlp::gelu_tanh, Mlp::gelu_erf, Mlp::swiglu}) {
          for (const int64_t kv_heads : {6, 2, 1}) {
            TransformerConfig config = small_config();
            config.positions = positions;
            config.norm = norm;
            config.residual = residual;
            config.mlp = mlp;
            config.kv_heads = kv_heads;
            // The rest in turn, so that each meets each of the above somewhere.
            ++number;
            config.qkv_bias = number % 2 == 0;
            config.out_bias = number % 3 != 0;
            config.mlp_bias = number % 5 < 3;
            config.tied = number % 4 < 2;
            config.head_bias = number % 7 < 3;
            if (number % 11 < 4) config.separate_head_width = 10;
            if (positions == Positions::rotary) {
              config.rotary_width = number % 3 == 0 ? 4 : 0;
              config.rotary_pairing = number % 2 == 0 ? Pairing::interleaved : Pairing::half_split;
            }
            all.push_back(with_usual_sizes(config));
          }
        }
      }
    }
  }
  return all;
}

inline std::string described(const TransformerConfig& config) {
  return fmt::format("{} {} {} {} kv_heads {} head width {} rotated {} biases {}{}{}",
                     words_of(config.positions)[static_cast<size_t>(config.positions)],
                     words_of(config.norm)[static_cast<size_t>(config.norm)],
                     words_of(config.residual)[static_cast<size_t>(config.residual)],
                     words_of(config.mlp)[static_cast<size_t>(config.mlp)], config.kv_heads, config.head_width(),
                     config.rotated_width(), config.qkv_bias, config.out_bias, config.mlp_bias);
}

}  // namespace ridgeline::model
