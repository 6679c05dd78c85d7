// Lab: a kernel's strips alone on packed panels, and its packing. usage: micro f32|bf16
#include <fmt/format.h>
#include <time.h>

#include <cstring>
#include <vector>

#include "ridgeline/device/arena.h"
#include "ridgeline/device/cpu/features.h"
#include "ridgeline/ops/cpu/matmul_kernel.h"
#include "ridgeline/ops/cpu/peak.h"
using namespace ridgeline;
using namespace ridgeline::ops::cpu;
static double now() { timespec t; clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); return double(t.tv_sec) + 1e-9 * double(t.tv_nsec); }
int main(int argc, char** argv) {
  bool bf = argc > 1 && !strcmp(argv[1], "bf16");
  (void)device::isa();
  const auto& k = bf ? matmul_kernel_amx_bf16() : matmul_kernel_avx512();
  device::WorkerTeam team(1);
  double peak = ops::peak_flops(bf ? DType::bf16 : DType::f32, team);
  device::Arena arena(int64_t{128} << 20, nullptr);
  for (int64_t i = 0; i < arena.size() / 2; ++i) ((uint16_t*)arena.data())[i] = uint16_t(0x3f00 + (i * 7919) % 200 + ((i * 31) & 0x8000));
  fmt::print("{} x {} peak {:.0f}\n", k.mr, k.nr, peak / 1e9);
  std::byte* a = arena.data(); std::byte* b = a + (16 << 20); float* sums = (float*)(b + (16 << 20)); std::byte* scratch = (std::byte*)sums + (8 << 20); std::byte* out = scratch + (1 << 20);
  for (int64_t kb : {384, 512, 576, 768}) for (int64_t nb : {384, 768}) for (int64_t mb : {128, 256}) {
    if (mb % k.mr || nb % k.nr) continue;
    fmt::print("kb {:4} nb {:4} mb {:4} ", kb, nb, mb);
    for (int mode = 0; mode < 7; ++mode) {
      double best = 1e9;
      if (k.begin) k.begin();
      int64_t reps = std::max<int64_t>(1, int64_t(2e-3 * peak / (2.0 * mb * nb * kb)));
      for (int r = 0; r < 7; ++r) {
        double t0 = now();
        for (int64_t q = 0; q < reps; ++q) for (int64_t i = 0; i < mb; i += k.mr) {
          Finish f{.carry = mode == 4 ? (float*)out + i * nb : nullptr, .ld_carry = nb, .bias = nullptr, .bias_dtype = DType::f32, .residual = nullptr, .out = out + i * nb * ((mode == 2 || mode == 5) ? 2 : 4), .ld_out = nb, .out_dtype = mode == 2 || mode == 5 ? DType::bf16 : DType::f32};
          Strip s{.k = kb, .a = a + i * kb * k.packed_bytes, .b = b, .b_stride = kb * k.nr * k.packed_bytes, .rows = k.mr, .columns = nb, .sums = sums + i * nb, .add = (mode >= 1 && mode < 5), .scratch = scratch, .finish = mode >= 2 ? &f : nullptr, .next = nullptr, .next_bytes = 0};
          k.multiply(s);
        }
        best = std::min(best, (now() - t0) / reps);
      }
      if (k.end) k.end();
      const char* names[] = {"store", "add", "finish bf16", "finish f32", "finish f32 carry", "one pass bf16", "one pass f32"};
      fmt::print("  {} {:5.1f} %", names[mode], 100 * 2.0 * mb * nb * kb / best / peak);
    }
    fmt::print("\n");
  }
  for (bool isb : {false, true}) for (bool kc : {true, false}) {
    double best = 1e9;
    int64_t lanes = 256 * 3, K = 768;
    for (int r = 0; r < 15; ++r) {
      double t0 = now();
      for (int64_t l = 0; l < lanes; l += isb ? k.nr : k.mr) {
        PanelSource s{.data = (const char*)a + l * (kc ? K : 1) * (bf ? 2 : 4), .ld = kc ? K : lanes, .k_contiguous = kc, .dtype = bf ? DType::bf16 : DType::f32, .lanes = isb ? k.nr : k.mr, .k = K};
        (isb ? k.pack_b : k.pack_a)(s, b + l * K * k.packed_bytes);
      }
      best = std::min(best, now() - t0);
    }
    fmt::print("pack {} {}: {:.2f} elements/ns = {:.1f} GB/s read;  cost vs 768 use: {:.1f} %\n", isb ? "b" : "a", kc ? "k contiguous" : "lanes contiguous", lanes * K / best / 1e9, lanes * K * (bf ? 2 : 4) / best / 1e9, 100 * best / (2.0 * lanes * K * 768 / peak));
  }
}
