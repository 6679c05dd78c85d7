// The matrix product against double precision, for every instruction set of this machine, layout, dtype and epilogue,
// at sizes that no block divides.
#include "ridgeline/ops/matmul.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <tuple>
#include <vector>

#include "../many_cases.h"
#include "ridgeline/base/random.h"
#include "ridgeline/device/arena.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/cpu/matmul_isa.h"
#include "ridgeline/ops/elementwise.h"

namespace ridgeline::ops {
namespace {

using device::Isa;
using device::WorkerTeam;

constexpr DType kStored[] = {DType::f32, DType::bf16, DType::f16};
constexpr float kUntouched = 1232.0F;  // exact in every dtype; what lies beside C must stay so

struct Size {
  int64_t m, n, k;
};

std::vector<Isa> levels() {
  std::vector<Isa> all;
  for (const Isa level : {Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512_bf16, Isa::amx_bf16}) {
    if (level <= device::isa()) all.push_back(level);
  }
  return all;
}

// Elements of one dtype, read and written as floats.
class Buffer {
 public:
  Buffer() = default;
  Buffer(DType dtype, int64_t count, float value = 0.0F) : dtype_(dtype), bytes_(count * size_of(dtype)) {
    for (int64_t i = 0; i < count; ++i) set(i, value);
  }
  float get(int64_t i) const {
    if (dtype_ == DType::f32) return reinterpret_cast<const float*>(bytes_.data())[i];
    if (dtype_ == DType::f16) return static_cast<float>(reinterpret_cast<const f16*>(bytes_.data())[i]);
    return static_cast<float>(reinterpret_cast<const bf16*>(bytes_.data())[i]);
  }
  void set(int64_t i, float value) {
    if (dtype_ == DType::f32) {
      reinterpret_cast<float*>(bytes_.data())[i] = value;
    } else if (dtype_ == DType::f16) {
      reinterpret_cast<f16*>(bytes_.data())[i] = f16(value);
    } else {
      reinterpret_cast<bf16*>(bytes_.data())[i] = bf16(value);
    }
  }
  Ref ref() { return bytes_.empty() ? Ref() : Ref(bytes_.data(), dtype_); }
  bool operator==(const Buffer& other) const { return bytes_ == other.bytes_; }
  int64_t count() const { return static_cast<int64_t>(bytes_.size()) / size_of(dtype_); }

 private:
  DType dtype_ = DType::f32;
  std::vector<std::byte> bytes_;
};

// [rows][columns] of N(0, 1) rounded to `dtype`.
std::vector<float> draw(DType dtype, int64_t count, uint64_t seed) {
  std::vector<float> values(count);
  fill_normal(values.data(), count, random_key(seed, 0, Purpose::init), 0, 0.0F, 1.0F);
  for (float& value : values) {
    if (dtype == DType::bf16) value = static_cast<float>(bf16(value));
    if (dtype == DType::f16) value = static_cast<float>(f16(value));
  }
  return values;
}

// Operands of one product and what double precision makes of them.
struct Operands {
  Size size;
  DType dtype;
  std::vector<float> a, b;
  std::vector<double> sum, magnitude;  // sum |a| |b|: the scale of rounding errors

  Operands(Size s, DType type) : size(s), dtype(type), a(draw(type, s.m * s.k, 1)), b(draw(type, s.k * s.n, 2)) {
    sum.assign(s.m * s.n, 0.0);
    magnitude.assign(s.m * s.n, 0.0);
    for (int64_t i = 0; i < s.m; ++i) {
      for (int64_t k = 0; k < s.k; ++k) {
        const double x = a[i * s.k + k];
        for (int64_t j = 0; j < s.n; ++j) {
          const double term = x * b[k * s.n + j];
          sum[i * s.n + j] += term;
          magnitude[i * s.n + j] += std::abs(term);
        }
      }
    }
  }
};

// Large ones, which are the same for every instruction set.
const Operands& operands_of(Size s, DType dtype) {
  static std::map<std::tuple<int64_t, int64_t, int64_t, DType>, Operands> all;
  return all.try_emplace({s.m, s.n, s.k, dtype}, s, dtype).first->second;
}

// A matrix stored in `layout` with a leading dimension larger than need be.
struct Stored {
  Buffer buffer;
  Layout layout;
  int64_t ld;

