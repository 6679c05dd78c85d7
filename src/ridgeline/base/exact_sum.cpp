#include "ridgeline/base/exact_sum.h"

#include <bit>
#include <cmath>

namespace ridgeline {

void ExactSum::add(double value) {
  const uint64_t bits = std::bit_cast<uint64_t>(value);
  const int exponent = static_cast<int>((bits >> 52) & 0x7FF);
  if (exponent == 0x7FF) {
    ++non_finite_;
    return;
  }
  const uint64_t fraction = bits & 0xFFFFFFFFFFFFFULL;
  const uint64_t mantissa = exponent == 0 ? fraction : fraction | (uint64_t{1} << 52);
  const int position = exponent == 0 ? 0 : exponent - 1;  // of the mantissa's lowest bit, counted from 2^-1074
  const int limb = position / 32, shift = position % 32;
  const uint64_t low = (mantissa << shift) & 0xFFFFFFFFULL;
  const uint64_t rest = mantissa >> (32 - shift);
  const int64_t sign = (bits >> 63) != 0 ? -1 : 1;
  limbs_[static_cast<size_t>(limb)] += sign * static_cast<int64_t>(low);
  limbs_[static_cast<size_t>(limb) + 1] += sign * static_cast<int64_t>(rest & 0xFFFFFFFFULL);
  limbs_[static_cast<size_t>(limb) + 2] += sign * static_cast<int64_t>(rest >> 32);
}

double ExactSum::value() const {
  // Digits in [0, 2^32) and a sign: one representation per exact sum.
  std::array<int64_t, kLimbs> digits = limbs_;
  const auto carry = [&digits] {
    for (size_t i = 0; i + 1 < kLimbs; ++i) {
      digits[i + 1] += digits[i] >> 32;
      digits[i] &= 0xFFFFFFFFLL;
    }
  };
  carry();
  const bool negative = digits.back() < 0;
  if (negative) {
    for (int64_t& digit : digits) digit = -digit;
    carry();
  }
  double sum = 0;
  for (size_t i = 0; i < kLimbs; ++i) {
    if (digits[i] != 0) sum += std::ldexp(static_cast<double>(digits[i]), static_cast<int>(i) * 32 - 1074);
  }
  return negative ? -sum : sum;
}

}  // namespace ridgeline
