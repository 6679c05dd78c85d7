// Column sums, sums of squares, search for non-finite values.
#include <algorithm>
#include <array>
#include <cstring>

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/cpu/block_sums.h"
#include "ridgeline/ops/cpu/require.h"
#include "ridgeline/ops/cpu/simd_targets.h"
#include "ridgeline/ops/elementwise.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ridgeline/ops/cpu/reductions.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "ridgeline/ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ridgeline::ops::cpu::HWY_NAMESPACE {
namespace {

// ---- column sums ------------------------------------------------------------------------------------------------

// sums[c] = sum of x[first … last-1][c]. Four rows at a time spare loads and stores of the sums; each column is still
// added in ascending order of rows.
template <typename T>
void column_sums_block_of(int64_t c, const T* x, int64_t ld, int64_t first, int64_t last, float* sums) {
  std::memset(sums, 0, static_cast<size_t>(c) * sizeof(float));
  int64_t n = first;
  for (; n + 4 <= last; n += 4) {
    const T *a = x + n * ld, *b = a + ld, *d = b + ld, *e = d + ld;
    int64_t i = 0;
    for (; i + kLanes <= c; i += kLanes) {
      Floats s = hn::Add(load(sums + i), load(a + i));
      s = hn::Add(s, load(b + i));
      s = hn::Add(s, load(d + i));
      store(hn::Add(s, load(e + i)), sums + i);
    }
    if (i < c) {
      for (const T* row : {a, b, d, e}) map(c - i, Sum(), sums + i, sums + i, row + i);
    }
  }
  for (; n < last; ++n) map(c, Sum(), sums, sums, x + n * ld);
}

void column_sums_block(int64_t c, ConstRef x, int64_t ld, int64_t first, int64_t last, float* sums) {
  with_type(x.dtype, [&](auto type) { column_sums_block_of(c, x.as<decltype(type)>(), ld, first, last, sums); });
}

void add_blocks_part(int64_t blocks, int64_t stride, int64_t count, const float* partials, float* sums) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    Floats s = load(partials + i);
    for (int64_t b = 1; b < blocks; ++b) s = hn::Add(s, load(partials + b * stride + i));
    store(hn::Add(load(sums + i), s), sums + i);
  }
  if (const int64_t rest = count - i; rest > 0) {
    Floats s = load_part(partials + i, rest);
    for (int64_t b = 1; b < blocks; ++b) s = hn::Add(s, load_part(partials + b * stride + i, rest));
    store_part(hn::Add(load_part(sums + i, rest), s), sums + i, rest);
  }
}

// ---- sums of squares --------------------------------------------------------------------------------------------

using F64 = hn::ScalableTag<double>;
using Doubles = hn::Vec<F64>;
constexpr int64_t kDoubles = static_cast<int64_t>(hn::MaxLanes(F64()));

HWY_INLINE Doubles load_doubles(const float* x) {
  return hn::PromoteTo(F64(), hn::LoadU(hn::Rebind<float, F64>(), x));
}
HWY_INLINE Doubles load_doubles(const bf16* x) {
  const hn::Rebind<uint32_t, F64> u32;
  const auto bits = hn::LoadU(hn::Rebind<uint16_t, F64>(), reinterpret_cast<const uint16_t*>(x));
  return hn::PromoteTo(F64(), hn::BitCast(hn::Rebind<float, F64>(), hn::ShiftLeft<16>(hn::PromoteTo(u32, bits))));
}
HWY_INLINE Doubles load_doubles(const f16* x) {
#if HWY_TARGET == HWY_SCALAR
  return hn::PromoteTo(F64(), load(x));
#else
  const auto bits = hn::LoadU(hn::Rebind<uint16_t, F64>(), reinterpret_cast<const uint16_t*>(x));
  const auto halves = hn::BitCast(hn::Rebind<hwy::float16_t, F64>(), bits);
  return hn::PromoteTo(F64(), hn::PromoteTo(hn::Rebind<float, F64>(), halves));
#endif
}

HWY_INLINE Doubles add_square(Doubles x, Doubles sum) {
  return hn::MulAdd(x, x, sum);
}

template <typename T>
double sum_of_squares(int64_t count, const T* x) {
  const F64 d;
  Doubles s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  int64_t i = 0;
  for (; i + 4 * kDoubles <= count; i += 4 * kDoubles) {
    s0 = add_square(load_doubles(x + i), s0);
    s1 = add_square(load_doubles(x + i + kDoubles), s1);
    s2 = add_square(load_doubles(x + i + 2 * kDoubles), s2);
    s3 = add_square(load_doubles(x + i + 3 * kDoubles), s3);
  }
  double total = hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))));
  for (; i < count; ++i)
    total += static_cast<double>(static_cast<float>(x[i])) * static_cast<double>(static_cast<float>(x[i]));
  return total;
}