  Stored(const std::vector<float>& values, DType dtype, int64_t rows, int64_t columns, Layout where)
      : layout(where), ld((where == Layout::row_major ? columns : rows) + 3) {
    const bool row_major = where == Layout::row_major;
    buffer = Buffer(dtype, (row_major ? rows : columns) * ld, kUntouched);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < columns; ++j) buffer.set(row_major ? i * ld + j : j * ld + i, values[i * columns + j]);
    }
  }
  Matrix matrix() { return {buffer.ref(), layout, ld}; }
};

struct Case {
  Layout a = Layout::row_major, b = Layout::row_major;
  DType c = DType::f32;
  Epilogue epilogue = Epilogue::plain;
  bool accumulate = false;
  int bias = 0;  // 0 none, 1 f32, 2 bf16, 3 f16
  bool row_sums = false;
  bool residual_in_place = false;

  std::string name() const {
    return fmt::format("a {} b {} c {} epilogue {} accumulate {} bias {}", static_cast<int>(a), static_cast<int>(b),
                       name_of(c), static_cast<int>(epilogue), accumulate, bias);
  }
};

struct Result {
  Buffer c, pre;
  std::vector<float> row_sums;
  bool operator==(const Result& other) const = default;
};

// The side inputs of a case: drawn once, the same for every way of computing it.
struct Inputs {
  int64_t ldc;
  Buffer c, bias, side;

  Inputs(const Case& test, Size size) : ldc(size.n + 5), c(test.c, size.m * ldc, kUntouched) {
    const std::vector<float> old = draw(test.c, size.m * size.n, 3), extra = draw(test.c, size.m * size.n, 4);
    side = Buffer(test.c, size.m * ldc, kUntouched);
    for (int64_t i = 0; i < size.m; ++i) {
      for (int64_t j = 0; j < size.n; ++j) {
        side.set(i * ldc + j, extra[i * size.n + j]);
        if (test.accumulate) c.set(i * ldc + j, old[i * size.n + j]);
      }
    }
    if (test.residual_in_place) c = side;
    const DType bias_type = kStored[std::max(test.bias, 1) - 1];
    const std::vector<float> values = draw(bias_type, size.n, 5);
    if (test.bias != 0) {
      bias = Buffer(bias_type, size.n);
      for (int64_t j = 0; j < size.n; ++j) bias.set(j, values[j]);
    }
  }
};

Result compute(const Operands& operands, const Case& test, const Inputs& given, Isa isa, int team_size) {
  const Size size = operands.size;
  Stored a(operands.a, operands.dtype, size.m, size.k, test.a), b(operands.b, operands.dtype, size.k, size.n, test.b);
  Inputs in = given;
  Result result{.c = in.c, .pre = Buffer(test.c, size.m * in.ldc, kUntouched), .row_sums = {}};
  if (test.row_sums) result.row_sums.assign(size.m, 0.5F);

  Matmul product{.m = size.m,
                 .n = size.n,
                 .k = size.k,
                 .a = a.matrix(),
                 .b = b.matrix(),
                 .c = result.c.ref(),
                 .ldc = in.ldc,
                 .accumulate = test.accumulate,
                 .bias = in.bias.ref(),
                 .epilogue = test.epilogue,
                 .pre_activation = {},
                 .activation_input = {},
                 .residual = {},
                 .row_sums_of_a = nullptr};
  if (test.epilogue == Epilogue::gelu) product.pre_activation = result.pre.ref();
  if (test.epilogue == Epilogue::gelu_grad) product.activation_input = in.side.ref();
  if (test.epilogue == Epilogue::residual) product.residual = test.residual_in_place ? result.c.ref() : in.side.ref();
  if (test.row_sums) product.row_sums_of_a = result.row_sums.data();

  WorkerTeam team(team_size);
  const int64_t bytes = cpu::matmul_workspace_bytes(product, team_size, isa);
  std::vector<float> memory(bytes / 4 + 32, std::nanf(""));  // contents are undefined: a stray read shows
  void* workspace = memory.data();
  size_t space = memory.size() * 4;
  workspace = std::align(64, static_cast<size_t>(bytes), workspace, space);
  const auto* end = static_cast<const float*>(workspace) + bytes / 4;
  const float last = *end;
  cpu::matmul(team, product, {workspace, bytes}, isa);
  EXPECT_EQ(std::memcmp(&last, end, sizeof last), 0) << "wrote behind the workspace";
  return result;
}

