// Column sums, sum of squares, search for non-finite values.
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>

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

// ---- sum of squares ---------------------------------------------------------------------------------------------

#if HWY_TARGET == HWY_SCALAR
// One lane: no products of every second one.
template <typename T>
void add_squares_of(int64_t count, const T* x, ExactSum& sum) {
  for (int64_t i = 0; i < count; ++i) {
    const auto value = static_cast<double>(static_cast<float>(x[i]));
    sum.add(value * value);
  }
}
#else

using U64 = hn::Repartition<uint64_t, U32>;
using F64 = hn::Repartition<double, F32>;
using HalfFloats = hn::Half<F32>;
using Words = hn::Vec<U32>;
constexpr int64_t kSquaresBlock = 2048;  // stays in the first cache, and holds few windows

template <typename T, typename F>
HWY_INLINE void for_each_vector(int64_t count, const T* x, F&& f) {
  for (int64_t i = 0; i + kLanes <= count; i += kLanes) f(hn::BitCast(U32(), load(x + i)));
}

// Squares of numbers of nearly one size, each as two doubles, both sums exact. e being the largest biased exponent, a
// square is below 2^(2 e - 252). Added to 1.5 * 2^52 units of u = 2^(2 e - 292), it is rounded to whole units; a block
// of them stays below 2^51. What rounding leaves is at most u / 2 each, and a multiple of 2^(2 e' - 300), e' being its
// own exponent: a block of them has at most 53 bits as long as e - e' < kWidth. Zeros add nothing. With or without a
// fused multiply-add: a square of 48 bits is exact.
class SquaresOfOneSize {
 public:
  static constexpr uint32_t kWidth = 18;

  explicit SquaresOfOneSize(uint32_t most)
      : bias_(std::ldexp(1.5, 2 * static_cast<int>(most) - 240)), units0_(hn::Set(F64(), bias_)), units1_(units0_) {}

  HWY_INLINE void add(Words bits) {
    const auto x = hn::BitCast(F32(), bits);
    add(hn::PromoteTo(F64(), hn::LowerHalf(HalfFloats(), x)), units0_, rest0_);
    add(hn::PromoteTo(F64(), hn::UpperHalf(HalfFloats(), x)), units1_, rest1_);
  }

  void add_to(ExactSum& sum) const {
    const F64 d;
    const auto bias = hn::Set(d, bias_);
    sum.add(hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Sub(units0_, bias), hn::Sub(units1_, bias)))));
    sum.add(hn::GetLane(hn::SumOfLanes(d, hn::Add(rest0_, rest1_))));
  }

 private:
  static HWY_INLINE void add(hn::Vec<F64> x, hn::Vec<F64>& units, hn::Vec<F64>& rest) {
    const auto with = hn::MulAdd(x, x, units);
    rest = hn::Add(rest, hn::MulSub(x, x, hn::Sub(with, units)));
    units = with;
  }

  double bias_;
  hn::Vec<F64> units0_, units1_;
  hn::Vec<F64> rest0_ = hn::Zero(F64()), rest1_ = rest0_;
};

// A float is m 2^(e - 150), m an integer below 2^24, e its biased exponent (1 of subnormal numbers); its square is
// m^2 2^(2 e - 300). The squares of a window of exponents, low <= e < low + kWidth, are added up as integers
// m^2 2^(2 (e - low)) of two digits of kDigit bits: 2^15 of them fit.
class SquaresInWindow {
 public:
  static constexpr uint32_t kWidth = 24;

  // The window that ends with `most`.
  explicit SquaresInWindow(uint32_t most) : low_(most >= kWidth ? most - kWidth + 1 : 1), most_(most) {}
  // Those of the numbers that are inside.
  HWY_INLINE void add_inside(Words bits) {
    const U32 u;
    const auto fraction = hn::And(bits, hn::Set(u, 0x7FFFFF));
    const auto exponent = hn::And(hn::ShiftRight<23>(bits), hn::Set(u, 0xFF));
    const auto normal = hn::Min(exponent, hn::Set(u, 1));
    const auto e = hn::Max(exponent, hn::Min(fraction, hn::Set(u, 1)));  // 0 of 0
    const auto inside = hn::Min(hn::Max(e, hn::Set(u, low_)), hn::Set(u, most_));
    below_ = hn::Max(below_, hn::IfThenElseZero(hn::Eq(hn::Max(e, hn::Set(u, low_ - 1)), hn::Set(u, low_ - 1)), e));
    add(hn::IfThenElseZero(hn::Eq(e, inside), hn::Or(fraction, hn::ShiftLeft<23>(normal))), inside);
  }
  // The largest exponent below the window that was met; 0 when none was.
  uint32_t below() const { return hn::GetLane(hn::MaxOfLanes(U32(), below_)); }

