// An order-independent sum of doubles: a fixed-point accumulator wide enough for every double, so that the same terms give
// the same bits in any order, cut or grouping, and ranks can add their accumulators with an integer all-reduce.
#pragma once

#include <array>
#include <cstdint>

namespace ridgeline {

// Plain data of i64 words: the sum of two accumulators is the sum of their words. Up to 2^30 terms in all.
class ExactSum {
 public:
  // A double's bits lie between 2^-1074 and 2^1023: 2098 positions, 32 per limb, plus the two limbs that a shifted mantissa reaches.
  static constexpr int kLimbs = 68;

  // Infinities and NaN are counted, not added.
  void add(double value);
  // The sum, rounded to double by a fixed procedure (a function of the exact sum alone; error below one unit in the last place).
  double value() const;
  // How many infinities and NaN were added.
  int64_t non_finite() const { return non_finite_; }

 private:
  std::array<int64_t, kLimbs> limbs_{};
  int64_t non_finite_ = 0;
};

}  // namespace ridgeline