// |stored - exact| <= tolerance for every element; what lies beside C is untouched.
void expect_close(const Operands& operands, const Case& test, const Inputs& in, const Result& result) {
  const Size size = operands.size;
  const Buffer& stored = test.epilogue == Epilogue::gelu ? result.pre : result.c;
  // Each of k additions rounds by 2^-24 of a partial sum; partial sums of random signs stay well below the sum of
  // magnitudes, and blocked sums err far less than this bound. Storage adds half a unit: 2^-8 (bf16), 2^-11 (f16).
  const double roundoff = 0x1p-24 * (2.0 * std::sqrt(static_cast<double>(size.k)) + 4.0);
  const double storage = test.c == DType::bf16 ? 0x1p-8 : test.c == DType::f16 ? 0x1p-11 : 0x1p-22;
  int64_t wrong = 0;
  for (int64_t i = 0; i < size.m; ++i) {
    for (int64_t j = 0; j < in.ldc; ++j) {
      const double value = stored.get(i * in.ldc + j);
      if (j >= size.n) {
        wrong += value == kUntouched || (test.residual_in_place) ? 0 : 1;
        continue;
      }
      double exact = operands.sum[i * size.n + j];
      if (test.accumulate) exact += in.c.get(i * in.ldc + j);
      if (test.bias != 0) exact += in.bias.get(j);
      double allowed = roundoff * (operands.magnitude[i * size.n + j] + 4.0) + storage * std::abs(exact);
      if (test.epilogue == Epilogue::residual) {
        exact += in.side.get(i * in.ldc + j);
        allowed += storage * std::abs(exact);
      }
      wrong += std::abs(value - exact) <= allowed ? 0 : 1;
    }
  }
  EXPECT_EQ(wrong, 0) << "of " << size.m * size.n;
}

void expect_row_sums(const Operands& operands, const Result& result) {
  for (int64_t i = 0; i < operands.size.m; ++i) {
    double exact = 0.5, magnitude = 0.5;
    for (int64_t k = 0; k < operands.size.k; ++k) {
      exact += operands.a[i * operands.size.k + k];
      magnitude += std::abs(operands.a[i * operands.size.k + k]);
    }
    ASSERT_NEAR(result.row_sums[i], exact, 1e-6 * magnitude) << "row " << i;
  }
}

// What separate ops make of the stored plain product.
Buffer unfused(const Operands& operands, const Case& test, Inputs in, Isa isa) {
  Case plain = test;
  plain.epilogue = Epilogue::plain;
  plain.residual_in_place = false;
  Result result = compute(operands, plain, in, isa, 1);
  WorkerTeam team(1);
  device::Stream stream(team);
  const int64_t count = result.c.count();
  if (test.epilogue == Epilogue::gelu) gelu_forward(stream, count, result.c.ref(), result.c.ref());
  if (test.epilogue == Epilogue::gelu_grad) gelu_backward(stream, count, in.side.ref(), result.c.ref(), result.c.ref());
  if (test.epilogue == Epilogue::residual) add(stream, count, result.c.ref(), in.side.ref(), result.c.ref());
  return result.c;
}

void expect_equal_inside(const Buffer& x, const Buffer& y, Size size, int64_t ldc) {
  int64_t different = 0;
  for (int64_t i = 0; i < size.m; ++i) {
    for (int64_t j = 0; j < size.n; ++j) different += x.get(i * ldc + j) == y.get(i * ldc + j) ? 0 : 1;
  }
  EXPECT_EQ(different, 0) << "of " << size.m * size.n;
}

void check(const Operands& operands, const Case& test, Isa isa) {
  SCOPED_TRACE(fmt::format("{} {} m {} n {} k {}: {}", device::name_of(isa), name_of(operands.dtype), operands.size.m,
                           operands.size.n, operands.size.k, test.name()));
  const Inputs in(test, operands.size);
  const Result one = compute(operands, test, in, isa, 1);
  if (test.epilogue != Epilogue::gelu_grad) expect_close(operands, test, in, one);
  if (test.row_sums) expect_row_sums(operands, one);
  for (const int team_size : {2, 3}) {
    EXPECT_TRUE(compute(operands, test, in, isa, team_size) == one) << "team of " << team_size << " gives other bits";
  }
  if (test.epilogue != Epilogue::plain) {
    expect_equal_inside(one.c, unfused(operands, test, in, isa), operands.size, in.ldc);
  }
}

const Size kSmall[] = {{1, 1, 1}, {5, 7, 3}, {2, 50, 33}, {16, 49, 64}, {33, 47, 65}, {70, 31, 131}};
const Size kLarge[] = {{290, 401, 420}, {401, 263, 775}, {34, 790, 776}};

class MatmulTest : public testing::TestWithParam<Isa> {};

