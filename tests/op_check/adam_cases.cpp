#include <fmt/format.h>

#include <cmath>

#include "case.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/adam.h"

namespace ridgeline::op_check {
namespace {

using Doubles = std::vector<double>;

struct Form {
  bool decoupled, zero_gradient, copy;
  float weight_decay;
};

// Ten steps with changing gradients, as the header's formula says, in double.
void check(Stream& stream, Report& report, DType gradient_dtype, int64_t count, Form form) {
  ops::Adam settings;
  settings.weight_decay = form.weight_decay;
  settings.decoupled = form.decoupled;
  settings.zero_gradient = form.zero_gradient;
  Tensor master = Tensor::random(DType::f32, count, 1), m(DType::f32, count), v(DType::f32, count);
  Tensor copy(DType::bf16, count);
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
  report.compare("copy", copy, form.copy ? Tensor(DType::bf16, master.values()).values() : Doubles(p.size()), 0.0);
}

}  // namespace

void add_adam_cases(std::vector<Case>& cases) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const int64_t count : {1, 61, 20001}) {
      for (const Form form :
           {Form{true, true, true, 0.1F}, Form{true, false, false, 0.0F}, Form{false, true, true, 0.1F}}) {
        cases.push_back({"adam", dtype,
                         fmt::format("count={} {} decay={} zero={}", count, form.decoupled ? "AdamW" : "L2",
                                     form.weight_decay, form.zero_gradient),
                         [=](Stream& stream, Report& report) { check(stream, report, dtype, count, form); }});
      }
    }
  }
}

}  // namespace ridgeline::op_check
