// Lab: shapes of GPT-2 124M, fraction of the peak measured in the same round. usage: bench [f32|bf16|both] [M] [rounds] [filter]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <vector>

#include <sched.h>
#include "ridgeline/base/random.h"
#include "ridgeline/device/arena.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/cpu/peak.h"
#include "ridgeline/ops/cpu/matmul_providers.h"
#include "ridgeline/ops/matmul.h"
using namespace ridgeline;
#include <time.h>
static bool g_cpu = false;
static double now() { timespec t; clock_gettime(g_cpu ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t); return double(t.tv_sec) + 1e-9 * double(t.tv_nsec); }
struct Op { std::string name; ops::Matmul p; double flops, best = 1e9, frac = 0; double weight; double peer[3] = {1e9, 1e9, 1e9}; };
int main(int argc, char** argv) {
  std::string which = argc > 1 ? argv[1] : "both";
  int64_t M = argc > 2 ? atoll(argv[2]) : 1024;
  int rounds = argc > 3 ? atoi(argv[3]) : 5;
  std::string filter = argc > 4 ? argv[4] : "";
  int threads = argc > 5 ? atoi(argv[5]) : 2;
  cpu_set_t set; CPU_ZERO(&set); CPU_SET(0, &set); sched_setaffinity(0, sizeof set, &set);
  std::vector<int> cores; for (int i = 0; i < threads; ++i) cores.push_back(i);
  device::WorkerTeam team(threads, cores);
  device::Stream stream(team);
  g_cpu = threads == 1;
  const int64_t big = int64_t{50304} * (filter.find("50304") != std::string::npos || filter == "" ? 1 : 0);
  const int64_t w = std::max<int64_t>(3072, big);
  device::Arena arena((M * 3072 + M * w + w * 768 * 1 + 3072 * 768) * 4 + (w * 768 + M * w) * 4 + (int64_t{600} << 20), &team);
  for (DType t : {DType::f32, DType::bf16}) {
    if (which != "both" && which != name_of(t)) continue;
    std::byte* at = arena.data();
    auto take = [&](int64_t n, DType d, bool fill) {
      std::byte* p = at;
      at += (n * size_of(d) + 4095) / 4096 * 4096;
      if (fill) {
        uint64_t s = 7;
        for (int64_t i = 0; i < n; ++i) {
          s = s * 6364136223846793005U + 1442695040888963407U;
          float v = to_unit(uint32_t(s >> 32)) - 0.5F;
          if (d == DType::f32) ((float*)p)[i] = v; else ((bf16*)p)[i] = bf16(v);
        }
      }
      return Ref(p, d);
    };
    Ref x = take(M * 3072, t, true), y = take(M * w, t, true), wt = take(w * 768, t, true), g = take(w * 768, DType::f32, true), dx = take(M * 3072, t, true);
    std::vector<Op> list;
    int64_t shapes[][3] = {{768, 2304, 12}, {768, 768, 12}, {768, 3072, 12}, {3072, 768, 12}, {768, 50304, 1}};
    using ops::Layout;
    for (auto& s : shapes) {
      int64_t K = s[0], N = s[1];
      if (filter != "" && fmt::format("{},{}", K, N).find(filter) == std::string::npos) continue;
      double fl = 2.0 * M * N * K;
      // W [N][K] as GPT-2 qkv, fc1, head; [K][N] for row-parallel (fc2, proj)
      bool kn = (K == 3072 || (K == 768 && N == 768));
      ops::Matmul f; f.m = M; f.n = N; f.k = K; f.a = {x, Layout::row_major, K};
      f.b = kn ? ops::Matrix{wt, Layout::row_major, N} : ops::Matrix{wt, Layout::column_major, K}; f.c = y; f.ldc = N;
      list.push_back({fmt::format("{},{} fwd", K, N), f, fl, 1e9, 0, double(s[2])});
      ops::Matmul d; d.m = M; d.n = K; d.k = N; d.a = {y, Layout::row_major, N};
      d.b = kn ? ops::Matrix{wt, Layout::column_major, N} : ops::Matrix{wt, Layout::row_major, K}; d.c = dx; d.ldc = K;
      list.push_back({fmt::format("{},{} dX", K, N), d, fl, 1e9, 0, double(s[2])});
      ops::Matmul gw; gw.k = M; gw.accumulate = true; gw.c = g;
      if (kn) { gw.m = K; gw.n = N; gw.a = {x, Layout::column_major, K}; gw.b = {y, Layout::row_major, N}; gw.ldc = N; }
      else { gw.m = N; gw.n = K; gw.a = {y, Layout::column_major, N}; gw.b = {x, Layout::row_major, K}; gw.ldc = K; }
      list.push_back({fmt::format("{},{} dW", K, N), gw, fl, 1e9, 0, double(s[2])});
    }
    int64_t ws = 0;
    for (auto& o : list) ws = std::max(ws, ops::matmul_workspace_bytes(o.p, threads));
    if (at + ws > arena.data() + arena.size()) { fmt::print("arena too small by {}\n", (at + ws) - (arena.data() + arena.size())); return 1; }
    double bestpeak = 0;
    for (int r = 0; r < rounds; ++r) {
      double peak = ops::peak_flops(t, team);
      bestpeak = std::max(bestpeak, peak);
      for (auto& o : list) {
        double t0 = now();
        ops::matmul(stream, o.p, at);
        double dt = now() - t0;
        o.best = std::min(o.best, dt);
        if (getenv("PEERS")) for (auto pr : ops::providers()) if (pr != ops::Provider::ridgeline && ops::offers(pr, o.p)) { double t1 = now(); ops::matmul_with(pr, stream, o.p, at); o.peer[int(pr)] = std::min(o.peer[int(pr)], now() - t1); }
        if (r > 0 || rounds == 1) o.frac = std::max(o.frac, o.flops / dt / peak);
      }
    }
    fmt::print("{} M {} peak {:.0f} GFLOP/s, {} threads\n", name_of(t), M, bestpeak / 1e9, threads);
    double tw = 0, fw = 0;
    for (auto& o : list) {
      fmt::print("  {:16} {:7.0f} GFLOP/s  {:5.1f} %  (ms {:.3f})\n", o.name, o.flops / o.best / 1e9, 100 * o.flops / o.best / bestpeak, o.best * 1e3);
      for (int q = 1; q < 3; ++q) if (o.peer[q] < 1e9) fmt::print("      {:10} {:7.0f}\n", ops::name_of(ops::Provider(q)), o.flops / o.peer[q] / 1e9);
      tw += o.best * o.weight; fw += o.flops * o.weight;
    }
    fmt::print("  weighted {:.0f} GFLOP/s {:.1f} %\n", fw / tw / 1e9, 100 * fw / tw / bestpeak);
  }
}
