#include "ridgeline/ops/cpu/peak.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <time.h>

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

// Processor time of the calling thread.
double thread_seconds() {
  timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
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

// Streams of one member, `count` floats each, a cache line at a time: written as vectors, since whether a compiler
// makes vectors of a loop depends on where it is inlined, and these are ceilings.
using Line = float __attribute__((vector_size(64), aligned(64), may_alias));

float read_stream(const float* x, int64_t count) {
  const auto* lines = reinterpret_cast<const Line*>(x);
  Line sums[2] = {};
  for (int64_t i = 0; i + 2 <= count / 16; i += 2) {
    sums[0] += lines[i];
    sums[1] += lines[i + 1];
  }
  sums[0] += sums[1];
  return sums[0][0];
}

// Past the caches: an ordinary store would first read the line that it overwrites.
void copy_stream(const float* x, float* y, int64_t count) {
#if defined(__x86_64__)
  for (int64_t i = 0; i < count; i += 4) _mm_stream_ps(y + i, _mm_load_ps(x + i));
  _mm_sfence();
#else
  for (int64_t i = 0; i < count / 16; ++i) reinterpret_cast<Line*>(y)[i] = reinterpret_cast<const Line*>(x)[i];
#endif
}

void adam_streams(const float* gradient, float* master, float* moment1, float* moment2, int64_t count) {
  for (int64_t i = 0; i < count / 16; ++i) {
    const Line g = reinterpret_cast<const Line*>(gradient)[i];
    Line &p = reinterpret_cast<Line*>(master)[i], &m = reinterpret_cast<Line*>(moment1)[i],
         &v = reinterpret_cast<Line*>(moment2)[i];
    const Line next_m = 0.9F * m + 0.1F * g, next_v = 0.95F * v + 0.05F * g * g;
    p -= 1e-3F * next_m + 1e-4F * next_v;
    m = next_m;
    v = next_v;
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
  // The slowest member's processor time: what else runs on the machine takes turns, and these do not count.
  std::vector<double> taken(static_cast<size_t>(team.size()));
  const auto once = [&] {
    team.run([&](int member) {
      const double begin = thread_seconds();
      kernel.multiply_add(rounds, data.data());
      taken[static_cast<size_t>(member)] = thread_seconds() - begin;
    });
    return *std::max_element(taken.begin(), taken.end());
  };
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

namespace {

struct Streams {
  int arrays, touches;  // touches: arrays read and arrays written
};
Streams streams_of(MemoryPattern pattern) {
  switch (pattern) {
    case MemoryPattern::read:
      return {1, 1};
    case MemoryPattern::copy:
      return {2, 2};
    case MemoryPattern::adam:
      return {4, 7};
  }
  RL_NO_CASE(pattern);
}

}  // namespace

double memory_bandwidth(MemoryPattern pattern, WorkerTeam& team, int64_t bytes) {
  const Streams streams = streams_of(pattern);
  const int arrays = streams.arrays, touches = streams.touches;
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
                        switch (pattern) {
                          case MemoryPattern::read: {
                            float sum = read_stream(x, part);
                            __asm__ volatile("" : "+m"(sum));
                            return;
                          }
                          case MemoryPattern::copy: {
                            float* y = array(1, member);
                            copy_stream(x, y, part);
                            __asm__ volatile("" : "+r"(y) : : "memory");
                            return;
                          }
                          case MemoryPattern::adam:
                            return adam_streams(x, array(1, member), array(2, member), array(3, member), part);
                        }
                      });
                    }));
  }
  return static_cast<double>(part) * 4 * touches * team.size() / best;
}

}  // namespace ridgeline::ops
