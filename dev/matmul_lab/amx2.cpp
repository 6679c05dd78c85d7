// Lab: does the alias of tile stores and loads modulo 4096 matter? Cycles normalised to the L1-resident kernel without stores.
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
#define LT(t, p, s) __asm__ volatile("tileloaddt1 (%0,%1,1), %%tmm" #t ::"r"(p), "r"((int64_t)(s)) : "memory")
#define ST(t, p, s) __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"(p), "r"((int64_t)(s)) : "memory")
#define ZE(t) __asm__ volatile("tilezero %%tmm" #t ::)
#define DP(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)

// S: 0 none, 1 scratch 4K.  T: B by tileloaddt1.  C: load C first
template <int S, bool T, bool C> __attribute__((noinline)) void micro(int64_t kb, const char* a, const char* b, char* sc, int64_t lim) {
  if (C) { LD(0, sc, 64); LD(1, sc + 1024, 64); LD(2, sc + 2048, 64); LD(3, sc + 3072, 64); } else { ZE(0); ZE(1); ZE(2); ZE(3); }
  int64_t k = 0;
  for (; k < lim; k += 32, a += 2048, b += 2048) {
    if (T) LT(6, b, 64); else LD(6, b, 64);
    LD(4, a, 64); DP(0, 4, 6);
    if (T) LT(7, b + 1024, 64); else LD(7, b + 1024, 64);
    DP(1, 4, 7);
    LD(5, a + 1024, 64); DP(2, 5, 6);
    DP(3, 5, 7);
  }
  for (; k < kb; k += 32, a += 2048, b += 2048) {
    LT(6, b, 64); LT(4, a, 64); DP(0, 4, 6); LT(7, b + 1024, 64); DP(1, 4, 7); LT(5, a + 1024, 64); DP(2, 5, 6); DP(3, 5, 7);
  }
  if (S) { ST(0, sc, 64); ST(1, sc + 1024, 64); ST(2, sc + 2048, 64); ST(3, sc + 3072, 64); }
}
double base = 0;
static device::Arena arena(int64_t{64} << 20, nullptr);
void fill() { for (int64_t i = 0; i < arena.size() / 2; ++i) ((uint16_t*)arena.data())[i] = uint16_t(0x3f00 + (i * 7919) % 200 + ((i * 31) & 0x8000)); }
template <int S, bool T, bool C> double run(const char* name, int64_t mb, int64_t nb, int64_t kb, bool direct = false, int64_t lim = 1 << 20) {
  
  char* a = (char*)arena.data(); char* b = a + (16 << 20); char* c = (b + (16 << 20)); char* sc = c + (8 << 20);
  
  Cfg cfg; __asm__ volatile("ldtilecfg %0" ::"m"(cfg));
  const int64_t pb = kb * 64;
  int64_t reps = std::max<int64_t>(1, int64_t(3e9 / (2.0 * mb * nb * kb)));
  double best = 1e9;
  for (int r = 0; r < 9; ++r) {
    double t0 = now();
    for (int64_t q = 0; q < reps; ++q) for (int64_t i = 0; i < mb; i += 32) for (int64_t j = 0; j < nb; j += 32)
      micro<S, T, C>(kb, a + i / 32 * pb, b + j / 32 * pb, direct ? c + (i * nb + j * 32) * 4 : sc, std::min(lim, kb));
    best = std::min(best, now() - t0);
  }
  __asm__ volatile("tilerelease");
  double t = best / (reps * (mb / 32) * (nb / 32));
  if (base == 0) fmt::print("base {:.1f} GFLOP/s\n", 2*32*32*kb/t/1e9); if (base == 0) base = t / (kb / 32);
  double cyc = t / base * 64;
  if (name) fmt::print("{:28} mb {:4} nb {:4} kb {:4}: {:6.0f} cycles over {:4} ({:.1f} %)\n", lim < kb ? fmt::format("{} lim {}", name, lim) : std::string(name), mb, nb, kb, cyc - 2 * kb, 2 * kb, 200 * kb / cyc);
  return cyc;
}
int main() {
  (void)device::isa();
  run<0, false, false>("base", 32, 32, 192);
  for (int rnd = 0; rnd < 2; ++rnd) { if (rnd) fill(); base = 0; run<0, false, false>("base", 32, 32, 192); for (int kb : {512, 768}) for (auto [mb, nb] : {std::pair{128, 384}}) for (int lim : {512}) {
    if (lim > kb && lim < 2048) continue;
    run<1, true, false>("store scratch t1", mb, nb, kb, false, lim);
    run<1, true, false>("store direct t1", mb, nb, kb, true, lim);
    run<1, true, true>("load store direct t1", mb, nb, kb, true, lim);
    }
  }
}
