// The operators as model code calls them. Without a stream nothing runs: the same code then only finds out how many
// bytes of workspace it needs and how many it shares with other slices, so that a plan and a run cannot disagree.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "ridgeline/base/error.h"
#include "ridgeline/device/stream.h"
#include "ridgeline/model/batch.h"
#include "ridgeline/model/slice.h"
#include "ridgeline/ops/attention.h"
#include "ridgeline/ops/elementwise.h"
#include "ridgeline/ops/embedding.h"
#include "ridgeline/ops/matmul.h"
#include "ridgeline/ops/norm.h"
#include "ridgeline/ops/rotary.h"

namespace ridgeline::model {

// An address that stands for any buffer while workspace is counted; never read or written.
inline void* placeholder() {
  alignas(64) static std::byte somewhere[64];
  return somewhere;
}

class Operators {
 public:
  // `others`: the ranks that compute the other slices; null: this one computes all of it.
  Operators(device::Stream& stream, ops::Workspace workspace, SliceGroup* others = nullptr)
      : stream_(&stream), workspace_(workspace), others_(others) {}
  // Counts.
  explicit Operators(int team_size) : team_size_(team_size) {}

  int64_t workspace_bytes() const { return bytes_; }
  const SliceTraffic& traffic() const { return traffic_; }
  bool counting() const { return stream_ == nullptr; }

  void matmul(const ops::Matmul& product) {
    if (counting()) return need(ops::matmul_workspace_bytes(product, team_size_));
    ops::matmul(*stream_, product, workspace_);
  }

  void norm_forward(const TransformerConfig& config, int64_t n, ConstRef x, ConstRef weight, ConstRef bias, Ref y,
                    float* mean, float* rstd) {
    if (counting()) return;
    switch (config.norm) {
      case Norm::layer:
        return ops::layernorm_forward(*stream_, n, config.width, config.norm_epsilon, x, weight, bias, y, mean, rstd);
      case Norm::rms:
        return ops::rmsnorm_forward(*stream_, n, config.width, config.norm_epsilon, x, weight, y, rstd);
    }
    RL_NO_CASE(config.norm);
  }
  void norm_backward(const TransformerConfig& config, int64_t n, ConstRef x, ConstRef weight, const float* mean,
                     const float* rstd, ConstRef dy, ConstRef dresidual, Ref dx, float* dweight, float* dbias) {
    const int64_t c = config.width;
    switch (config.norm) {
      case Norm::layer:
        if (counting()) return need(ops::layernorm_backward_workspace_bytes(n, c, team_size_));
        return ops::layernorm_backward(*stream_, n, c, x, weight, mean, rstd, dy, dresidual, dx, dweight, dbias,
                                       workspace_);
      case Norm::rms:
        if (counting()) return need(ops::rmsnorm_backward_workspace_bytes(n, c, team_size_));
        return ops::rmsnorm_backward(*stream_, n, c, x, weight, rstd, dy, dresidual, dx, dweight, workspace_);
    }
    RL_NO_CASE(config.norm);
  }

  void attention_forward(const ops::Attention& shape, ConstRef q, ConstRef k, ConstRef v, Ref out, float* lse) {
    if (counting()) return need(ops::attention_workspace_bytes(shape, q.dtype, team_size_));
    ops::attention_forward(*stream_, shape, q, k, v, out, lse, workspace_);
  }
  void attention_backward(const ops::Attention& shape, ConstRef q, ConstRef k, ConstRef v, ConstRef out, ConstRef dout,
                          const float* lse, Ref dq, Ref dk, Ref dv) {
    if (counting()) return need(ops::attention_workspace_bytes(shape, q.dtype, team_size_));
    ops::attention_backward(*stream_, shape, q, k, v, out, dout, lse, dq, dk, dv, workspace_);
  }

  // sums[c] += sum_n x[n][c]; nothing to do for a bias that the model does not have.
  void bias_gradient(int64_t n, int64_t c, ConstRef x, float* sums) {
    if (sums == nullptr) return;
    if (counting()) return need(ops::column_sums_workspace_bytes(n, c, team_size_));
    ops::column_sums(*stream_, n, c, x, c, sums, workspace_);
  }

  // What every slice has computed a part of: outputs of products whose inputs are cut, gradients of inputs of products
  // whose outputs are.
  void sum_over_slices(Ref values, int64_t count) {
    start_sum_over_slices(values, count);
    finish_sums();
  }
  // The same, of which nothing may be read or written until finish_sums().
  void start_sum_over_slices(Ref values, int64_t count) {
    if (counting()) return share(traffic_.whole, values, count);
    RL_REQUIRE(others_ != nullptr, "a slice of a block without the ranks that compute the others");
    others_->start_sum(*stream_, values, count);
  }
  void finish_sums() {
    if (!counting() && others_ != nullptr) others_->finish(*stream_);
  }
  // Whether it pays to compute something while a sum is on its way.
  bool sums_travel() const { return others_ != nullptr && others_->travels(); }

