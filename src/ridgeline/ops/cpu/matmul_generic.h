// Packing and finishing in plain C++, compiled anew in each kernel's translation unit with that unit's instruction set.
// Everything has internal linkage on purpose: see matmul_kernel.h.
#pragma once

#include <cstdint>

#include "ridgeline/ops/cpu/matmul_kernel.h"
#include "ridgeline/ops/cpu/matmul_skinny.h"

namespace ridgeline::ops::cpu {
namespace {

[[maybe_unused]] inline float widen(uint16_t bits) {
  const uint32_t word = static_cast<uint32_t>(bits) << 16;
  float value;
  __builtin_memcpy(&value, &word, sizeof value);
  return value;
}

// Same bits as ridgeline::bf16(float).
[[maybe_unused]] inline uint16_t narrow(float value) {
  uint32_t u;
  __builtin_memcpy(&u, &value, sizeof u);
  const uint32_t rounded = (u + 0x7fffU + ((u >> 16) & 1U)) >> 16;
  const uint32_t quiet_nan = (u >> 16) | 0x40U;
  return static_cast<uint16_t>((u & 0x7fffffffU) > 0x7f800000U ? quiet_nan : rounded);
}

[[maybe_unused]] inline float as_float(float value) {
  return value;
}
[[maybe_unused]] inline float as_float(uint16_t bits) {
  return widen(bits);
}

// panel[k][Lanes] f32.
template <int Lanes, typename T>
void pack_floats(const PanelSource& source, float* panel) {
  const T* data = static_cast<const T*>(source.data);
  const int64_t lanes = source.lanes;
  for (int64_t k = 0; k < source.k; ++k) {
    float* out = panel + k * Lanes;
    const int64_t step = source.k_contiguous ? source.ld : 1;
    const T* in = data + (source.k_contiguous ? k : k * source.ld);
    if (lanes == Lanes && step == 1) {
      for (int lane = 0; lane < Lanes; ++lane) out[lane] = as_float(in[lane]);
    } else if (lanes == Lanes) {
      for (int lane = 0; lane < Lanes; ++lane) out[lane] = as_float(in[lane * step]);
    } else {
      for (int lane = 0; lane < Lanes; ++lane) out[lane] = lane < lanes ? as_float(in[lane * step]) : 0.0F;
    }
  }
}

template <int Lanes>
void pack_as_floats(const PanelSource& source, void* panel) {
  if (source.dtype == DType::bf16) {
    pack_floats<Lanes, uint16_t>(source, static_cast<float*>(panel));
  } else {
    pack_floats<Lanes, float>(source, static_cast<float*>(panel));
  }
}

[[maybe_unused]] inline uint16_t element(const PanelSource& source, int64_t lane, int64_t k) {
  if (lane >= source.lanes || k >= source.k) return 0;
  const auto* data = static_cast<const uint16_t*>(source.data);
  return source.k_contiguous ? data[lane * source.ld + k] : data[k * source.ld + lane];
}

// panel[k / 2][Lanes][2] bf16.
template <int Lanes>
void pack_pairs(const PanelSource& source, void* panel) {
  auto* out = static_cast<uint16_t*>(panel);
  for (int64_t k = 0; k < source.k; k += 2) {
    for (int lane = 0; lane < Lanes; ++lane) {
      *out++ = element(source, lane, k);
      *out++ = element(source, lane, k + 1);
    }
  }
}

template <int Lanes>
void row_sums_of_floats(const void* panel, int64_t k, float* sums) {
  const auto* in = static_cast<const float*>(panel);
  float total[Lanes] = {};
  for (int64_t i = 0; i < k; ++i) {
    for (int lane = 0; lane < Lanes; ++lane) total[lane] += in[i * Lanes + lane];
  }
  for (int lane = 0; lane < Lanes; ++lane) sums[lane] += total[lane];
}

template <int Lanes>
void row_sums_of_pairs(const void* panel, int64_t k, float* sums) {
  const auto* in = static_cast<const uint16_t*>(panel);
  float total[Lanes] = {};
  for (int64_t i = 0; i < k; i += 2) {
    for (int lane = 0; lane < Lanes; ++lane) {
      total[lane] += widen(in[i * Lanes + 2 * lane]);
      total[lane] += widen(in[i * Lanes + 2 * lane + 1]);
    }
  }
  for (int lane = 0; lane < Lanes; ++lane) sums[lane] += total[lane];
}

// Columns [first, first + count) of one row of C; sums and Finish start at the tile's first row and column.
[[maybe_unused]] void finish_row_f32(const Finish& f, int64_t row, int64_t first, int64_t count, const float* sums) {
  const float* carry = f.carry == nullptr ? nullptr : f.carry + row * f.ld_carry + first;
  const float* residual =
      f.residual == nullptr ? nullptr : static_cast<const float*>(f.residual) + row * f.ld_out + first;
  float* out = static_cast<float*>(f.out) + row * f.ld_out + first;
  const bool bias = f.bias != nullptr;
  for (int64_t i = 0; i < count; ++i) {
    float s = sums[i];
    if (carry != nullptr) s += carry[i];
    if (bias) {
      s += f.bias_dtype == DType::bf16 ? widen(static_cast<const uint16_t*>(f.bias)[first + i])
                                       : static_cast<const float*>(f.bias)[first + i];
    }
    if (residual != nullptr) s += residual[i];
    out[i] = s;
  }
}

[[maybe_unused]] void finish_row_bf16(const Finish& f, int64_t row, int64_t first, int64_t count, const float* sums) {
  const float* carry = f.carry == nullptr ? nullptr : f.carry + row * f.ld_carry + first;
  const uint16_t* residual =
      f.residual == nullptr ? nullptr : static_cast<const uint16_t*>(f.residual) + row * f.ld_out + first;
  uint16_t* out = static_cast<uint16_t*>(f.out) + row * f.ld_out + first;
  const bool bias = f.bias != nullptr;
  for (int64_t i = 0; i < count; ++i) {
    float s = sums[i];
    if (carry != nullptr) s += carry[i];
    if (bias) {
      s += f.bias_dtype == DType::bf16 ? widen(static_cast<const uint16_t*>(f.bias)[first + i])
                                       : static_cast<const float*>(f.bias)[first + i];
    }
    uint16_t p = narrow(s);
    if (residual != nullptr) p = narrow(widen(p) + widen(residual[i]));
    out[i] = p;
  }
}

template <int Columns>
void finish_tile(const Finish& f, int64_t rows, int64_t column, int64_t columns, const float* sums) {
  for (int64_t row = 0; row < rows; ++row) {
    (f.out_dtype == DType::bf16 ? finish_row_bf16 : finish_row_f32)(f, row, column, columns, sums + row * Columns);
  }
}

[[maybe_unused]] void finish_rows(const Finish& f, int64_t rows, int64_t columns, const float* sums, int64_t ld_sums) {
  for (int64_t row = 0; row < rows; ++row) {
    (f.out_dtype == DType::bf16 ? finish_row_bf16 : finish_row_f32)(f, row, 0, columns, sums + row * ld_sums);
  }
}

// A prefetch that stays: GCC removes loops that hold nothing but __builtin_prefetch.
[[maybe_unused]] inline void bring_near(const char* at) {
#if defined(__x86_64__)
  __asm__ volatile("prefetcht0 %0" : : "m"(*at));
#else
  __builtin_prefetch(at);
#endif
}

}  // namespace
}  // namespace ridgeline::ops::cpu
