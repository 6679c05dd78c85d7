// Packing with AVX2, shared by the kernels that have it: words of 32 bits, fp32 or pairs of bf16. Internal linkage: see
// matmul_kernel.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "ridgeline/ops/cpu/matmul_generic.h"

namespace ridgeline::ops::cpu {
namespace {

// Four words of row `row` and of row `row + 4`, where the block has it, as one vector. With a memory operand an
// insertion needs no shuffle port.
template <int Rows>
inline __m256i gather_rows(const char* in, int64_t stride, int row) {
  const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + row * stride));
  if (row + 4 >= Rows) return _mm256_zextsi128_si256(low);
  return _mm256_inserti128_si256(_mm256_castsi128_si256(low),
                                 _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + (row + 4) * stride)), 1);
}

// out[i]: word i of each of `Rows` <= 8 rows of four words, `stride` bytes apart; lanes without a row are 0.
template <int Rows>
inline void transpose_rows_of_4(const char* in, int64_t stride, __m256i (&out)[4]) {
  const __m256i x0 = gather_rows<Rows>(in, stride, 0), x1 = gather_rows<Rows>(in, stride, 1);
  const __m256i x2 = gather_rows<Rows>(in, stride, 2), x3 = gather_rows<Rows>(in, stride, 3);
  const __m256i p = _mm256_unpacklo_epi32(x0, x1), q = _mm256_unpackhi_epi32(x0, x1);
  const __m256i s = _mm256_unpacklo_epi32(x2, x3), u = _mm256_unpackhi_epi32(x2, x3);
  out[0] = _mm256_unpacklo_epi64(p, s);
  out[1] = _mm256_unpackhi_epi64(p, s);
  out[2] = _mm256_unpacklo_epi64(q, u);
  out[3] = _mm256_unpackhi_epi64(q, u);
}

// The first `Lanes` lanes: 6, or 8.
template <int Lanes>
inline void store_lanes(float* out, __m256i lanes) {
  const __m256 x = _mm256_castsi256_ps(lanes);
  if (Lanes == 8) {
    _mm256_storeu_ps(out, x);
  } else {
    _mm_storeu_ps(out, _mm256_castps256_ps128(x));
    _mm_storel_pi(reinterpret_cast<__m64*>(out + 4), _mm256_extractf128_ps(x, 1));
  }
}

// What becomes of elements on their way into a panel. `kStep`: of k, per word of a lane.
struct Floats {
  static constexpr int64_t kBytes = 4, kStep = 1;
};
struct Widened {  // bf16 to floats
  static constexpr int64_t kBytes = 2, kStep = 1;
};
struct Pairs {  // of bf16
  static constexpr int64_t kBytes = 2, kStep = 2;
};

// 16 bytes of each of `Rows` rows, to panel rows of `Lanes` words.
template <int Rows, int Lanes, typename Form>
inline void pack_words(const char* from, int64_t row_bytes, float* out) {
  __m256i words[4];
  transpose_rows_of_4<Rows>(from, row_bytes, words);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    if (Form::kBytes * Form::kStep == 4) {
      store_lanes<Rows>(out + i * Lanes, words[i]);
    } else {
      store_lanes<Rows>(out + 2 * i * Lanes, _mm256_slli_epi32(words[i], 16));
      store_lanes<Rows>(out + (2 * i + 1) * Lanes,
                        _mm256_and_si256(words[i], _mm256_set1_epi32(static_cast<int>(0xffff0000U))));
    }
  }
}

