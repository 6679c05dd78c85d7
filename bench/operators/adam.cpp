#include "ridgeline/ops/adam.h"

#include <fmt/format.h>

#include <cmath>

#include "bench/operators/operator.h"
#include "ridgeline/base/random.h"
#include "ridgeline/device/cpu/worker_team.h"

namespace ridgeline::operators {
namespace {

using Doubles = std::vector<double>;

struct Form {
  bool decoupled, zero_gradient, copy;
  float weight_decay;
  DType copy_dtype = DType::bf16;
};

// Ten steps with changing gradients, as the header's formula says, in double.
void compare(Stream& stream, Report& report, DType gradient_dtype, int64_t count, Form form) {
  ops::Adam settings;
  settings.weight_decay = form.weight_decay;
  settings.decoupled = form.decoupled;
  settings.zero_gradient = form.zero_gradient;
  Tensor master = Tensor::random(DType::f32, count, 1), m(DType::f32, count), v(DType::f32, count);
  Tensor copy(form.copy_dtype, count);
  Doubles p = master.values(), first(p.size()), second(p.size());
  bool gradients_as_asked = true;
  for (int t = 1; t <= 10; ++t) {
    Tensor gradient = Tensor::random(gradient_dtype, count, 100 + t, 0.01);
    const Doubles g = gradient.values();
    ops::AdamScalars scalars;
    scalars.learning_rate = 1e-2F;
    scalars.gradient_scale = 0.75F;
    scalars.correction1 = static_cast<float>(1.0 - std::pow(0.9, t));
    scalars.correction2 = static_cast<float>(1.0 - std::pow(0.999, t));
    ops::adam(stream, count, settings, &scalars, master.as<float>(), gradient.ref(), m.as<float>(), v.as<float>(),
              form.copy ? copy.ref() : Ref());
    gradients_as_asked = gradients_as_asked && gradient.guards_intact() &&
                         gradient.values() == (form.zero_gradient ? Doubles(g.size()) : g);
    const double rate = 1e-2, decay = form.weight_decay;
    for (size_t i = 0; i < p.size(); ++i) {
      const double scaled = g[i] * 0.75 + (form.decoupled ? 0.0 : decay * p[i]);
      first[i] = 0.9 * first[i] + 0.1 * scaled;
      second[i] = 0.999 * second[i] + 0.001 * scaled * scaled;
      const double update =
          first[i] / (1.0 - std::pow(0.9, t)) / (std::sqrt(second[i] / (1.0 - std::pow(0.999, t))) + 1e-8);
      p[i] -= rate * (update + (form.decoupled ? decay * p[i] : 0.0));
    }
  }
  report.compare("master", master, p, 2e-6);
  report.compare("m", m, first, 2e-6);
  report.compare("v", v, second, 2e-6);
  report.require("gradient as asked", gradients_as_asked);
  // The working copy is the master, rounded once; without one, the buffer is untouched.
  report.compare("copy", copy, form.copy ? Tensor(form.copy_dtype, master.values()).values() : Doubles(p.size()), 0.0);
}

struct Dtypes {
  DType master, m, v, copy;
};

// Narrow states: each step against the formula in double from the values as they were stored before it.
void compare_narrow(Stream& stream, Report& report, DType gradient_dtype, int64_t count, bool decoupled,
                    Dtypes dtypes) {
  ops::Adam settings;
  settings.weight_decay = 0.1F;
  settings.decoupled = decoupled;
  settings.beta2 = 0.95;
  settings.rounding = {77, 12345};
  Tensor master = Tensor::random(dtypes.master, count, 1), m(dtypes.m, count), v(dtypes.v, count);
  Tensor copy(dtypes.copy, count);
  Doubles p(static_cast<size_t>(count)), first(p.size()), second(p.size());
  double bias = 0.0;
  constexpr int kSteps = 10;
  for (int t = 1; t <= kSteps; ++t) {
    Tensor gradient = Tensor::random(gradient_dtype, count, 100 + t, 0.01);
    const Doubles g = gradient.values(), p0 = master.values(), m0 = m.values(), v0 = v.values();
    ops::AdamScalars scalars;
    scalars.learning_rate = 1e-2F;
    scalars.correction1 = static_cast<float>(1.0 - std::pow(0.9, t));
    scalars.correction2 = static_cast<float>(1.0 - std::pow(0.95, t));
    scalars.rounding_key = random_key(5, t, Purpose::rounding);
    ops::adam(stream, count, settings, &scalars, master.ref(), gradient.ref(), m.ref(), v.ref(), copy.ref());
    const double decay = static_cast<double>(settings.weight_decay);
    const Doubles stored = master.values();
    for (size_t i = 0; i < p.size(); ++i) {
      const double scaled = g[i] + (decoupled ? 0.0 : decay * p0[i]);
      first[i] = 0.9 * m0[i] + 0.1 * scaled;
      second[i] = 0.95 * v0[i] + 0.05 * scaled * scaled;
      const double update =
          first[i] / (1.0 - std::pow(0.9, t)) / (std::sqrt(second[i] / (1.0 - std::pow(0.95, t))) + 1e-8);
      p[i] = p0[i] - 1e-2 * (update + (decoupled ? decay * p0[i] : 0.0));
      bias += (stored[i] - p[i]) / (kSteps * static_cast<double>(count));
    }
  }
  // Stochastic rounding errs by up to a whole unit in the last place, 2^-7 at worst.
  report.compare("master", master, p, dtypes.master == DType::bf16 ? 8e-3 : 2e-6);
  report.compare("m", m, first, tolerance(dtypes.m));
  report.compare("v", v, second, tolerance(dtypes.v));
  report.compare("copy", copy, Tensor(dtypes.copy, master.values()).values(), 0.0);
  // An element's error has a deviation below 2^-9 (half of the unit of values in [0.5, 1)); its mean falls with the
  // root of the number of roundings. Five deviations.
  report.require("unbiased", std::abs(bias) <= 5.0 * 0x1p-9 / std::sqrt(kSteps * static_cast<double>(count)));
}

void check_narrow(Checks& checks, DType gradient) {
  constexpr DType f = DType::f32, b = DType::bf16, h = DType::f16;
  for (const int64_t count : {1, 61, 20001}) {
    for (const Dtypes d : {Dtypes{b, f, f, b}, Dtypes{b, b, b, b}, Dtypes{f, b, b, h}, Dtypes{f, b, f, b},
                           Dtypes{f, f, b, b}, Dtypes{b, b, f, h}}) {
      for (const bool decoupled : {true, false}) {
        checks.add(
            gradient,
            fmt::format("count={} {} {}/{}/{} {}", count, decoupled ? "AdamW" : "L2", name_of(d.master), name_of(d.m),
                        name_of(d.v), name_of(d.copy)),
            [=](Stream& stream, Report& report) { compare_narrow(stream, report, gradient, count, decoupled, d); });
      }
    }
  }
}

void check_adam(Checks& checks) {
  for (const DType dtype : kStored) {
    for (const int64_t count : {1, 61, 20001}) {
      for (const Form form : {Form{true, true, true, 0.1F}, Form{true, false, false, 0.0F},
                              Form{false, true, true, 0.1F}, Form{true, true, true, 0.01F, DType::f16}}) {
        checks.add(dtype,
                   fmt::format("count={} {} decay={} zero={} {}", count, form.decoupled ? "AdamW" : "L2",
                               form.weight_decay, form.zero_gradient, name_of(form.copy_dtype)),
                   [=](Stream& stream, Report& report) { compare(stream, report, dtype, count, form); });
      }
    }
    check_narrow(checks, dtype);
  }
}

void measure_adam(Measurement& to) {
  Stream& stream = to.stream();
  const auto p = static_cast<double>(kParameters);
  float *const master = to.floats(kParameters), *const m = to.floats(kParameters), *const v = to.floats(kParameters);
  const Ref gradient(to.floats(kParameters)), copy = to.buffer(kParameters, DType::bf16);
  // Second moments must not be negative.
  for (int64_t i = 0; i < kParameters; ++i) v[i] = v[i] < 0 ? -v[i] : v[i];
  static const ops::AdamScalars scalars{.learning_rate = 1e-9F, .correction1 = 0.5F, .correction2 = 0.5F};
  const ops::Adam settings{.weight_decay = 0.1F, .zero_gradient = false};
  to.add("adamw", DType::f32, 0, 28 * p, [=, &stream] {
    ops::adam(stream, kParameters, settings, &scalars, master, gradient, m, v, Ref(nullptr, DType::bf16));
  });
  to.add("adamw_with_copy", DType::bf16, 0, 30 * p,
         [=, &stream] { ops::adam(stream, kParameters, settings, &scalars, master, gradient, m, v, copy); });
}

}  // namespace

void add_adam(std::vector<Operator>& list) {
  list.push_back({"adam", check_adam, measure_adam});
}

}  // namespace ridgeline::operators
