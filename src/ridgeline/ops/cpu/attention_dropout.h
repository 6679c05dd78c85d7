// The random words of attention dropout: Philox4x32-10 (base/random.h) for a panel of queries at a time, in vectors.
// A counter is {key / 4, query, head, sample}: lanes are queries, as in the scores, and the four words of a counter are
// four rows of the panel, so nothing is transposed.
//
// Between lanes only the query differs. What the first two rounds make of it is the same for every key, and a product
// of a word that is equal in all lanes is one scalar product: of twenty products of vectors, fifteen are left (one in
// the third round, two in each that follows).
#pragma once

#include "ridgeline/ops/cpu/attention_pack.h"

namespace ridgeline::ops::cpu {
namespace {

// One 32-bit word of a counter in each 64-bit lane; what stands in the upper halves is never read.
using Words = uint64_t __attribute__((vector_size(4 * kLanes)));

RL_INLINE Words splat_words(uint32_t x) {
  return x - Words{};
}

// The products of the lower halves.
RL_INLINE Words multiply_words(Words a, uint32_t b) {
#if defined(__AVX512F__)
  return bits_as<Words>(_mm512_mul_epu32(bits_as<__m512i>(a), _mm512_set1_epi32(static_cast<int32_t>(b))));
#elif defined(__AVX2__)
  return bits_as<Words>(_mm256_mul_epu32(bits_as<__m256i>(a), _mm256_set1_epi32(static_cast<int32_t>(b))));
#elif defined(__SSE2__)
  return bits_as<Words>(_mm_mul_epu32(bits_as<__m128i>(a), _mm_set1_epi32(static_cast<int32_t>(b))));
#else
  return (a & 0xffffffffU) * b;
#endif
}

// The lower halves of `even` and `odd`, alternating.
RL_INLINE U interleave_words(Words even, Words odd) {
#if defined(__AVX512F__)
  return bits_as<U>(_mm512_mask_shuffle_epi32(bits_as<__m512i>(even), 0xaaaa, bits_as<__m512i>(odd), _MM_PERM_CCAA));
#elif defined(__AVX2__)
  return bits_as<U>(_mm256_blend_epi32(bits_as<__m256i>(even), bits_as<__m256i>(odd << 32), 0xaa));
#else
  return bits_as<U>((even & 0xffffffffU) | (odd << 32));
#endif
}

class Dropout {
 public:
  explicit Dropout(const AttentionItem& item)
      : threshold_(item.threshold), keep_scale_(item.keep_scale), site_(item.site), sample_(item.sample) {
    uint32_t k0 = static_cast<uint32_t>(item.random_key), k1 = static_cast<uint32_t>(item.random_key >> 32);
    for (auto& keys : keys_) {
      keys[0] = k0;
      keys[1] = k1;
      k0 += 0x9E3779B9U;
      k1 += 0xBB67AE85U;
    }
  }

  // Goes to the panel of `head` (of the group) that begins at position `query`.
  void start(int64_t head, int64_t query) {
    const uint64_t p1 = uint64_t{kSecond} * (site_ + static_cast<uint32_t>(head));
    site_low_ = static_cast<uint32_t>(p1);
    const uint32_t mixed = static_cast<uint32_t>(p1 >> 32) ^ keys_[0][0];
    for (int v = 0; v < kPanelLanes; ++v) {
      const U queries = bits_as<U>(lane_numbers()) + static_cast<uint32_t>(query + v * kLanes);
      const Words word = bits_as<Words>(queries ^ mixed);
      products_[2 * v] = multiply_words(word, kFirst);
      products_[2 * v + 1] = multiply_words(word >> 32, kFirst);
    }
  }

  // factors[r][i]: 1 / (1 - probability), or 0 where it is dropped, of key `key + r` (key a multiple of 4) and query i
  // of the panel.
  __attribute__((noinline)) void factors(float (*to)[kPanel], int64_t key) const {
    // The products of the first three rounds that are equal in all lanes.
    const uint64_t first = uint64_t{kFirst} * static_cast<uint32_t>(key / 4);
    const uint64_t second = uint64_t{kSecond} * (high(first) ^ sample_ ^ keys_[0][1]);
    const uint64_t third = uint64_t{kFirst} * (high(second) ^ site_low_ ^ keys_[1][0]);
    const Words c2 = splat_words(low(first) ^ keys_[1][1]), next_c0 = splat_words(low(second) ^ keys_[2][0]);
    const Words next_c2 = splat_words(high(third) ^ keys_[2][1]), next_c3 = splat_words(low(third));
    for (int group = 0; group < 2 * kPanelLanes; group += kTogether) {
      Words c[kTogether][4];
#pragma GCC unroll 4
      for (int i = 0; i < kTogether; ++i) {
        const Words p0 = products_[group + i], p1 = multiply_words((p0 >> 32) ^ c2, kSecond);
        c[i][0] = (p1 >> 32) ^ next_c0;
        c[i][1] = p1;
        c[i][2] = p0 ^ next_c2;
        c[i][3] = next_c3;
      }
#pragma GCC unroll 7
      for (int round = 3; round < 10; ++round) {
        const Words k0 = splat_words(keys_[round][0]), k1 = splat_words(keys_[round][1]);
#pragma GCC unroll 4
        for (int i = 0; i < kTogether; ++i) {
          const Words p0 = multiply_words(c[i][0], kFirst), p1 = multiply_words(c[i][2], kSecond);
          c[i][0] = (p1 >> 32) ^ c[i][1] ^ k0;
          c[i][1] = p1;
          c[i][2] = (p0 >> 32) ^ c[i][3] ^ k1;
          c[i][3] = p0;
        }
      }
#pragma GCC unroll 2
      for (int i = 0; i < kTogether; i += 2) {
#pragma GCC unroll 4
        for (int r = 0; r < 4; ++r) {
          const U word = interleave_words(c[i][r], c[i + 1][r]);
          store(to[r] + (group + i) / 2 * kLanes, word >= U{} + threshold_ ? splat(keep_scale_) : splat(0.0F));
        }
      }
    }
  }

 private:
  static constexpr uint32_t kFirst = 0xD2511F53U, kSecond = 0xCD9E8D57U;
  // Vectors of counters at once: their four words and what a round needs besides fit the registers.
  static constexpr int kTogether = kLanes == 16 ? 4 : 2;

  static uint32_t low(uint64_t x) {
    return static_cast<uint32_t>(x);
  }
  static uint32_t high(uint64_t x) {
    return static_cast<uint32_t>(x >> 32);
  }

  uint32_t threshold_;
  float keep_scale_;
  uint32_t site_, sample_;
  uint32_t keys_[10][2];  // of the rounds
  // Of the panel: the lower half of the first round's product of the head, and the second round's products of the
  // query, for even and odd lanes of each vector.
  uint32_t site_low_ = 0;
  Words products_[2 * kPanelLanes];
};

}  // namespace
}  // namespace ridgeline::ops::cpu
