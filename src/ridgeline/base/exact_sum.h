// A sum of doubles that does not depend on their order: added as fixed-point integers wide enough for every double, so
// nothing is ever rounded away. Partial sums of several ranks are added word by word (an all-reduce of int64 sums) and
// give the same bits as one sum over everything; so a global norm does not depend on how it was sharded.
// (Kulisch, "Computer Arithmetic and Validity", 2008: the long accumulator, here with carries put off.)
#pragma once

#include <cstdint>
#include <type_traits>

namespace ridgeline {

struct ExactSum {
  // Limb k holds an integer in units of 2^(32 k - 1088), of which every addition changes at most 2^32 - 1: up to 2^30
  // additions, over all ranks together, cannot overflow it.
  static constexpr int kLimbs = 67;
  // The limbs, and how many values were infinite or NaN.
  static constexpr int kWords = kLimbs + 1;
  int64_t words[kWords] = {};

  void add(double value);
  // integer * 2^exponent, exponent >= -1088, of a product below 2^1055.
  void add(uint64_t integer, int exponent) { add(integer, exponent, 1); }
  // Word by word; what an all-reduce does.
  void add(const ExactSum& other);
  // The same sum in limbs below 2^32, so that adding it to another counts as one addition to each.
  void carry();

  // The sum, rounded once to the nearest double, ties to even (infinite when it is beyond the range; NaN when a value
  // was not finite). +0 for an empty sum.
  double value() const;
  int64_t non_finite() const { return words[kLimbs]; }

 private:
  void add(uint64_t integer, int exponent, int sign);
};
static_assert(std::is_trivially_copyable_v<ExactSum>);

}  // namespace ridgeline
