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
constexpr int64_t kLine = 64;       // bytes: k that is contiguous is packed ahead by whole lines

template <typename T>
void widen_strided(const T* from, int64_t stride, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(from[i * stride]);
}

}  // namespace

int64_t MatmulPacking::Operand::group() const {
  return k_contiguous ? 1 : std::max<int64_t>(8, kPackedTogether / tile);
}

MatmulPacking::Operand MatmulPacking::rows_of_a() const {
  return {product_.a, product_.a.layout == Layout::row_major, kernel_.mr, kernel_.mr, kernel_.pack_a};
}

MatmulPacking::Operand MatmulPacking::columns_of_b() const {
  return {product_.b, product_.b.layout == Layout::column_major, kernel_.nr, kernel_.ahead_lanes, kernel_.pack_b};
}

// Packs lanes [first, last) into consecutive panels. Where lanes are contiguous, a few rows of k at a time for several
// panels: a panel alone would read a line here and there.
void MatmulPacking::pack(const Operand& operand, const Slab& slab, int64_t first, int64_t last, std::byte* panels,
                         int64_t k_from) const {
  if (operand.matrix.data.dtype == DType::f16) return pack_widened(operand, slab, first, last, panels);
  const int64_t tile = operand.tile, bytes = plan_.panel_bytes(tile, slab.k);
  const int64_t group = operand.group(), k_step = operand.k_contiguous ? slab.k : kPackedRows;
  for (int64_t lane0 = first; lane0 < last; lane0 += group * tile, panels += group * bytes) {
    for (int64_t k = k_from; k < slab.k; k += k_step) {
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

PackingAhead MatmulPacking::a_ahead(const Slab& slab, PanelRange panels, int64_t strips) const {
  const int64_t first = slab.first + panels.first * kernel_.mr;
  const int64_t last = std::min(slab.first + slab.rows, slab.first + panels.last * kernel_.mr);
  return {*this, rows_of_a(), slab, first, std::max(first, last), a_panel(slab, panels.first), strips};
}

PackingAhead MatmulPacking::b_ahead(const Slab& slab, int64_t first, int64_t last, std::byte* panels,
                                    int64_t strips) const {
  return {*this, columns_of_b(), slab, first, last, panels, strips};
}

PackingAhead::PackingAhead(const MatmulPacking& packing, MatmulPacking::Operand operand, const Slab& slab,
                           int64_t first, int64_t last, std::byte* panels, int64_t strips)
    : packing_(packing),
      operand_(operand),
      slab_(slab),
      first_(first),
      last_(last),
      panels_(panels),
      whole_((last - first) / operand.tile * pieces_of_panel()) {
  const int64_t step = divide_up(whole_ * slab.k, std::max<int64_t>(1, strips));
  const int64_t line = kLine / size_of(operand_.matrix.data.dtype);
  step_ = std::max(line, round_up(step, line));
  now_.source.ld = operand_.matrix.ld;
  now_.source.k_contiguous = operand_.k_contiguous;
  now_.source.dtype = operand_.matrix.data.dtype;
  now_.source.lanes = operand_.ahead_lanes;
  now_.panel_lanes = operand_.tile;
}

PackAhead* PackingAhead::piece() {
  if (now_.source.k > 0) return &now_;
  if (group_ >= whole_) return nullptr;
  const int64_t from = next(), bytes = packing_.plan_.panel_bytes(operand_.tile, slab_.k);
  const int64_t panel = piece_ / pieces_of_panel(), lane = piece_ % pieces_of_panel() * operand_.ahead_lanes;
  const MatmulKernel& kernel = packing_.kernel_;
  now_.source.data = operand_.matrix.data.at(from).data;
  now_.source.k = std::min(step_, slab_.k - k_);
  now_.panel = panels_ + panel * bytes + (k_ * operand_.tile + lane * kernel.k_unit) * kernel.packed_bytes;
  begun_group_ = group_, begun_k_ = k_;
  const int64_t end = std::min(whole_, group_ + group_pieces());
  if (++piece_ == end) {
    piece_ = group_, k_ += step_;
    if (k_ >= slab_.k) piece_ = group_ = end, k_ = 0;
  }
  now_.soon = next() - from;
  return &now_;
}

// Whole panels, from where their group has come: what of them was done already gets the same values again.
void PackingAhead::finish() {
  const bool begun = now_.source.k > 0;
  const int64_t group = begun ? begun_group_ : group_, of_panel = pieces_of_panel();
  // A group that is less than a panel says nothing about its neighbours.
  const int64_t k = group_pieces() % of_panel == 0 ? (begun ? begun_k_ : k_) : 0;
  int64_t panel = group / of_panel;
  std::byte* const panels = panels_;
  const int64_t bytes = packing_.plan_.panel_bytes(operand_.tile, slab_.k);
  const auto pack_to = [&](int64_t end, int64_t k_from) {
    const int64_t first = first_ + panel * operand_.tile, last = std::min(last_, first_ + end * operand_.tile);
    if (first < last) packing_.pack(operand_, slab_, first, last, panels + panel * bytes, k_from);
    panel = end;
  };
  if (k > 0) pack_to(std::min(whole_, group + group_pieces()) / of_panel, k);
  pack_to(divide_up(last_ - first_, operand_.tile), 0);
  now_.source.k = 0;
  group_ = whole_;
}

int64_t PackingAhead::group_pieces() const {
  return operand_.k_contiguous ? 1 : operand_.group() * pieces_of_panel();
}

int64_t PackingAhead::next() const {
  return operand_.offset(first_ + piece_ * operand_.ahead_lanes, slab_.k_first + k_);
}

}  // namespace ridgeline::ops::cpu
