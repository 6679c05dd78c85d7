#include "ridgeline/device/cpu/features.h"

#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "ridgeline/base/error.h"

namespace ridgeline::device {
namespace {

#if defined(__x86_64__)
bool amx_permitted() {
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;               // XFEATURE_XTILEDATA
  return ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

Isa detect() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::portable;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) {
    return Isa::avx2;
  }
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool bf16 = __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & (1U << 5)) != 0;
  if (!bf16) return Isa::avx512;
  const bool leaf7 = __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0;
  const bool amx = leaf7 && (d & (1U << 22)) != 0 && (d & (1U << 24)) != 0;
  return amx && amx_permitted() ? Isa::amx_bf16 : Isa::avx512_bf16;
}
#else
Isa detect() {
  return Isa::portable;
}
#endif

Isa choose() {
  const Isa found = detect();
  const char* wish = std::getenv("RIDGELINE_ISA");
  if (wish == nullptr) return found;
  for (const Isa level : {Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512_bf16, Isa::amx_bf16}) {
    if (std::string(wish) == name_of(level)) {
      if (level > found) {
        throw Error(fmt::format("RIDGELINE_ISA={}: this machine offers only {}", wish, name_of(found)),
                    "Unset RIDGELINE_ISA to use the best level.");
      }
      return level;
    }
  }
  throw Error(fmt::format("RIDGELINE_ISA={}: no such level", wish),
              "Choose portable, avx2, avx512, avx512_bf16 or amx_bf16.");
}

}  // namespace

Isa isa() {
  static const Isa level = choose();
  return level;
}

const char* name_of(Isa isa) {
  switch (isa) {
    case Isa::portable:
      return "portable";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512_bf16:
      return "avx512_bf16";
    case Isa::amx_bf16:
      return "amx_bf16";
  }
  return "?";
}

}  // namespace ridgeline::device
