// What attention.cpp hands to the kernels of one instruction set. The kernels' translation units are compiled with
// their own machine flags, so they include only this header, the attention_*.h beside it and <immintrin.h>: an inline
// function of the standard library or of base/ compiled there could be the copy that the linker keeps for every CPU.
#pragma once

#include <stdint.h>

namespace ridgeline::ops::cpu {

// Every matrix inside the kernels is cut into panels of 32 columns, each panel stored row after row.
constexpr int64_t kAttentionPanel = 32;

// Blocks, in tokens; multiples of the panel. Measured with dev/attention_lab: S and P of a forward block (one panel of
// queries) stay in the first-level cache, a backward block's in the second.
constexpr int64_t kForwardKeys = 256;
constexpr int64_t kBackwardKeys = 128;
constexpr int64_t kBackwardQueries = 128;

// Up to this many new queries the keys are read in place instead of being packed.
constexpr int64_t kDecodeQueries = 4;

// One (sample, key head): the `group` query heads that read it lie next to each other. Pointers to q, k, v, out and
// their gradients are to the first token of the first head; elements are f32, bf16 or f16.
struct AttentionItem {
  const void *q, *k, *v, *dout;
  void *out, *dq, *dk, *dv;
  float* lse;                 // [group][queries], may be null in the forward
  const int32_t* first_keys;  // [queries], not descending; null: all zero
  void* workspace;
  int64_t queries, keys, group, head_width, query_start;
  int64_t q_stride, kv_stride, out_stride;  // elements between tokens
  float scale;
  // Dropout: keep where word >= threshold; threshold 0 = none.
  uint32_t threshold;
  uint64_t random_key;
  float keep_scale;       // 1 / (1 - probability)
  uint32_t site, sample;  // layer * H + first head of the group; global sample number
};

// Entry points of one instruction set for one element type.
struct AttentionKernels {
  void (*forward)(const AttentionItem&);
  void (*decode)(const AttentionItem&);  // queries <= kDecodeQueries, no dropout
  void (*backward)(const AttentionItem&);
  int64_t element_bytes;  // of packed operands
};

struct AttentionTable {
  AttentionKernels f32, bf16;
  AttentionKernels f16;  // not of those beyond AVX-512, which add only bf16
};

extern const AttentionTable kAttentionPortable;
#if defined(__x86_64__)
extern const AttentionTable kAttentionAvx2, kAttentionAvx512, kAttentionAvx512Bf16, kAttentionAmx;
#endif

}  // namespace ridgeline::ops::cpu
