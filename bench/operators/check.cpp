#include "bench/operators/check.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <utility>

#include "ridgeline/base/error.h"
#include "ridgeline/base/random.h"

namespace ridgeline::operators {
namespace {

constexpr int64_t kGuard = 256;
constexpr int64_t kAlignment = 64;
constexpr std::byte kGuardByte{0xA5};

int64_t aligned_offset(const std::byte* storage) {
  const auto address = reinterpret_cast<uintptr_t>(storage) + kGuard;
  return kGuard + static_cast<int64_t>((kAlignment - address % kAlignment) % kAlignment);
}

void store(DType dtype, std::byte* at, int64_t i, double value) {
  switch (dtype) {
    case DType::f32:
      reinterpret_cast<float*>(at)[i] = static_cast<float>(value);
      return;
    case DType::bf16:
      reinterpret_cast<bf16*>(at)[i] = bf16(static_cast<float>(value));
      return;
    case DType::f16:
      reinterpret_cast<f16*>(at)[i] = f16(static_cast<float>(value));
      return;
    case DType::f64:
      reinterpret_cast<double*>(at)[i] = value;
      return;
    default:
      RL_REQUIRE(false, "a tensor of dtype {}", name_of(dtype));
  }
}

double load(DType dtype, const std::byte* at, int64_t i) {
  switch (dtype) {
    case DType::f32:
      return reinterpret_cast<const float*>(at)[i];
    case DType::bf16:
      return static_cast<float>(reinterpret_cast<const bf16*>(at)[i]);
    case DType::f16:
      return static_cast<float>(reinterpret_cast<const f16*>(at)[i]);
    case DType::f64:
      return reinterpret_cast<const double*>(at)[i];
    default:
      RL_REQUIRE(false, "a tensor of dtype {}", name_of(dtype));
  }
  return 0.0;
}

std::vector<uint32_t> random_bits(uint64_t seed, int64_t count) {
  std::vector<uint32_t> bits(static_cast<size_t>(count));
  for (size_t i = 0; i < bits.size(); i += 4) {
    const auto four = philox(seed * 0x9E3779B97F4A7C15ULL + 1, {static_cast<uint32_t>(i / 4), 0, 0, 0});
    std::copy_n(four.begin(), std::min<size_t>(4, bits.size() - i), bits.begin() + static_cast<std::ptrdiff_t>(i));
  }
  return bits;
}

}  // namespace

Tensor::Tensor(DType dtype, int64_t count)
    : dtype_(dtype),
      count_(count),
      storage_(static_cast<size_t>(count * size_of(dtype) + 2 * kGuard + kAlignment), kGuardByte) {
  std::memset(data(), 0, static_cast<size_t>(count * size_of(dtype)));
}

Tensor::Tensor(DType dtype, std::span<const double> values) : Tensor(dtype, static_cast<int64_t>(values.size())) {
  for (int64_t i = 0; i < count_; ++i) store(dtype_, data(), i, values[i]);
}

Tensor Tensor::random(DType dtype, int64_t count, uint64_t seed, double width, double center) {
  Tensor tensor(dtype, count);
  const std::vector<uint32_t> bits = random_bits(seed, count);
  for (int64_t i = 0; i < count; ++i) {
    const double unit = (static_cast<double>(bits[i]) + 0.5) * 0x1p-32;
    store(dtype, tensor.data(), i, center + width * (2.0 * unit - 1.0));
  }
  return tensor;
}

std::byte* Tensor::data() const {
  return storage_.data() + aligned_offset(storage_.data());
}

Ref Tensor::ref() {
  return {data(), dtype_};
}
ConstRef Tensor::ref() const {
  return {data(), dtype_};
}

std::vector<double> Tensor::values() const {
  std::vector<double> result(static_cast<size_t>(count_));
  for (int64_t i = 0; i < count_; ++i) result[i] = load(dtype_, data(), i);
  return result;
}

std::span<const std::byte> Tensor::bytes() const {
  return {data(), static_cast<size_t>(count_ * size_of(dtype_))};
}

bool Tensor::guards_intact() const {
  const auto intact = [](std::byte value) { return value == kGuardByte; };
  const std::byte* first = data();
  const std::byte* last = first + count_ * size_of(dtype_);
  const std::byte* begin = storage_.data();
  const std::byte* end = begin + storage_.size();
  return std::all_of(begin, first, intact) && std::all_of(last, end, intact);
}

std::vector<int32_t> random_integers(int64_t count, int32_t bound, uint64_t seed) {
  std::vector<int32_t> result(static_cast<size_t>(count));
  const std::vector<uint32_t> bits = random_bits(seed, count);
  for (size_t i = 0; i < result.size(); ++i) result[i] = static_cast<int32_t>(bits[i] % static_cast<uint32_t>(bound));
  return result;
}

std::vector<ops::IndexRange> uneven_ranges(int64_t whole, int count) {
  std::vector<ops::IndexRange> result;
  int64_t first = 0;
  for (int64_t i = 1; i <= count; ++i) {
    const int64_t last = count > 2 && i == 2 ? first : whole * i * i / (count * count);
    result.push_back({first, last - first, whole});
    first = last;
  }
  return result;
}

Workspace::Workspace(int64_t bytes)
    : bytes_(bytes), storage_(static_cast<size_t>(bytes + kGuard + kAlignment + kGuard), std::byte{0xFF}) {}
Workspace::~Workspace() {
  const auto* const end = static_cast<const std::byte*>(lent().data) + bytes_;
  const bool intact = std::all_of(end, std::as_const(storage_).data() + storage_.size(),
                                  [](std::byte b) { return b == std::byte{0xFF}; });
  RL_REQUIRE(intact, "an operator wrote behind the {} bytes of its workspace", bytes_);
}
ops::Workspace Workspace::lent() {
  return {storage_.data() + aligned_offset(storage_.data()), bytes_};
}

double gelu(double x) {
  const double u = std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x);
  return 0.5 * x * (1.0 + std::tanh(u));
}