TEST_P(MatmulTest, AgreesWithDoubleForEveryLayoutDtypeAndEpilogue) {
  ManyCases cases(5);
  for (const DType dtype : kStored) {
    for (const Size size : kSmall) {
      const Operands operands(size, dtype);
      int turn = 0;
      for (const Layout a : {Layout::row_major, Layout::column_major}) {
        for (const Layout b : {Layout::row_major, Layout::column_major}) {
          for (const Epilogue epilogue : {Epilogue::plain, Epilogue::gelu, Epilogue::gelu_grad, Epilogue::residual}) {
            for (const DType c : kStored) {
              const int bias = turn++ % 4;
              if (cases.skips()) continue;
              check(operands, {.a = a, .b = b, .c = c, .epilogue = epilogue, .bias = bias, .row_sums = bias == 0},
                    GetParam());
            }
            if (cases.skips()) continue;
            check(operands,
                  {.a = a, .b = b, .epilogue = epilogue, .accumulate = true, .bias = turn % 4, .row_sums = true},
                  GetParam());
          }
        }
      }
    }
  }
}

TEST_P(MatmulTest, AgreesWithDoubleAcrossBlocks) {
  ManyCases cases(5);
  for (const DType dtype : kStored) {
    for (const Size size : kLarge) {
      for (const Layout a : {Layout::row_major, Layout::column_major}) {
        for (const Layout b : {Layout::row_major, Layout::column_major}) {
          if (cases.skips()) continue;
          const bool weight_gradient = a == Layout::column_major && b == Layout::row_major;
          check(operands_of(size, dtype),
                {.a = a,
                 .b = b,
                 .c = weight_gradient ? DType::f32 : dtype,
                 .epilogue = weight_gradient ? Epilogue::plain : Epilogue::gelu,
                 .accumulate = weight_gradient,
                 .bias = weight_gradient ? 0 : 1,
                 .row_sums = weight_gradient},
                GetParam());
        }
      }
    }
  }
}

// The longest chunk of any kernel is below 2400: three of them.
TEST_P(MatmulTest, AddsChunksOfALongSum) {
  for (const DType dtype : kStored) {
    const Operands& operands = operands_of({33, 34, 7001}, dtype);
    check(operands, {.c = DType::f32, .epilogue = Epilogue::plain, .accumulate = true, .row_sums = true}, GetParam());
    check(operands, {.a = Layout::column_major, .c = DType::bf16, .epilogue = Epilogue::gelu, .bias = 1}, GetParam());
    check(operands, {.c = DType::f16, .epilogue = Epilogue::residual, .bias = 3, .residual_in_place = true},
          GetParam());
    check(operands, {.c = DType::f32, .epilogue = Epilogue::residual, .residual_in_place = true}, GetParam());
  }
}

// Packed rows fill more than the last-level cache's share: two slabs, three where the next is packed ahead.
TEST_P(MatmulTest, CutsManyRowsIntoSlabs) {
  const Operands& operands = operands_of({17501, 9, 400}, DType::f32);
  check(operands, {.c = DType::f32, .epilogue = Epilogue::plain, .bias = 1}, GetParam());
  check(operands, {.a = Layout::column_major, .c = DType::f32, .accumulate = true, .row_sums = true}, GetParam());
}

TEST_P(MatmulTest, ResidualMayBeTheOutputItself) {
  for (const DType dtype : kStored) {
    const Operands operands({37, 53, 70}, dtype);
    check(operands, {.c = dtype, .epilogue = Epilogue::residual, .bias = 2, .residual_in_place = true}, GetParam());
  }
}

TEST_P(MatmulTest, EmptySumIsZeroPlusBias) {
  const Operands operands({3, 4, 0}, DType::f32);
  check(operands, {.c = DType::f32, .bias = 1, .row_sums = true}, GetParam());
}

// Loss scaling looks for infinities.
TEST_P(MatmulTest, OverflowsToInfinityInF16) {
  const Size size{5, 20, 100};
  Operands operands(size, DType::f16);
  operands.a.assign(operands.a.size(), 30.0F);
  operands.b.assign(operands.b.size(), 30.0F);
  const Case test{.c = DType::f16};
  const Result result = compute(operands, test, Inputs(test, size), GetParam(), 1);
  for (int64_t i = 0; i < size.m; ++i)
    EXPECT_EQ(result.c.get(i * (size.n + 5)), std::numeric_limits<float>::infinity());
}

INSTANTIATE_TEST_SUITE_P(EveryLevel, MatmulTest, testing::ValuesIn(levels()),
                         [](const auto& level) { return std::string(device::name_of(level.param)); });

}  // namespace
}  // namespace ridgeline::ops
