// Rotary position embedding (Su et al., "RoFormer", 2021): pairs of elements of a head are turned by an angle that
// grows with the token's position.
//
//   y1 = x1 cos - x2 sin,   y2 = x2 cos + x1 sin        with cos, sin = table[positions[n]][i] for pair i
//
// and the transposed rotation (sin negated) where `inverse`: the backward. Only the first R elements of each head are
// turned, the others stay as they are. x [N][heads][D] with `stride` elements between tokens, f32, bf16 or f16; in
// place; arithmetic fp32, one rounding. Elements between the heads' end and the next token are not touched, so a row
// may hold q, k and v side by side: one call for the heads of each.
#pragma once

#include <cstdint>

#include "ridgeline/base/dtype.h"
#include "ridgeline/device/stream.h"

namespace ridgeline::ops {

// Which elements of a head form pair i.
enum class RotaryPairing {
  interleaved,  // (2i, 2i + 1): GPT-J, the paper
  half_split,   // (i, i + R/2): GPT-NeoX, LLaMA
};

struct Rotary {
  int64_t tokens = 0, heads = 0, head_width = 0, rotary_width = 0;  // N, heads, D, R (even, R <= D)
  int64_t stride = 0;                                               // elements between tokens, >= heads * D
  RotaryPairing pairing = RotaryPairing::half_split;
  const int32_t* positions = nullptr;  // [N], each a row of the table
  const float* table = nullptr;        // [positions][R/2][2]: cos, sin
  bool inverse = false;                // the transposed rotation: the backward
};

void rotary(device::Stream& stream, const Rotary& settings, Ref x);

// Llama 3.1's change of the frequencies for longer contexts, as Hugging Face computes it for `rope_type: llama3`
// (transformers, modeling_rope_utils.py): with wavelength w = 2 pi / frequency,
//   w < original_context / high_freq_factor:  as it is
//   w > original_context / low_freq_factor:   divided by `factor`
//   between: (1 - s) frequency / factor + s frequency,
//            s = (original_context / w - low_freq_factor) / (high_freq_factor - low_freq_factor)
struct RotaryScaling {
  bool llama3 = false;
  double factor = 8, low_freq_factor = 1, high_freq_factor = 4;
  int64_t original_context = 8192;
};

// table[p][i] = cos, sin of p * frequency[i], frequency[i] = base^(-2i / rotary_width), scaled as above. f32
// [positions][rotary_width/2][2], computed in double and rounded once.
void fill_rotary_table(int64_t positions, int64_t rotary_width, double base, const RotaryScaling& scaling,
                       float* table);

}  // namespace ridgeline::ops
