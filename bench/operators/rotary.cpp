#include "ridgeline/ops/rotary.h"

#include <fmt/format.h>

#include <cmath>

#include "bench/operators/operator.h"
#include "ridgeline/device/cpu/worker_team.h"

namespace ridgeline::operators {
namespace {

using Doubles = std::vector<double>;

struct RotarySizes {
  int64_t tokens, heads, head_width, rotary_width, stride;
  ops::RotaryPairing pairing;
};

// The pairs as the papers write them, with angles in double.
struct RotaryReference {
  RotarySizes s;
  std::vector<int32_t> positions;

  Doubles forward(std::span<const double> x, bool inverse) const {
    Doubles y(x.begin(), x.end());
    const bool interleaved = s.pairing == ops::RotaryPairing::interleaved;
    for (int64_t n = 0; n < s.tokens; ++n) {
      for (int64_t h = 0; h < s.heads; ++h) {
        for (int64_t i = 0; i < s.rotary_width / 2; ++i) {
          const double angle = (inverse ? -1.0 : 1.0) * positions[n] *
                               std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(s.rotary_width));
          const int64_t head = n * s.stride + h * s.head_width;
          const int64_t a = head + (interleaved ? 2 * i : i);
          const int64_t b = head + (interleaved ? 2 * i + 1 : i + s.rotary_width / 2);
          y[a] = x[a] * std::cos(angle) - x[b] * std::sin(angle);
          y[b] = x[b] * std::cos(angle) + x[a] * std::sin(angle);
        }
      }
    }
    return y;
  }
};

const char* name_of(ops::RotaryPairing pairing) {
  return pairing == ops::RotaryPairing::interleaved ? "interleaved" : "half_split";
}

void compare(Stream& stream, Report& report, DType dtype, const RotarySizes& s) {
  constexpr int32_t kPositions = 2048;
  const RotaryReference reference{s, random_integers(s.tokens, kPositions, 3)};
  std::vector<float> table(static_cast<size_t>(kPositions * s.rotary_width));
  ops::fill_rotary_table(kPositions, s.rotary_width, 10000.0, {}, table.data());
  ops::Rotary op{s.tokens,    s.heads, s.head_width, s.rotary_width, s.stride, s.pairing, reference.positions.data(),
                 table.data()};
  Tensor x = Tensor::random(dtype, s.tokens * s.stride, 1), d = Tensor::random(dtype, s.tokens * s.stride, 2);
  const Doubles xs = x.values(), ds = d.values(), dx = reference.forward(ds, true);
  ops::rotary(stream, op, x.ref());
  op.inverse = true;
  ops::rotary(stream, op, d.ref());
  report.compare("y", x, reference.forward(xs, false), tolerance(dtype));
  report.compare("dx", d, dx, tolerance(dtype));
  report.finite_differences(
      "dx", [&](auto at) { return dot(reference.forward(at, false), ds); }, xs, dx);
  // There and back: a rotation, up to two roundings.
  ops::rotary(stream, op, x.ref());
  report.compare("inverse", x, xs, tolerance(dtype));
}

void check_rotary(Checks& checks) {
  for (const DType dtype : kStored) {
    for (const auto pairing : {ops::RotaryPairing::interleaved, ops::RotaryPairing::half_split}) {
      for (const RotarySizes& s :
           {RotarySizes{1, 1, 2, 2, 2, pairing}, RotarySizes{5, 3, 10, 6, 41, pairing},
            RotarySizes{33, 4, 80, 62, 960, pairing}, RotarySizes{300, 2, 64, 64, 128, pairing}}) {
        checks.add(dtype,
                   fmt::format("N={} H={} D={} R={} stride={} {}", s.tokens, s.heads, s.head_width, s.rotary_width,
                               s.stride, name_of(pairing)),
                   [=](Stream& stream, Report& report) { compare(stream, report, dtype, s); });
      }
    }
  }
}

// Queries and keys of GPT-2's heads, side by side with the values; in place, again and again: a rotation.
void measure_rotary(Measurement& to) {
  float* const table = to.floats(kT * kD);
  ops::fill_rotary_table(kT, kD, 10000.0, {}, table);
  const int32_t* const positions = to.numbers(kN, kT);
  for (const auto pairing : {ops::RotaryPairing::interleaved, ops::RotaryPairing::half_split}) {
    const ops::Rotary shape{kN, 2 * kH, kD, kD, 3 * kC, pairing, positions, table};
    for (const DType dtype : kMeasured) {
      const Ref x = to.buffer(kN * 3 * kC, dtype);
      to.add(fmt::format("rotary_{}", name_of(pairing)), dtype, 0,
             2 * elements(kN, 2 * kC) * static_cast<double>(size_of(dtype)),
             [=, &stream = to.stream()] { ops::rotary(stream, shape, x); });
    }
  }
}

}  // namespace

void add_rotary(std::vector<Operator>& list) {
  list.push_back({"rotary", check_rotary, measure_rotary});
}

}  // namespace ridgeline::operators