  void add_to(ExactSum& sum) const {
    const int exponent = 2 * static_cast<int>(low_) - 300;
    sum.add(hn::GetLane(hn::SumOfLanes(U64(), digit0_)), exponent);
    sum.add(hn::GetLane(hn::SumOfLanes(U64(), digit1_)), exponent + kDigit);
  }

 private:
  static constexpr int kDigit = 48;

  HWY_INLINE void add(Words m, Words exponent) {
    const U64 u;
    const auto above = hn::Sub(exponent, hn::Set(U32(), low_));
    const auto shift = hn::BitCast(u, hn::Add(above, above));
    add_even(m, hn::And(shift, hn::Set(u, 0xFFFFFFFF)));
    add_even(hn::BitCast(U32(), hn::ShiftRight<32>(hn::BitCast(u, m))), hn::ShiftRight<32>(shift));
  }
  HWY_INLINE void add_even(Words m, hn::Vec<U64> shift) {
    const U64 u;
    const auto square = hn::MulEven(m, m);
    digit0_ = hn::Add(digit0_, hn::And(hn::Shl(square, shift), hn::Set(u, (uint64_t{1} << kDigit) - 1)));
    digit1_ = hn::Add(digit1_, hn::Shr(square, hn::Sub(hn::Set(u, kDigit), shift)));
  }

  uint32_t low_, most_;
  hn::Vec<U64> digit0_ = hn::Zero(U64()), digit1_ = digit0_;
  Words below_ = hn::Zero(U32());
};

// Of whole vectors, at most a block. Numbers of many sizes: one window after the other, down from the largest exponent.
template <typename T>
void add_squares_of_vectors(int64_t count, const T* x, ExactSum& sum) {
  const U32 u;
  auto largest = hn::Zero(u), less = hn::Set(u, 0xFFFFFFFF);  // one less than the smallest that is not zero
  for_each_vector(count, x, [&](Words bits) {
    const auto magnitude = hn::And(bits, hn::Set(u, 0x7FFFFFFF));
    largest = hn::Max(largest, magnitude);
    less = hn::Min(less, hn::Sub(magnitude, hn::Set(u, 1)));
  });
  const uint32_t magnitude = hn::GetLane(hn::MaxOfLanes(u, largest));
  const uint32_t least = (hn::GetLane(hn::MinOfLanes(u, less)) + 1) >> 23;
  uint32_t most = magnitude == 0 ? 0 : std::max(magnitude >> 23, uint32_t{1});
  if (most == 0xFF) return sum.add(std::numeric_limits<double>::quiet_NaN());
  if (most < std::max(least, uint32_t{1}) + SquaresOfOneSize::kWidth) {  // the usual case
    SquaresOfOneSize squares(most);
    const T* next = x + count;  // on its way while this block is added; harmless beyond the end
    for_each_vector(count, x, [&](Words bits) {
      hwy::Prefetch(next);
      next += kLanes;
      squares.add(bits);
    });
    return squares.add_to(sum);
  }
  while (most > 0) {
    SquaresInWindow window(most);
    for_each_vector(count, x, [&](Words bits) { window.add_inside(bits); });
    window.add_to(sum);
    most = window.below();
  }
}

template <typename T>
void add_squares_of(int64_t count, const T* x, ExactSum& sum) {
  const int64_t whole = count / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kSquaresBlock)
    add_squares_of_vectors(std::min(kSquaresBlock, whole - i), x + i, sum);
  for (int64_t i = whole; i < count; ++i) {
    const auto value = static_cast<double>(static_cast<float>(x[i]));
    sum.add(value * value);
  }
}
#endif

void add_squares_part(int64_t count, ConstRef x, ExactSum& sum) {
  with_type(x.dtype, [&](auto type) { add_squares_of(count, x.as<decltype(type)>(), sum); });
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
HWY_EXPORT(add_squares_part);
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

void add_squares(device::Stream& stream, int64_t count, ConstRef x, ExactSum& sum) {
  cpu::require_float(x);
  cpu::agree_on_targets();
  const auto add = HWY_DYNAMIC_DISPATCH(cpu::add_squares_part);
  stream.team().parallel_for(count, 1 << 16, [&](int64_t first, int64_t last) {
    ExactSum mine;
    add(last - first, x.at(first), mine);
    mine.carry();
    // Integers: the sum has the same bits in whatever order the members arrive.
    for (int k = 0; k < ExactSum::kWords; ++k) {
      if (mine.words[k] != 0) std::atomic_ref(sum.words[k]).fetch_add(mine.words[k], std::memory_order_relaxed);
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