// Whole panels along contiguous k, a cache line of each row at a time: with rows 4 KiB apart their lines share a set of
// the cache. Returns how much of k is done.
template <int Lanes, typename Form>
int64_t pack_k_contiguous(const PanelSource& source, float* out) {
  constexpr int kRowsAtOnce = Lanes < 8 ? Lanes : 8;
  constexpr int64_t kLine = 64 / Form::kBytes, kWords = 16 / Form::kBytes / Form::kStep;
  const int64_t row_bytes = source.ld * Form::kBytes;
  const auto* data = static_cast<const char*>(source.data);
  int64_t k = 0;
  for (; k + kLine <= source.k; k += kLine, data += 64, out += 4 * kWords * Lanes) {
    for (int lane = 0; lane < Lanes; lane += kRowsAtOnce) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        pack_words<kRowsAtOnce, Lanes, Form>(data + lane * row_bytes + i * 16, row_bytes,
                                             out + i * kWords * Lanes + lane);
      }
    }
  }
  return k;
}

// Six or eight neighbouring halves as words.
template <int Lanes>
inline __m256i load_halves(const char* in) {
  __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in));
  if (Lanes != 8) {
    int32_t rest;
    __builtin_memcpy(&rest, in + 8, sizeof rest);
    halves = _mm_insert_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(in)), rest, 2);
  }
  return _mm256_cvtepu16_epi32(halves);
}

// Six or eight neighbouring lanes of a step; the next of k is `row_bytes` on.
template <int Lanes, typename Form>
inline __m256i load_lanes(const char* in, int64_t row_bytes) {
  if (Form::kStep == 2)
    return _mm256_or_si256(load_halves<Lanes>(in), _mm256_slli_epi32(load_halves<Lanes>(in + row_bytes), 16));
  if (Form::kBytes == 2) return _mm256_slli_epi32(load_halves<Lanes>(in), 16);
  if (Lanes == 8) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in));
  return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in))),
                                 _mm_loadl_epi64(reinterpret_cast<const __m128i*>(in + 16)), 1);
}

// Returns how much of k is done.
template <int Lanes, typename Form>
int64_t pack_lanes_contiguous(const PanelSource& source, float* out) {
  constexpr int kAtOnce = Lanes < 8 ? Lanes : 8;
  const int64_t row_bytes = source.ld * Form::kBytes;
  const auto* data = static_cast<const char*>(source.data);
  int64_t k = 0;
  for (; k + Form::kStep <= source.k; k += Form::kStep, data += Form::kStep * row_bytes, out += Lanes) {
    // The panel beside this one comes next; rows lie kilobytes apart, where hardware does not look ahead.
#pragma GCC unroll 2
    for (int row = 0; row < Form::kStep; ++row) __builtin_prefetch(data + row * row_bytes + Lanes * Form::kBytes + 63);
#pragma GCC unroll 6
    for (int lane = 0; lane < Lanes; lane += kAtOnce)
      store_lanes<kAtOnce>(out + lane, load_lanes<kAtOnce, Form>(data + lane * Form::kBytes, row_bytes));
  }
  return k;
}

template <int Lanes>
void pack_rest(const PanelSource& source, float* out, Floats /*form*/) {
  pack_floats<Lanes, float>(source, out);
}
template <int Lanes>
void pack_rest(const PanelSource& source, float* out, Widened /*form*/) {
  pack_floats<Lanes, uint16_t>(source, out);
}
template <int Lanes>
void pack_rest(const PanelSource& source, float* out, Pairs /*form*/) {
  pack_pairs<Lanes>(source, out);
}

template <int Lanes, typename Form>
void pack_as(PanelSource source, float* out) {
  if (source.lanes == Lanes) {
    const int64_t done =
        (source.k_contiguous ? pack_k_contiguous<Lanes, Form> : pack_lanes_contiguous<Lanes, Form>)(source, out);
    source.data = static_cast<const char*>(source.data) + done * Form::kBytes * (source.k_contiguous ? 1 : source.ld);
    source.k -= done;
    out += done / Form::kStep * Lanes;
  }
  pack_rest<Lanes>(source, out, Form());
}

// Panels of floats.
template <int Lanes>
void pack_vectors(const PanelSource& source, void* panel) {
  (source.dtype == DType::bf16 ? pack_as<Lanes, Widened> : pack_as<Lanes, Floats>)(source, static_cast<float*>(panel));
}

}  // namespace
}  // namespace ridgeline::ops::cpu
