#include <algorithm>
#include <cmath>

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/cpu/require.h"
#include "ridgeline/ops/cpu/simd_targets.h"
#include "ridgeline/ops/elementwise.h"

#ifndef RIDGELINE_OPS_CPU_DROPOUT_ROW  // this file is included once per target
#define RIDGELINE_OPS_CPU_DROPOUT_ROW
namespace ridgeline::ops::cpu {

// One row: what the words of its elements are compared with and addressed by.
struct DropoutRow {
  uint64_t key;
  uint32_t position, site, sample;
  uint32_t threshold;  // kept iff word >= threshold
  float scale;         // of kept values
};

}  // namespace ridgeline::ops::cpu
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ridgeline/ops/cpu/dropout.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "ridgeline/ops/cpu/philox-inl.h"
#include "ridgeline/ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ridgeline::ops::cpu::HWY_NAMESPACE {
namespace {

#if HWY_TARGET == HWY_SCALAR

template <typename T>
void dropout_row_of(const DropoutRow& row, int64_t c, const T* x, const T* residual, T* out) {
  Philox4 words{};
  for (int64_t i = 0; i < c; ++i) {
    if (i % 4 == 0) words = philox(row.key, {static_cast<uint32_t>(i / 4), row.position, row.site, row.sample});
    const Floats y = words[i % 4] >= row.threshold ? hn::Mul(load(x + i), set(row.scale)) : zeros();
    store(residual != nullptr ? hn::Add(load(residual + i), as_stored(y, x)) : y, out + i);
  }
}

#else

constexpr int64_t kBatch = 2 * kLanes;  // elements of one batch of counters: four words each

// keep(words) ? x * scale : 0
HWY_INLINE Floats drop(Floats x, hn::Vec<U32> words, const DropoutRow& row) {
  const auto keep = hn::Not(hn::Lt(words, hn::Set(U32(), row.threshold)));
  return hn::IfThenElseZero(hn::RebindMask(F32(), keep), hn::Mul(x, set(row.scale)));
}

template <typename T>
HWY_INLINE void drop_vector(const T* x, const T* residual, T* out, hn::Vec<U32> words, const DropoutRow& row,
                            int64_t count) {
  if (count >= kLanes) {
    const Floats y = drop(load(x), words, row);
    return store(residual != nullptr ? hn::Add(load(residual), as_stored(y, x)) : y, out);
  }
  const Floats y = drop(load_part(x, count), words, row);
  store_part(residual != nullptr ? hn::Add(load_part(residual, count), as_stored(y, x)) : y, out, count);
}

template <typename T>
void dropout_row_of(const DropoutRow& row, int64_t c, const T* x, const T* residual, T* out) {
  const PhiloxPlace place{row.key, row.position, row.site, row.sample};
  for (int64_t i = 0; i < c; i += kBatch) {
    hn::Vec<U32> lower, upper;
    draw(place, static_cast<uint32_t>(i / 4), lower, upper);
    drop_vector(x + i, residual != nullptr ? residual + i : nullptr, out + i, lower, row, c - i);
    const int64_t j = i + kLanes;
    if (j < c) drop_vector(x + j, residual != nullptr ? residual + j : nullptr, out + j, upper, row, c - j);
  }
}

#endif

void dropout_row(const DropoutRow& row, int64_t c, ConstRef x, ConstRef residual, Ref out) {
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    dropout_row_of(row, c, x.as<T>(), residual.as<T>(), out.as<T>());
  });
}

}  // namespace
}  // namespace ridgeline::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ridgeline::ops {
namespace cpu {
HWY_EXPORT(dropout_row);
}  // namespace cpu

namespace {

void apply(device::Stream& stream, int64_t n, int64_t c, const Dropout& dropout, ConstRef x, ConstRef residual,
           Ref out) {
  cpu::require_float(x);
  cpu::require_one_dtype(x, out);
  if (residual) cpu::require_one_dtype(x, residual);
  RL_REQUIRE(dropout.probability >= 0.0F && dropout.probability < 1.0F, "probability {}", dropout.probability);
  cpu::agree_on_targets();
  const auto one = HWY_DYNAMIC_DISPATCH(cpu::dropout_row);
  cpu::DropoutRow row{};
  row.key = dropout.random_key;
  row.site = dropout.site;
  // An integer is at least p 2^32 exactly when it is at least the next integer up.
  row.threshold = static_cast<uint32_t>(std::ceil(static_cast<double>(dropout.probability) * 0x1p32));
  row.scale = 1.0F / (1.0F - dropout.probability);
  stream.team().parallel_for(n, std::max<int64_t>(1, 8192 / c), [&](int64_t first, int64_t last) {
    cpu::DropoutRow mine = row;
    for (int64_t i = first; i < last; ++i) {
      mine.sample = dropout.tokens.sample[i];
      mine.position = static_cast<uint32_t>(dropout.tokens.position[i]);
      one(mine, c, x.at(i * c), residual ? residual.at(i * c) : ConstRef(), out.at(i * c));
    }
  });
}

}  // namespace

void dropout_forward(device::Stream& stream, int64_t n, int64_t c, const Dropout& dropout, ConstRef x,
                     ConstRef residual, Ref out) {
  apply(stream, n, c, dropout, x, residual, out);
}

void dropout_backward(device::Stream& stream, int64_t n, int64_t c, const Dropout& dropout, ConstRef dy, Ref dx) {
  apply(stream, n, c, dropout, dy, {}, dx);
}

}  // namespace ridgeline::ops
#endif
