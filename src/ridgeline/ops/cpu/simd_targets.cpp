#include "ridgeline/ops/cpu/simd_targets.h"

#include "hwy/highway.h"
#include "ridgeline/device/cpu/features.h"

namespace ridgeline::ops::cpu {
namespace {

bool disable_above(device::Isa isa) {
#if HWY_ARCH_X86
  int64_t disabled = 0;
  if (isa < device::Isa::avx512) disabled |= HWY_AVX3 | HWY_AVX3_DL;
  if (isa < device::Isa::avx2) disabled |= HWY_AVX2 | HWY_SSE4 | HWY_SSSE3;
  if (disabled != 0) hwy::DisableTargets(disabled);
#else
  static_cast<void>(isa);
#endif
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  return true;
}

}  // namespace

void agree_on_targets() {
  static const bool agreed = disable_above(device::isa());
  static_cast<void>(agreed);
}

}  // namespace ridgeline::ops::cpu
