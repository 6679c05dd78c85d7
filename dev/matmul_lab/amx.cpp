// Lab: what overlaps with what in AMX. Prints cycles per 32x32xkb micro tile against 64 * kb / 32.
#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <cstring>
#include <immintrin.h>

#include "ridgeline/device/arena.h"
#include "ridgeline/device/cpu/features.h"
#include "ridgeline/ops/cpu/peak.h"
using namespace ridgeline;
static double now() { timespec t; clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); return double(t.tv_sec) + 1e-9 * double(t.tv_nsec); }
struct alignas(64) Cfg { uint8_t palette = 1, start = 0, res[14] = {}; uint16_t b[16] = {64,64,64,64,64,64,64,64}; uint8_t r[16] = {16,16,16,16,16,16,16,16}; };
#define LD(t, p, s) __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t ::"r"(p), "r"((int64_t)(s)) : "memory")
#define ST(t, p, s) __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"(p), "r"((int64_t)(s)) : "memory")
#define ZE(t) __asm__ volatile("tilezero %%tmm" #t ::)
#define DP(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)

// V: 0 store 4KB contiguous, 1 half pages, 2 quarter pages, 3 none; D: 0 no drain, 1 bulk drain of the previous to sums, before stores; 2 after stores; 3 bulk drain split in 2 steps; 4: add
template <int V, int D, bool L, int P> __attribute__((noinline)) void micro(int64_t kb, const char* a, const char* b, char* sc, char* prev, float* sums) {
  const int64_t o1 = 1024 + (V == 2 ? 3072 : 0), o2 = V == 1 ? 4096 : V == 2 ? 8192 : 2048, o3 = V == 1 ? 5120 : V == 2 ? 12288 : 3072;
  if (L) { LD(0, (char*)sums, 64); LD(1, (char*)sums + 1024, 64); LD(2, (char*)sums + 2048, 64); LD(3, (char*)sums + 3072, 64); }
  else { ZE(0); ZE(1); ZE(2); ZE(3); }
  for (int64_t k = 0; k < kb; k += 32, a += 2048, b += 2048) {
    if (P && k >= kb - 32 * P) {
      const int64_t n = 64 / P, f = (k - (kb - 32 * P)) / 32 * n;
      for (int64_t i = f; i < f + n; ++i) {
        const char* q = sc + (i >> 4 == 0 ? 0 : i >> 4 == 1 ? o1 : i >> 4 == 2 ? o2 : o3) + (i & 15) * 64;
        __builtin_prefetch(q, 1, 3);
      }
    }
    LD(6, b, 64); LD(4, a, 64); DP(0, 4, 6);
    LD(7, b + 1024, 64); DP(1, 4, 7);
    LD(5, a + 1024, 64); DP(2, 5, 6);
    DP(3, 5, 7);
  }
  auto drain = [&] {
    const int64_t o[4] = {0, o1, o2, o3};
#pragma GCC unroll 4
    for (int t = 0; t < 4; ++t) for (int r = 0; r < 16; ++r) { float* d = sums + t * 256 + r * 16; __m512 x = _mm512_load_ps(prev + o[t] + r * 64); if (D == 4) x = _mm512_add_ps(x, _mm512_load_ps(d)); _mm512_store_ps(d, x); }
  };
  if (D == 1 || D == 4) drain();
  if (V != 3) { ST(0, sc, 64); ST(1, sc + o1, 64); ST(2, sc + o2, 64); ST(3, sc + o3, 64); }
  if (D == 2) drain();
}
double peak;

template <int V, int D, bool L, int P> void run(const char* name, int64_t mb, int64_t nb, int64_t kb, bool direct = false) {
  static device::Arena arena(int64_t{64} << 20, nullptr);
  char* a = (char*)arena.data(); char* b = a + (16 << 20); char* c = (b + (16 << 20)); char* sc = c + (8 << 20);
  if (V == 1) sc += 2048; if (V == 2) sc += 3072;
  Cfg cfg; __asm__ volatile("ldtilecfg %0" ::"m"(cfg));
  int64_t reps = std::max<int64_t>(1, int64_t(1e-3 * peak / (2.0 * mb * nb * kb)));
  double best = 1e9;
  for (int r = 0; r < 7; ++r) {
    double t0 = now(); int z = 0;
    for (int64_t q = 0; q < reps; ++q) for (int64_t i = 0; i < mb; i += 32) for (int64_t j = 0; j < nb; j += 32, z ^= 16384) {
      char* sums = c + (i * nb + j * 32) * 4;
      micro<V, D, L, P>(kb, a + i * kb * 2, b + j * kb * 2, direct ? sums : sc + z, sc + (z ^ 16384), (float*)sums);
    }
    best = std::min(best, now() - t0);
  }
  __asm__ volatile("tilerelease");
  double cyc = best / (reps * (mb / 32) * (nb / 32)) * peak / 1024;
  fmt::print("{:36} mb {:4} nb {:4} kb {:4}: {:6.0f} cycles over {:4} ideal ({:.1f} %)\n", name, mb, nb, kb, cyc - 2 * kb, 2 * kb, 200 * kb / cyc);
}
int main() {
  (void)device::isa(); device::WorkerTeam team(1); peak = ops::peak_flops(DType::bf16, team);
  fmt::print("peak {:.0f}\n", peak / 1e9);
  for (int kb : {256, 384, 512, 768}) for (auto [mb, nb] : {std::pair{32, 32}, std::pair{128, 768}}) {
    run<3, 0, false, 0>("no store", mb, nb, kb);
    run<0, 0, false, 0>("store 4K", mb, nb, kb);
    run<0, 0, false, 2>("store 4K p2", mb, nb, kb);
    run<0, 0, false, 4>("store 4K p4", mb, nb, kb);
    run<0, 0, false, 8>("store 4K p8", mb, nb, kb);
    run<1, 0, false, 4>("store 2 halves p4", mb, nb, kb);
    run<2, 0, false, 4>("store 4 quarters p4", mb, nb, kb);
    run<0, 0, false, 4>("store direct to sums p4", mb, nb, kb, true);
    run<0, 0, true, 4>("load+store direct to sums p4", mb, nb, kb, true);
    run<0, 0, true, 8>("load+store direct to sums p8", mb, nb, kb, true);
    run<1, 1, false, 4>("store 2 halves, drain prev before p4", mb, nb, kb);
    run<1, 2, false, 4>("store 2 halves, drain prev after p4", mb, nb, kb);
    run<2, 1, false, 4>("store 4 quarters, drain prev before p4", mb, nb, kb);
    run<2, 2, false, 4>("store 4 quarters, drain prev after p4", mb, nb, kb);
  }
}
