// Times the CPU attention kernels on the shape of GPT-2 124M (or another), best of some rounds:
//   attention_lab [--isa NAME] [--dtype f32|bf16|both] [--threads N] [--rounds N] [--shape B T H KV D] [--dropout P]
// Not part of the build; see README.md beside this file.
#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "ridgeline/base/random.h"
#include "ridgeline/device/arena.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/cpu/attention_isa.h"

using namespace ridgeline;

namespace {

// Of this thread when it works alone: other processes on the machine then matter less.
double seconds(bool alone) {
  timespec t{};
  clock_gettime(alone ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

#if defined(__x86_64__)
// GFLOP/s of one thread now, register to register: the clock of a shared machine moves by a third within a minute, so
// every timing stands between two of these. Needs AVX-512.
__attribute__((target("avx512f"))) double peak_f32() {
  constexpr int kRepeats = 40000;
  const double start = seconds(true);
  for (int i = 0; i < kRepeats; ++i) {
#define FMA(n) "vfmadd231ps %%zmm0, %%zmm1, %%zmm" #n "\n"
    __asm__ volatile(FMA(2) FMA(3) FMA(4) FMA(5) FMA(6) FMA(7) FMA(8) FMA(9) FMA(10) FMA(11) FMA(12) FMA(13)::
                         : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
                           "xmm11", "xmm12", "xmm13");
#undef FMA
  }
  return 12.0 * 32 * kRepeats / (seconds(true) - start) * 1e-9;
}
#endif

struct Options {
  device::Isa isa = device::isa();
  bool f32 = true, bf16 = true;
  int threads = 2, rounds = 7;
  int64_t b = 4, t = 1024, h = 12, kv = 12, d = 64;
  float dropout = 0;
  int forwards = 1, backwards = 1;  // per round: 0 leaves a pass out of a profile
};

void fill(Ref x, int64_t count, uint64_t seed) {
  std::vector<float> values(count);
  fill_normal(values.data(), count, seed, 0, 0.0F, 1.0F);
  for (int64_t i = 0; i < count; ++i) {
    if (x.dtype == DType::f32) {
      x.as<float>()[i] = values[i];
    } else {
      x.as<bf16>()[i] = bf16(values[i]);
    }
  }
}

void measure(const Options& o, DType dtype) {
  device::WorkerTeam team(o.threads);
  const std::vector<uint32_t> samples(o.b, 3);
  ops::Attention s;
  s.batch = o.b, s.queries = s.keys = o.t, s.heads = o.h, s.kv_heads = o.kv, s.head_width = o.d;
  s.scale = 1.0F / std::sqrt(static_cast<float>(o.d));
  s.q_stride = s.kv_stride = (o.h + 2 * o.kv) * o.d;
  s.out_stride = o.h * o.d;
  s.dropout = {o.dropout, 77, 1, samples.data()};
  const int64_t qkv = o.b * o.t * s.q_stride, out = o.b * o.t * s.out_stride, bytes = size_of(dtype);
  const int64_t workspace = ops::cpu::attention_workspace_bytes(s, dtype, o.threads, o.isa);
  device::Arena arena((2 * qkv + 2 * out) * bytes + workspace + o.b * o.h * o.t * 4 + 65536, &team);
  std::byte* next = arena.data();
  auto take = [&](int64_t n) {
    std::byte* at = next;
    next += (n + 4095) / 4096 * 4096;
    return at;
  };
  const Ref x(take(qkv * bytes), dtype), dx(take(qkv * bytes), dtype), y(take(out * bytes), dtype),
      dy(take(out * bytes), dtype);
  auto* lse = reinterpret_cast<float*>(take(o.b * o.h * o.t * 4));
  const ops::Workspace scratch{take(workspace), workspace};
  fill(x, qkv, 1);
  fill(dy, out, 2);
  const int64_t k_at = o.h * o.d, v_at = k_at + o.kv * o.d;
  std::vector<double> forward, backward, forward_share, backward_share;
  const double pairs = static_cast<double>(o.b * o.h) * static_cast<double>(o.t) * static_cast<double>(o.t + 1) / 2;
  const double flops = 2 * pairs * static_cast<double>(o.d);  // of one product
  auto peak = [&] { return o.threads == 1 && o.isa >= device::Isa::avx512 ? peak_f32() * 1e9 : 0.0; };
  for (int round = 0; round <= o.rounds; ++round) {
    const double p0 = peak(), t0 = seconds(o.threads == 1);
    for (int i = 0; i < (round == 0 ? 1 : o.forwards); ++i)
      ops::cpu::attention_forward(team, s, x, x.at(k_at), x.at(v_at), y, lse, scratch, o.isa);
    const double t1 = seconds(o.threads == 1), p1 = peak(), t2 = seconds(o.threads == 1);
    for (int i = 0; i < o.backwards; ++i)
      ops::cpu::attention_backward(team, s, x, x.at(k_at), x.at(v_at), y, dy, lse, dx, dx.at(k_at), dx.at(v_at),
                                   scratch, o.isa);
    const double t3 = seconds(o.threads == 1), p2 = peak();
    if (round == 0) continue;
    forward.push_back(t1 - t0);
    backward.push_back(t3 - t2);
    forward_share.push_back(p0 > 0 ? 2 * flops / (t1 - t0) / ((p0 + p1) / 2) : 0);
    backward_share.push_back(p0 > 0 ? 5 * flops / (t3 - t2) / ((p1 + p2) / 2) : 0);
  }
  auto report = [&](const char* what, std::vector<double> times, std::vector<double> shares, double products) {
    std::sort(times.begin(), times.end());
    std::sort(shares.begin(), shares.end());
    fmt::print(
        "{:<12} {:<4} {:<9} best {:8.3f} ms  median {:8.3f} ms  {:8.1f} GFLOP/s  x12 layers {:.4f} s  of fp32 FMA "
        "peak: median {:.3f}\n",
        device::name_of(o.isa), name_of(dtype), what, times[0] * 1e3, times[times.size() / 2] * 1e3,
        products * flops / times[0] * 1e-9, 12 * times[0], shares[shares.size() / 2]);
  };
  report("forward", forward, forward_share, 2);
  report("backward", backward, backward_share, 5);
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    auto number = [&] { return std::atoll(argv[++i]); };
    if (flag == "--isa") {
      const std::string name = argv[++i];
      for (const auto isa : {device::Isa::portable, device::Isa::avx2, device::Isa::avx512, device::Isa::avx512_bf16,
                             device::Isa::amx_bf16}) {
        if (name == device::name_of(isa)) o.isa = isa;
      }
    } else if (flag == "--dtype") {
      const std::string name = argv[++i];
      o.f32 = name != "bf16", o.bf16 = name != "f32";
    } else if (flag == "--threads") {
      o.threads = static_cast<int>(number());
    } else if (flag == "--rounds") {
      o.rounds = static_cast<int>(number());
    } else if (flag == "--shape") {
      o.b = number(), o.t = number(), o.h = number(), o.kv = number(), o.d = number();
    } else if (flag == "--only") {
      const std::string name = argv[++i];
      o.forwards = name == "forward", o.backwards = name == "backward";
    } else if (flag == "--dropout") {
      o.dropout = static_cast<float>(std::atof(argv[++i]));
    }
  }
  if (o.bf16) measure(o, DType::bf16);
  if (o.f32) measure(o, DType::f32);
}
