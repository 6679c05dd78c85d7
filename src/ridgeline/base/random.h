// Randomness has an address, not a state: every value is a pure function of (key, counter), so that any rank, layout,
// team size or resumed run draws the same bits for the same place.
//
// Generator: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11).
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace ridgeline {

using Philox4 = std::array<uint32_t, 4>;

// Philox4x32-10: 128 random bits for a 128-bit counter under a 64-bit key.
constexpr Philox4 philox(uint64_t key, Philox4 counter) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53U} * counter[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57U} * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ k0, static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  return counter;
}

// What a stream of random values is for; part of its key, so that purposes never share bits.
enum class Purpose : uint32_t { init = 1, dropout = 2, attention_dropout = 3, sampling = 4, rounding = 5, order = 6 };

// 64-bit key of (seed, step, purpose): SplitMix64 over the three.
uint64_t random_key(uint64_t seed, uint64_t step, Purpose purpose);

// 64-bit FNV-1a of a name: how tensors are addressed in random keys. Stable for ever: initial values depend on it.
uint64_t hash_name(std::string_view name);

// Uniform in [0, 1) with 24 bits.
constexpr float to_unit(uint32_t bits) {
  return static_cast<float>(bits >> 8) * 0x1p-24F;
}

// Standard normal by inversion of the normal distribution (Wichura, algorithm AS 241, 1988), from 32 bits, computed in
// double with IEEE + - * / and sqrt only (own logarithm): the same bits on every machine. |value| <= 6.4.
float to_normal(uint32_t bits);

// values[i] = mean + deviation * N(0,1) addressed by (key, first + i): element-wise pure, so that any part of a tensor
// can be drawn alone. `key` from random_key(seed, hash_name(tensor), Purpose::init).
void fill_normal(float* values, int64_t count, uint64_t key, uint64_t first, float mean, float deviation);

}  // namespace ridgeline
