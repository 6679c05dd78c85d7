#include "ridgeline/base/exact_sum.h"

#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "ridgeline/base/error.h"

namespace ridgeline {
namespace {

constexpr int kLowestExponent = -1088;  // of bit 0 of limb 0: below the least subnormal, 2^-1074, and a multiple of 32

// The limbs as digits in [0, 2^32), least first, of the absolute value; two more for the carries.
struct Digits {
  std::array<uint32_t, ExactSum::kLimbs + 2> digit{};
  bool negative = false;

  explicit Digits(const ExactSum& sum) {
    negative = carry(sum, 1) < 0;
    if (negative) carry(sum, -1);
  }

  // Writes the digits of sign * sum; returns what is left above them: 0, or -1 when sign * sum is negative.
  int64_t carry(const ExactSum& sum, int64_t sign) {
    int64_t over = 0;
    for (int k = 0; k < ExactSum::kLimbs; ++k) {
      over += sign * sum.words[k];
      digit[k] = static_cast<uint32_t>(over);
      over >>= 32;
    }
    for (int k = ExactSum::kLimbs; k < ExactSum::kLimbs + 2; ++k) {
      digit[k] = static_cast<uint32_t>(over);
      over >>= 32;
    }
    return over;
  }
};

}  // namespace

void ExactSum::add(double value) {
  const uint64_t bits = std::bit_cast<uint64_t>(value);
  const int biased = static_cast<int>((bits >> 52) & 0x7FF);
  if (biased == 0x7FF) {
    ++words[kLimbs];
    return;
  }
  const uint64_t fraction = bits & 0xFFFFFFFFFFFFFULL;
  const uint64_t integer = biased == 0 ? fraction : fraction | (uint64_t{1} << 52);
  add(integer, (biased == 0 ? 1 : biased) - 1075, (bits >> 63) != 0 ? -1 : 1);
}

void ExactSum::add(uint64_t integer, int exponent, int sign) {
  const int position = exponent - kLowestExponent;
  const int limb = position / 32, shift = position % 32;
  RL_REQUIRE(position >= 0 && limb + 3 <= kLimbs, "2^{} is beyond an exact sum", exponent);
  const int64_t parts[3] = {static_cast<int64_t>((integer << shift) & 0xFFFFFFFFU),
                            static_cast<int64_t>((integer >> (32 - shift)) & 0xFFFFFFFFU),
                            shift == 0 ? 0 : static_cast<int64_t>(integer >> (64 - shift))};
  for (int i = 0; i < 3; ++i) words[limb + i] += sign * parts[i];
}

void ExactSum::carry() {
  int64_t over = 0;
  for (int k = 0; k < kLimbs - 1; ++k) {
    over += words[k];
    words[k] = over & 0xFFFFFFFF;
    over >>= 32;
  }
  words[kLimbs - 1] += over;
}

void ExactSum::add(const ExactSum& other) {
  for (int k = 0; k < kWords; ++k) words[k] += other.words[k];
}

double ExactSum::value() const {
  if (non_finite() != 0) return std::numeric_limits<double>::quiet_NaN();
  const Digits digits(*this);
  int top = static_cast<int>(digits.digit.size()) - 1;
  while (top >= 0 && digits.digit[top] == 0) --top;
  if (top < 0) return 0.0;
  const auto at = [&](int k) -> uint64_t { return k >= 0 ? digits.digit[k] : 0; };
  // The leading 64 bits; the lowest says as well whether anything follows. One conversion then rounds right, and a
  // subnormal result is exact, since no double has bits below 2^-1074.
  const int zeros = std::countl_zero(digits.digit[top]);
  uint64_t leading = (at(top) << 32 | at(top - 1)) << zeros;
  const uint64_t next = at(top - 2) << zeros;  // zeros < 32: no bit is lost
  leading |= next >> 32;
  bool more = (next & 0xFFFFFFFFU) != 0;
  for (int k = top - 3; k >= 0 && !more; --k) more = at(k) != 0;
  if (more) leading |= 1;
  const double magnitude = std::ldexp(static_cast<double>(leading), 32 * (top - 1) - zeros + kLowestExponent);
  return digits.negative ? -magnitude : magnitude;
}

}  // namespace ridgeline