double sum_of_squares_block(int64_t count, ConstRef x) {
  return with_type(x.dtype, [&](auto type) { return sum_of_squares(count, x.as<decltype(type)>()); });
}

// ---- non-finite values ------------------------------------------------------------------------------------------

template <typename T>
int64_t first_non_finite_of(int64_t count, const T* x) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const auto bad = hn::Not(hn::IsFinite(load(x + i)));
    if (!hn::AllFalse(F32(), bad)) return i + static_cast<int64_t>(hn::FindFirstTrue(F32(), bad));
  }
  if (i < count) {
    const auto bad = hn::Not(hn::IsFinite(load_part(x + i, count - i)));
    if (!hn::AllFalse(F32(), bad)) return i + static_cast<int64_t>(hn::FindFirstTrue(F32(), bad));
  }
  return -1;
}

int64_t first_non_finite_part(int64_t count, ConstRef x) {
  return with_type(x.dtype, [&](auto type) { return first_non_finite_of(count, x.as<decltype(type)>()); });
}

}  // namespace
}  // namespace ridgeline::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ridgeline::ops {
namespace cpu {
HWY_EXPORT(column_sums_block);
HWY_EXPORT(add_blocks_part);
HWY_EXPORT(sum_of_squares_block);
HWY_EXPORT(first_non_finite_part);

void add_blocks(device::Stream& stream, int64_t blocks, int64_t stride, int64_t count, const float* partials,
                float* sums) {
  if (blocks == 0) return;
  agree_on_targets();
  const auto part = HWY_DYNAMIC_DISPATCH(add_blocks_part);
  // A part is worth waking a member for when it adds some ten thousand numbers.
  const int64_t grain = std::max<int64_t>(64, 16384 / blocks / 16 * 16);
  stream.team().parallel_for(count, grain, [&](int64_t first, int64_t last) {
    part(blocks, stride, last - first, partials + first, sums + first);
  });
}

}  // namespace cpu

int64_t column_sums_workspace_bytes(int64_t n, int64_t c, int) {
  return cpu::RowBlocks(n).count * c * static_cast<int64_t>(sizeof(float));
}

void column_sums(device::Stream& stream, int64_t n, int64_t c, ConstRef x, int64_t ld, float* sums,
                 Workspace workspace) {
  cpu::require_float(x);
  RL_CHECK(ld, >=, c);
  cpu::agree_on_targets();
  const auto block = HWY_DYNAMIC_DISPATCH(cpu::column_sums_block);
  const cpu::RowBlocks blocks(n);
  const int team = stream.team().size();
  auto* const partials =
      reinterpret_cast<float*>(workspace.require(column_sums_workspace_bytes(n, c, team), "column_sums", team));
  stream.team().parallel_for(blocks.count, 1, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) block(c, x, ld, blocks.begin(b), blocks.end(b), partials + b * c);
  });
  cpu::add_blocks(stream, blocks.count, c, c, partials, sums);
}

void sums_of_squares(device::Stream& stream, int64_t count, int64_t block, ConstRef x, double* partials) {
  cpu::require_float(x);
  RL_CHECK(block, >, 0);
  cpu::agree_on_targets();
  const auto sum = HWY_DYNAMIC_DISPATCH(cpu::sum_of_squares_block);
  const int64_t blocks = (count + block - 1) / block;
  stream.team().parallel_for(blocks, std::max<int64_t>(1, 16384 / block), [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      partials[b] = sum(std::min(block, count - b * block), x.at(b * block));
    }
  });
}

int64_t first_non_finite(device::Stream& stream, int64_t count, ConstRef x) {
  cpu::require_float(x);
  cpu::agree_on_targets();
  const auto search = HWY_DYNAMIC_DISPATCH(cpu::first_non_finite_part);
  constexpr int64_t kParts = 64;
  std::array<int64_t, kParts> found;
  found.fill(-1);
  const int64_t part = std::max<int64_t>(16384, (count + kParts - 1) / kParts);
  stream.team().parallel_for((count + part - 1) / part, 1, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      const int64_t at = search(std::min(part, count - b * part), x.at(b * part));
      if (at >= 0) found[b] = b * part + at;
    }
  });
  const auto* first = std::find_if(found.begin(), found.end(), [](int64_t at) { return at >= 0; });
  return first == found.end() ? -1 : *first;
}

}  // namespace ridgeline::ops
#endif
