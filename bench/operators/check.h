// The checked half of an operator's entry (operator.h): each case runs the operator, forward and backward, on a device
// stream and compares it with a double-precision reference computed from the same inputs (already rounded to the case's
// dtype); the reference's own gradients are compared with central finite differences of the reference. `op_check`
// prints a row per comparison. A case looks like
//   checks.add(dtype, fmt::format("M={} N={} K={}", m, n, k), [=](Stream& stream, Report& report) {
//     const Tensor a = Tensor::random(dtype, m * k, /*seed=*/1), b = ...;      // inputs, rounded to dtype
//     Tensor c(dtype, m * n);                                                  // output, guarded on both sides
//     ops::matmul(stream, ..., a.ref(), ..., c.ref());
//     report.compare("c", c, reference(a.values(), b.values()), tolerance(dtype));
//   });
// Choose sizes that divide by nothing beside those that fit a tile.
//
// The driver runs each case on worker teams of 1, 2 and 3 threads and demands that everything given to `compare` as a
// Tensor is bitwise the same ("team" row), and that no op wrote outside its tensors ("guards" row).
//
// Errors are norms: ||computed - expected|| / max(||expected||, 1e-3 unit_norm), where unit_norm is the norm of the
// gradients of the whole unit: what is zero in theory (the gradient of a key bias) has no norm of its own.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ridgeline/base/dtype.h"
#include "ridgeline/device/stream.h"
#include "ridgeline/ops/index_range.h"
#include "ridgeline/ops/workspace.h"

namespace ridgeline::operators {

using device::Stream;

// The dtypes of activations and weights.
inline constexpr DType kStored[] = {DType::f32, DType::bf16, DType::f16};

// A buffer of `count` elements of one dtype between guard zones, 64-byte aligned.
class Tensor {
 public:
  // Zeros.
  Tensor(DType dtype, int64_t count);
  // `values` rounded to dtype (f32, bf16, f16, f64).
  Tensor(DType dtype, std::span<const double> values);
  // Movable only: the aligned address belongs to the storage.
  Tensor(Tensor&&) noexcept = default;
  Tensor& operator=(Tensor&&) noexcept = default;
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  // Uniform in [center - width, center + width), rounded to dtype; a pure function of (seed, index).
  static Tensor random(DType dtype, int64_t count, uint64_t seed, double width = 1.0, double center = 0.0);

  Ref ref();
  ConstRef ref() const;
  template <typename T>
  T* as() {
    return ref().as<T>();
  }
  template <typename T>
  const T* as() const {
    return ref().as<T>();
  }
  DType dtype() const { return dtype_; }
  int64_t count() const { return count_; }
  // The elements as doubles (exact).
  std::vector<double> values() const;
  std::span<const std::byte> bytes() const;
  // Whether the guard zones are as they were made.
  bool guards_intact() const;

 private:
  std::byte* data() const;
  DType dtype_;
  int64_t count_;
  mutable std::vector<std::byte> storage_;
};

// Integers in [0, bound), a pure function of (seed, index): tokens, labels, positions.
std::vector<int32_t> random_integers(int64_t count, int32_t bound, uint64_t seed);

// [0, whole) cut into ranges of uneven lengths; where there are more than two, the second is empty.
std::vector<ops::IndexRange> uneven_ranges(int64_t whole, int count);

// Scratch memory for an op's workspace: 64-byte aligned, filled with a byte that makes a poor float (0xFF: NaN), so
// that an op that reads it before writing shows. Aborts at its end when an op wrote behind it.
class Workspace {
 public:
  explicit Workspace(int64_t bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ops::Workspace lent();

 private:
  const int64_t bytes_;
  std::vector<std::byte> storage_;
};

double norm(std::span<const double> values);
double relative_error(std::span<const double> computed, std::span<const double> expected, double unit_norm = 0.0);

// sum_i a[i] b[i]: the scalar whose gradient with respect to an op's output is a given vector.
double dot(std::span<const double> a, std::span<const double> b);

// With tanh, as GPT-2 has it.
double gelu(double x);

// The usual tolerance of an op with fp32 arithmetic whose results are stored as dtype: 2e-6 (f32), 4e-3 (bf16: half an
// ulp is 2^-9, its root mean square over a vector about 2^-9/sqrt(3) = 1.1e-3; room for one more rounding in between),
// 5e-4 (f16: an eighth of that).
double tolerance(DType dtype);

struct Row {
  std::string part;  // "y", "dx", "dx fd", ...
  double error = 0, tolerance = 0;
  bool ok() const { return error <= tolerance; }  // false for NaN
};

// What a case found.
class Report {
 public:
  // `with_differences`: false leaves finite differences out, which do not depend on the team.
  explicit Report(bool with_differences = true) : with_differences_(with_differences) {}

  // An op's output against the reference. The bytes also take part in the comparison between team sizes.
  void compare(const std::string& part, const Tensor& computed, std::span<const double> expected, double tolerance,
               double unit_norm = 0.0);
  // Values that need no comparison between team sizes.
  void compare(const std::string& part, std::span<const double> computed, std::span<const double> expected,
               double tolerance, double unit_norm = 0.0);
  // An exact property: error 0 or 1, tolerance 0.
  void require(const std::string& part, bool holds);
  // Compares `gradient`, the reference's analytic gradient of `f` at `x`, with central finite differences of f: every
  // element, or `samples` of them spread evenly. All in double; tolerance 1e-6 unless f is badly scaled.
  void finite_differences(const std::string& part, const std::function<double(std::span<const double>)>& f,
                          std::span<const double> x, std::span<const double> gradient, double tolerance = 1e-6,
                          double unit_norm = 0.0, int samples = 40, double step = 1e-4);

  const std::vector<Row>& rows() const { return rows_; }
  const std::vector<std::byte>& outputs() const { return outputs_; }
  bool guards_intact() const { return guards_intact_; }

 private:
  std::vector<Row> rows_;
  std::vector<std::byte> outputs_;
  bool guards_intact_ = true;
  bool with_differences_;
};

struct Case {
  std::string op;     // the operator's name
  DType dtype;        // f32, bf16 or f16
  std::string sizes;  // "N=5 C=33 ...": unique together with op and dtype
  std::function<void(Stream&, Report&)> run;
};

// The cases of one operator, as they are added to a list.
class Checks {
 public:
  Checks(std::string op, std::vector<Case>& cases) : op_(std::move(op)), cases_(cases) {}
  void add(DType dtype, std::string sizes, std::function<void(Stream&, Report&)> run) {
    cases_.push_back({op_, dtype, std::move(sizes), std::move(run)});
  }

 private:
  std::string op_;
  std::vector<Case>& cases_;
};

}  // namespace ridgeline::operators
