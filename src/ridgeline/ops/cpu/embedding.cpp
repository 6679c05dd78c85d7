#include "ridgeline/ops/embedding.h"

#include <algorithm>
#include <cstring>

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/cpu/require.h"
#include "ridgeline/ops/cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ridgeline/ops/cpu/embedding.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "ridgeline/ops/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ridgeline::ops::cpu::HWY_NAMESPACE {
namespace {

// Of `token` and `position`, rows of `in_dtype`, either or both may be null.
void embed_row(int64_t c, DType in_dtype, const void* token, const void* position, Ref out) {
  with_type(in_dtype, [&](auto in) {
    with_type(out.dtype, [&](auto to) {
      using In = decltype(in);
      auto* const row = out.as<decltype(to)>();
      const auto* const a = static_cast<const In*>(token);
      const auto* const b = static_cast<const In*>(position);
      if (a != nullptr && b != nullptr) return map(c, Sum(), row, a, b);
      if (a != nullptr || b != nullptr) return map(c, Same(), row, a != nullptr ? a : b);
      std::memset(static_cast<void*>(row), 0, static_cast<size_t>(c * size_of(out.dtype)));
    });
  });
}

void accumulate_row(int64_t c, ConstRef gradient, float* sums) {
  with_type(gradient.dtype, [&](auto type) { map(c, Sum(), sums, sums, gradient.as<decltype(type)>()); });
}

}  // namespace
}  // namespace ridgeline::ops::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ridgeline::ops {
namespace cpu {
HWY_EXPORT(embed_row);
HWY_EXPORT(accumulate_row);
}  // namespace cpu

namespace {

void check_rows(int64_t n, int64_t bound, const int32_t* rows) {
  for (int64_t i = 0; i < n; ++i) {
    RL_CHECK(rows[i], >=, 0);
    RL_CHECK(rows[i], <, bound);
  }
}

// How a team shares dtable: `columns` strips of columns (equal work, but short strips waste cache lines) times `rows`
// groups of rows (row r belongs to group r % rows). Either way one member alone adds to an element, in ascending n.
struct Shares {
  Shares(int team, int64_t c) {
    const int most = static_cast<int>(std::max<int64_t>(1, c / 128));
    columns = std::min(team, most);
    while (team % columns != 0) --columns;
    rows = team / columns;
  }
  int columns, rows;
};

}  // namespace

void embedding_forward(device::Stream& stream, int64_t n, int64_t c, const IndexRange& held, int64_t p,
                       const int32_t* tokens, const int32_t* positions, ConstRef table, ConstRef positions_table,
                       Ref out) {
  cpu::require_range(held);
  cpu::require_float(table);
  RL_REQUIRE(table || held.count == 0, "no table for {} rows", held.count);
  cpu::require_float(out);
  if (positions_table) cpu::require_one_dtype(table, positions_table);
  check_rows(n, held.whole, tokens);
  if (positions_table) check_rows(n, p, positions);
  cpu::agree_on_targets();
  const auto embed = HWY_DYNAMIC_DISPATCH(cpu::embed_row);
  stream.team().parallel_for(n, std::max<int64_t>(1, 16384 / c), [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const void* const token = held.holds(tokens[i]) ? table.at((tokens[i] - held.first) * c).data : nullptr;
      const void* const position = positions_table ? positions_table.at(positions[i] * c).data : nullptr;
      embed(c, table.dtype, token, position, out.at(i * c));
    }
  });
}

// None: members divide the table between them instead of sorting the tokens.
int64_t embedding_backward_workspace_bytes(int64_t, int64_t, int) {
  return 0;
}

void embedding_backward(device::Stream& stream, int64_t n, int64_t c, const IndexRange& held, const int32_t* rows,
                        ConstRef dout, float* dtable, Workspace workspace) {
  const int team = stream.team().size();
  workspace.require(embedding_backward_workspace_bytes(n, held.count, team), "embedding backward", team);
  cpu::require_range(held);
  cpu::require_float(dout);
  check_rows(n, held.whole, rows);
  cpu::agree_on_targets();
  const auto accumulate = HWY_DYNAMIC_DISPATCH(cpu::accumulate_row);
  const auto strip = [&](int64_t first, int64_t last, int group, int groups) {
    for (int64_t i = 0; i < n; ++i) {
      if (!held.holds(rows[i]) || (groups > 1 && rows[i] % groups != group)) continue;
      accumulate(last - first, dout.at(i * c + first), dtable + (rows[i] - held.first) * c + first);
    }
  };
  if (n * c < 16384) return strip(0, c, 0, 1);
  const Shares shares(team, c);
  stream.team().run([&](int member) {
    const int64_t lines = (c + 15) / 16;  // strips end at whole cache lines
    const int64_t part = member % shares.columns;
    const int64_t first = lines * part / shares.columns * 16;
    const int64_t last = std::min(c, lines * (part + 1) / shares.columns * 16);
    strip(first, last, member / shares.columns, shares.rows);
  });
}

}  // namespace ridgeline::ops
#endif
