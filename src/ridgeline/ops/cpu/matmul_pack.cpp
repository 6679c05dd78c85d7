#include "ridgeline/ops/cpu/matmul_pack.h"

#include <algorithm>

#include "ridgeline/base/error.h"
#include "ridgeline/ops/cpu/elementwise_rows.h"
#include "ridgeline/ops/elementwise.h"

namespace ridgeline::ops::cpu {
namespace {

constexpr int64_t kPackedTogether = 96, kPackedRows = 128;  // lanes; rows: a multiple of every kernel's k_unit

// How much of an operand in f16 is widened at once: lanes next to each other (panels together) by k, or a panel's lanes
// by contiguous k.
constexpr int64_t kWidenedTogether = 4, kWidenedRows = 32, kWidenedRun = 128;
constexpr int64_t kMostLanes = 64;  // of a panel

template <typename T>
void widen_strided(const T* from, int64_t stride, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(from[i * stride]);
}

}  // namespace

int64_t MatmulPacking::Operand::group() const {
  return k_contiguous ? 1 : std::max<int64_t>(8, kPackedTogether / tile);
}

MatmulPacking::Operand MatmulPacking::rows_of_a() const {
  return {product_.a, product_.a.layout == Layout::row_major, kernel_.mr, kernel_.pack_a};
}

MatmulPacking::Operand MatmulPacking::columns_of_b() const {
  return {product_.b, product_.b.layout == Layout::column_major, kernel_.nr, kernel_.pack_b};
}

// Packs lanes [first, last) into consecutive panels. Where lanes are contiguous, a few rows of k at a time for several
// panels: a panel alone would read a line here and there.
void MatmulPacking::pack(const Operand& operand, const Slab& slab, int64_t first, int64_t last,
                         std::byte* panels) const {
  if (operand.matrix.data.dtype == DType::f16) return pack_widened(operand, slab, first, last, panels);
  const int64_t tile = operand.tile, bytes = plan_.panel_bytes(tile, slab.k);
  const int64_t group = operand.group(), k_step = operand.k_contiguous ? slab.k : kPackedRows;
  for (int64_t lane0 = first; lane0 < last; lane0 += group * tile, panels += group * bytes) {
    for (int64_t k = 0; k < slab.k; k += k_step) {
      std::byte* panel = panels + k * tile * kernel_.packed_bytes;
      for (int64_t lane = lane0; lane < std::min(last, lane0 + group * tile); lane += tile, panel += bytes) {
        operand.pack({.data = operand.matrix.data.at(operand.offset(lane, slab.k_first + k)).data,
                      .ld = operand.matrix.ld,
                      .k_contiguous = operand.k_contiguous,
                      .dtype = operand.matrix.data.dtype,
                      .lanes = std::min(tile, last - lane),
                      .k = std::min(k_step, slab.k - k)},
                     panel);
      }
    }
  }
}

// The same for f16: a few lanes by a few k become a matrix of floats, which is packed.
void MatmulPacking::pack_widened(const Operand& operand, const Slab& slab, int64_t first, int64_t last,
                                 std::byte* panels) const {
  const int64_t tile = operand.tile, bytes = plan_.panel_bytes(tile, slab.k);
  RL_CHECK(tile, <=, kMostLanes);
  const bool k_contiguous = operand.k_contiguous;
  const int64_t group = k_contiguous ? 1 : kWidenedTogether, k_step = k_contiguous ? kWidenedRun : kWidenedRows;
  const int64_t ld = k_contiguous ? kWidenedRun : kWidenedTogether * tile;
  alignas(64) float wide[kMostLanes * kWidenedRun];
  static_assert(kWidenedTogether * kWidenedRows <= kWidenedRun);
  for (int64_t lane0 = first; lane0 < last; lane0 += group * tile, panels += group * bytes) {
    const int64_t end = std::min(last, lane0 + group * tile);
    for (int64_t k = 0; k < slab.k; k += k_step) {
      const int64_t count = std::min(k_step, slab.k - k), row = slab.k_first + k;
      const int64_t lines = k_contiguous ? end - lane0 : count, length = k_contiguous ? count : end - lane0;
      for (int64_t line = 0; line < lines; ++line) {
        const int64_t at = k_contiguous ? operand.offset(lane0 + line, row) : operand.offset(lane0, row + line);
        cast(calling_thread(), length, operand.matrix.data.at(at), wide + line * ld);
      }
      std::byte* panel = panels + k * tile * kernel_.packed_bytes;
      for (int64_t lane = lane0; lane < end; lane += tile, panel += bytes) {
        operand.pack({.data = wide + (lane - lane0) * (k_contiguous ? ld : 1),
                      .ld = ld,
                      .k_contiguous = k_contiguous,
                      .dtype = DType::f32,
                      .lanes = std::min(tile, end - lane),
                      .k = count},
                     panel);
      }
    }
  }
}

void MatmulPacking::pack_a(const Slab& slab, PanelRange panels) const {
  if (panels.first >= panels.last) return;
  const int64_t row = slab.first + panels.first * kernel_.mr;
  pack(rows_of_a(), slab, row, std::min(slab.first + slab.rows, slab.first + panels.last * kernel_.mr),
       a_panel(slab, panels.first));
  add_row_sums(slab, panels);
}

void MatmulPacking::pack_b(const Slab& slab, int64_t first, int64_t last, std::byte* panels) const {
  pack(columns_of_b(), slab, first, last, panels);
}

void MatmulPacking::add_row_sums(const Slab& slab, PanelRange panels) const {
  if (product_.row_sums_of_a == nullptr) return;
  constexpr int64_t kMostRows = 64;
  RL_CHECK(kernel_.mr, <=, kMostRows);
  for (int64_t panel = panels.first; panel < panels.last; ++panel) {
    float sums[kMostRows] = {};
    kernel_.row_sums(a_panel(slab, panel), plan_.padded(slab.k), sums);
    const int64_t row = panel * kernel_.mr, rows = std::min(kernel_.mr, slab.rows - row);
    for (int64_t i = 0; i < rows; ++i) product_.row_sums_of_a[slab.first + row + i] += sums[i];
  }
}

void MatmulPacking::widen_a(float* to) const {
  const Matrix& a = product_.a;
  for (int64_t row = 0; row < product_.m; ++row, to += product_.k) {
    if (a.layout == Layout::row_major) {
      cast(calling_thread(), product_.k, a.data.at(row * a.ld), to);
    } else if (a.data.dtype == DType::f32) {
      widen_strided(a.data.as<float>() + row, a.ld, product_.k, to);
    } else if (a.data.dtype == DType::bf16) {
      widen_strided(a.data.as<bf16>() + row, a.ld, product_.k, to);
    } else {
      RL_CHECK(name_of(a.data.dtype), ==, name_of(DType::f16));
      widen_strided(a.data.as<f16>() + row, a.ld, product_.k, to);
    }
  }
}

PackingAhead::PackingAhead(const MatmulPacking& packing, const Slab& slab, PanelRange panels, int64_t step)
    : packing_(packing),
      slab_(slab),
      panels_(panels),
      step_(step),
      rows_(packing.rows_of_a()),
      whole_(std::min(panels.last, slab.rows / rows_.tile)),
      panel_(panels.first),
      group_(panels.first) {
  piece_.source.ld = rows_.matrix.ld;
  piece_.source.k_contiguous = rows_.k_contiguous;
  piece_.source.dtype = DType::f32;
  piece_.source.lanes = rows_.tile;
}

PackAhead* PackingAhead::piece() {
  if (piece_.source.k > 0) return &piece_;
  if (group_ >= whole_) return nullptr;
  const int64_t from = next();
  piece_.source.data = rows_.matrix.data.as<float>() + from;
  piece_.source.k = std::min(step_, slab_.k - k_);
  piece_.panel = reinterpret_cast<float*>(packing_.a_panel(slab_, panel_)) + k_ * rows_.tile;
  const int64_t end = std::min(whole_, group_ + rows_.group());
  if (++panel_ == end) {
    panel_ = group_, k_ += step_;
    if (k_ >= slab_.k) panel_ = group_ = end, k_ = 0;
  }
  piece_.soon = next() - from;
  return &piece_;
}

void PackingAhead::finish() {
  while (const PackAhead* rest = piece()) {
    rows_.pack(rest->source, rest->panel);
    piece_.source.k = 0;
  }
  packing_.add_row_sums(slab_, {panels_.first, whole_});
  if (whole_ < panels_.last) packing_.pack_a(slab_, {whole_, panels_.last});
}

int64_t PackingAhead::next() const {
  return rows_.offset(slab_.first + panel_ * rows_.tile, slab_.k_first + k_);
}

}  // namespace ridgeline::ops::cpu