  // all [slices][count], of which each slice needs the sum of its own part only.
  void sum_parts_over_slices(Ref all, int64_t count) {
    if (counting()) return share(traffic_.part, all, count);
    RL_REQUIRE(others_ != nullptr, "a slice of a block without the ranks that compute the others");
    others_->sum_parts(*stream_, all, count);
  }
  // all [slices][count], of which each slice has written its own part.
  void gather_from_slices(Ref all, int64_t count) {
    if (counting()) return share(traffic_.part, all, count);
    RL_REQUIRE(others_ != nullptr, "a slice without the ranks that compute the others");
    others_->gather(*stream_, all, count);
  }

  // dtable [held.count][C] += the rows of dout [N][C] whose indices are held.
  void embedding_backward(int64_t n, int64_t c, const ops::IndexRange& held, const int32_t* indices, ConstRef dout,
                          float* dtable) {
    if (counting()) return need(ops::embedding_backward_workspace_bytes(n, held.count, team_size_));
    ops::embedding_backward(*stream_, n, c, held, indices, dout, dtable, workspace_);
  }

  // f(stream): an operator without workspace.
  template <typename F>
  void apply(F&& f) {
    if (!counting()) f(*stream_);
  }

 private:
  void need(int64_t bytes) { bytes_ = std::max(bytes_, bytes); }
  static void share(int64_t& bytes, Ref values, int64_t count) { bytes += count * size_of(values.dtype); }

  device::Stream* stream_ = nullptr;
  ops::Workspace workspace_;
  SliceGroup* others_ = nullptr;
  int team_size_ = 1;
  int64_t bytes_ = 0;
  SliceTraffic traffic_;
};

// --------------------------------------------------------------------------------------------------------- products
// Strides of x and y are their widths where none is given.

// W [in][out], or its transpose W^T [out][in], as the right operand of a product.
inline ops::Matrix right_operand(const Weight& w, int64_t in, int64_t out, bool transposed) {
  const bool rows_of_outputs = w.layout == MatrixLayout::out_in;
  return {w.values, rows_of_outputs == transposed ? ops::Layout::row_major : ops::Layout::column_major,
          rows_of_outputs ? in : out};
}
// y [n][out] = x [n][in] W + b.
inline ops::Matmul product_forward(int64_t n, int64_t in, int64_t out, ConstRef x, const Weight& w, ConstRef bias,
                                   Ref y, int64_t y_stride) {
  return {.m = n,
          .n = out,
          .k = in,
          .a = {x, ops::Layout::row_major, in},
          .b = right_operand(w, in, out, false),
          .c = y,
          .ldc = y_stride,
          .bias = bias};
}
// dx [n][in] = dy [n][out] W^T.
inline ops::Matmul input_gradient(int64_t n, int64_t in, int64_t out, ConstRef dy, int64_t dy_stride, const Weight& w,
                                  Ref dx) {
  return {.m = n,
          .n = in,
          .k = out,
          .a = {dy, ops::Layout::row_major, dy_stride},
          .b = right_operand(w, in, out, true),
          .c = dx,
          .ldc = in};
}
// dW [rows][columns] += left^T right, left [n][rows] with `left_stride`, right [n][columns]; left's column sums are
// added to `bias` where it is not null.
inline ops::Matmul weight_gradient(int64_t n, int64_t rows, int64_t columns, ConstRef left, int64_t left_stride,
                                   ConstRef right, float* dw, float* bias) {
  return {.m = rows,
          .n = columns,
          .k = n,
          .a = {left, ops::Layout::column_major, left_stride},
          .b = {right, ops::Layout::row_major, columns},
          .c = Ref(dw),
          .ldc = columns,
          .accumulate = true,
          .row_sums_of_a = bias};
}

// Dropout sites of a step: two per layer, and the embedding's.
constexpr uint32_t kEmbeddingSite = 0xFFFFFFFFU;
// Of tokens from `first` on.
inline ops::Dropout dropout_at(const TransformerConfig& config, const Batch& batch, const StepRandom& random,
                               uint32_t site, int64_t first = 0) {
  return {config.dropout, random.dropout, site, {batch.samples + first, batch.positions + first}};
}

}  // namespace ridgeline::model
