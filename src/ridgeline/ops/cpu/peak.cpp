#include "ridgeline/ops/cpu/peak.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "ridgeline/base/error.h"
#include "ridgeline/base/random.h"
#include "ridgeline/device/arena.h"
#include "ridgeline/ops/cpu/peak_kernel.h"

namespace ridgeline::ops {
namespace {

using device::Isa;
using device::WorkerTeam;

constexpr int kRuns = 15;
constexpr double kRunSeconds = 0.004;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <typename F>
double seconds(F&& f) {
  const double start = now();
  f();
  return now() - start;
}

// Keeps a value alive and unknown to the compiler.
template <typename T>
void opaque(T& value) {
  __asm__ volatile("" : "+r"(value));
}

// Independent sums of plain C++: what the compiler's baseline instructions can do.
void multiply_add_portable(int64_t rounds, const void* data) {
  constexpr int kSums = 32;
  float sums[kSums] = {}, x = *static_cast<const float*>(data);
  __asm__ volatile("" : "+m"(x));
  for (int64_t round = 0; round < rounds; ++round) {
    for (float& sum : sums) sum = sum * x + x;
  }
  float* end = sums;
  __asm__ volatile("" : "+r"(end) : : "memory");
}
constexpr cpu::PeakKernel kPortable{multiply_add_portable, 32 * 2};

const cpu::PeakKernel& kernel_of(DType dtype, Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::amx_bf16 && dtype == DType::bf16) return cpu::peak_kernel_amx_bf16();
  if (isa == Isa::avx512_bf16 && dtype == DType::bf16) return cpu::peak_kernel_avx512_bf16();
  if (isa >= Isa::avx512) return cpu::peak_kernel_avx512();
  if (isa >= Isa::avx2) return cpu::peak_kernel_avx2();
#else
  static_cast<void>(dtype);
  static_cast<void>(isa);
#endif
  return kPortable;
}

// f[0] += …: streams of one member; `count` floats each.
float read_stream(const float* x, int64_t count) {
  float sums[32] = {};
  for (int64_t i = 0; i + 32 <= count; i += 32) {
    for (int j = 0; j < 32; ++j) sums[j] += x[i + j];
  }
  for (int j = 1; j < 32; ++j) sums[0] += sums[j];
  return sums[0];
}

void adam_streams(const float* __restrict g, float* __restrict p, float* __restrict m, float* __restrict v,
                  int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    m[i] = 0.9F * m[i] + 0.1F * g[i];
    v[i] = 0.95F * v[i] + 0.05F * g[i] * g[i];
    p[i] -= 1e-3F * m[i] + 1e-4F * v[i];
  }
}

}  // namespace

double peak_flops(DType dtype, WorkerTeam& team, Isa isa) {
  RL_REQUIRE(dtype == DType::f32 || dtype == DType::bf16, "peak_flops of {}", name_of(dtype));
  const cpu::PeakKernel& kernel = kernel_of(dtype, isa);
  // Random operands of both signs in [0.5, 1), in either dtype: a bf16 pair is the two halves of an f32 here.
  std::vector<uint32_t> data(cpu::kPeakDataBytes / 4);
  for (uint32_t i = 0; i < data.size(); ++i) data[i] = (philox(1, {i, 0, 0, 0})[0] & 0x807f807fU) | 0x3f003f00U;
  int64_t rounds = 1024;
  const auto once = [&] { return seconds([&] { team.run([&](int) { kernel.multiply_add(rounds, data.data()); }); }); };
  while (once() < kRunSeconds) rounds *= 2;
  double best = once();
  for (int run = 1; run < kRuns; ++run) best = std::min(best, once());
  return static_cast<double>(rounds) * static_cast<double>(kernel.flops_per_round) * team.size() / best;
}

double peak_flops(DType dtype, WorkerTeam& team) {
  return peak_flops(dtype, team, device::isa());
}

double clock_hz() {
  constexpr int64_t kMultiplications = 1 << 20;
  constexpr double kCycles = 3.0;
  uint64_t x = 3;
  double best = 1e9;
  for (int run = 0; run < kRuns; ++run) {
    best = std::min(best, seconds([&] {
                      for (int64_t i = 0; i < kMultiplications / 8; ++i) {
                        for (int j = 0; j < 8; ++j) {
                          x *= x;
                          opaque(x);
                        }
                      }
                    }));
  }
  return kCycles * static_cast<double>(kMultiplications) / best;
}

double memory_bandwidth(MemoryPattern pattern, WorkerTeam& team, int64_t bytes) {
  const int arrays = pattern == MemoryPattern::read ? 1 : pattern == MemoryPattern::copy ? 2 : 4;
  const int touches = pattern == MemoryPattern::read ? 1 : pattern == MemoryPattern::copy ? 2 : 7;
  const int64_t part = bytes / (arrays * team.size() * 4) / 1024 * 1024;  // floats per array and member
  RL_CHECK(part, >, 0);
  device::Arena arena(part * arrays * team.size() * 4, &team);
  auto* base = reinterpret_cast<float*>(arena.data());
  const auto array = [&](int which, int member) { return base + (which * team.size() + member) * part; };
  team.run([&](int member) {
    uint64_t state = static_cast<uint64_t>(member) + 1;
    for (int which = 0; which < arrays; ++which) {
      float* x = array(which, member);
      for (int64_t i = 0; i < part; ++i) {
        state = state * 6364136223846793005U + 1442695040888963407U;
        x[i] = to_unit(static_cast<uint32_t>(state >> 32));
      }
    }
  });
  double best = 1e9;
  for (int run = 0; run < 5; ++run) {
    best = std::min(best, seconds([&] {
                      team.run([&](int member) {
                        float* x = array(0, member);
                        if (pattern == MemoryPattern::read) {
                          float sum = read_stream(x, part);
                          __asm__ volatile("" : "+m"(sum));
                        } else if (pattern == MemoryPattern::copy) {
                          float* y = array(1, member);
                          for (int64_t i = 0; i < part; ++i) y[i] = x[i];
                          __asm__ volatile("" : "+r"(y) : : "memory");
                        } else {
                          adam_streams(x, array(1, member), array(2, member), array(3, member), part);
                        }
                      });
                    }));
  }
  return static_cast<double>(part) * 4 * touches * team.size() / best;
}

}  // namespace ridgeline::ops
