// A stream on two threads, and buffers of random values.
#pragma once

#include <cmath>
#include <cstring>
#include <vector>

#include "ridgeline/base/dtype.h"
#include "ridgeline/base/random.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/device/stream.h"

namespace ridgeline::ops {

struct TwoThreads {
  device::WorkerTeam team{2};
  device::Stream stream{team};
};

template <typename T>
std::vector<T> random_values(int64_t count, uint64_t seed, float width = 1.0F) {
  std::vector<T> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = philox(seed, {static_cast<uint32_t>(i), 0, 0, 0})[0];
    values[i] = T(width * (2.0F * to_unit(bits) - 1.0F));
  }
  return values;
}

template <typename T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

}  // namespace ridgeline::ops