double dot(std::span<const double> a, std::span<const double> b) {
  RL_CHECK(a.size(), ==, b.size());
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

double norm(std::span<const double> values) {
  return std::sqrt(dot(values, values));
}

double relative_error(std::span<const double> computed, std::span<const double> expected, double unit_norm) {
  RL_CHECK(computed.size(), ==, expected.size());
  double sum = 0.0;
  for (size_t i = 0; i < computed.size(); ++i) {
    const double difference = computed[i] - expected[i];
    sum += difference * difference;
  }
  const double scale = std::max(norm(expected), 1e-3 * unit_norm);
  if (sum == 0.0) return 0.0;
  return std::sqrt(sum) / scale;
}

double tolerance(DType dtype) {
  return dtype == DType::bf16 ? 4e-3 : dtype == DType::f16 ? 5e-4 : 2e-6;
}

void Report::compare(const std::string& part, const Tensor& computed, std::span<const double> expected,
                     double tolerance, double unit_norm) {
  compare(part, computed.values(), expected, tolerance, unit_norm);
  outputs_.insert(outputs_.end(), computed.bytes().begin(), computed.bytes().end());
  guards_intact_ = guards_intact_ && computed.guards_intact();
}

void Report::compare(const std::string& part, std::span<const double> computed, std::span<const double> expected,
                     double tolerance, double unit_norm) {
  rows_.push_back({part, relative_error(computed, expected, unit_norm), tolerance});
}

void Report::require(const std::string& part, bool holds) {
  rows_.push_back({part, holds ? 0.0 : 1.0, 0.0});
}

void Report::finite_differences(const std::string& part, const std::function<double(std::span<const double>)>& f,
                                std::span<const double> x, std::span<const double> gradient, double tolerance,
                                double unit_norm, int samples, double step) {
  RL_CHECK(x.size(), ==, gradient.size());
  if (!with_differences_) return;
  std::vector<double> point(x.begin(), x.end()), analytic, numeric;
  const size_t stride = std::max<size_t>(1, x.size() / static_cast<size_t>(samples));
  for (size_t i = 0; i < x.size(); i += stride) {
    point[i] = x[i] + step;
    const double above = f(point);
    point[i] = x[i] - step;
    const double below = f(point);
    point[i] = x[i];
    numeric.push_back((above - below) / (2.0 * step));
    analytic.push_back(gradient[i]);
  }
  compare(part + " fd", analytic, numeric, tolerance, unit_norm);
}

}  // namespace ridgeline::operators
