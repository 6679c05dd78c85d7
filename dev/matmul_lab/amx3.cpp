// Lab: does AMX speed depend on the data? Registers only (P=0), with loads from L1 (P=1); zeros against random.
#include <fmt/format.h>
#include <time.h>
#include <algorithm>
#include <cstring>
#include <immintrin.h>
#include "ridgeline/device/arena.h"
#include "ridgeline/device/cpu/features.h"
using namespace ridgeline;
static double now() { timespec t; clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); return double(t.tv_sec) + 1e-9 * double(t.tv_nsec); }
struct alignas(64) Cfg { uint8_t palette = 1, start = 0, res[14] = {}; uint16_t b[16] = {64,64,64,64,64,64,64,64}; uint8_t r[16] = {16,16,16,16,16,16,16,16}; };
#define LD(t, p, s) __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t ::"r"(p), "r"((int64_t)(s)) : "memory")
#define ZE(t) __asm__ volatile("tilezero %%tmm" #t ::)
#define DP(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)
alignas(4096) static uint16_t buf[3][32768];
double go(int load, const char* a, const char* b) {
  Cfg cfg; __asm__ volatile("ldtilecfg %0" ::"m"(cfg));
  double best = 1e9;
  LD(6, b, 64); LD(4, a, 64); LD(7, b + 1024, 64); LD(5, a + 1024, 64);
  for (int r = 0; r < 10; ++r) {
    double t0 = now();
    for (int q = 0; q < 2000; ++q) {
      ZE(0); ZE(1); ZE(2); ZE(3);
      const char *x = a, *y = b;
      for (int k = 0; k < 8; ++k) {
        if (load) { LD(6, y, 64); LD(4, x, 64); }
        DP(0, 4, 6);
        if (load) LD(7, y + 1024, 64);
        DP(1, 4, 7);
        if (load) LD(5, x + 1024, 64);
        DP(2, 5, 6); DP(3, 5, 7);
        x += 2048; y += 2048;
      }
    }
    best = std::min(best, now() - t0);
  }
  __asm__ volatile("tilerelease");
  return 2000.0 * 32 * 16384 * 4 / 4 / best / 1e9;
}
double clk() { uint64_t x = 3; double best = 1e9; for (int r = 0; r < 5; ++r) { double t0 = now(); for (int i = 0; i < 100000; ++i) { for (int j = 0; j < 8; ++j) { x *= x; __asm__ volatile("" : "+r"(x)); } } best = std::min(best, now() - t0); } return 2.4e6 / best / 1e9; }
int main() {
  (void)device::isa();
  for (int i = 0; i < 32768; ++i) { buf[1][i] = uint16_t(0x3f00 + (i * 7919) % 200 + ((i * 31) & 0x8000)); uint32_t z = i * 2654435761u; z ^= z >> 15; z *= 2246822519u; z ^= z >> 13; buf[2][i] = uint16_t((z & 0x80ff) | 0x3f00); }
  if (getenv("TOUCH")) for (int i = 0; i < 32768; ++i) ((volatile uint16_t*)buf[0])[i] = 0;
  if (getenv("ONE")) for (int i = 0; i < 32768; ++i) ((volatile uint16_t*)buf[0])[i] = 0x3f80;
  for (int r = 0; r < 1; ++r) for (int load = 0; load < 2; ++load) for (int d = 0; d < 3; ++d) fmt::print("load {} data {}: {:.0f} GFLOP/s, clock after {:.2f}\n", load, d, go(load, (char*)buf[d], (char*)buf[d] + 32768), clk());
}
