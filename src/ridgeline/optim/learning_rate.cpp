#include "ridgeline/optim/learning_rate.h"

#include <array>
#include <cmath>
#include <numbers>

#include "ridgeline/base/error.h"

namespace ridgeline::optim {
namespace {

// The part of (learning_rate - min) that is left at progress p in (0, 1).
double linear_remainder(double progress) {
  return 1.0 - progress;
}
double cosine_remainder(double progress) {
  return 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
}

struct Kind {
  Decay decay;
  std::string_view name;
  double (*remainder)(double progress);  // null: no decay
};
constexpr std::array<Kind, 3> kKinds = {{{Decay::constant, "constant", nullptr},
                                         {Decay::linear, "linear", linear_remainder},
                                         {Decay::cosine, "cosine", cosine_remainder}}};

const Kind& kind_of(Decay decay) {
  for (const Kind& kind : kKinds) {
    if (kind.decay == decay) return kind;
  }
  RL_REQUIRE(false, "no kind of decay has number {}", static_cast<int>(decay));
  return kKinds.front();
}

}  // namespace

std::string_view name_of(Decay decay) {
  return kind_of(decay).name;
}

std::vector<std::string> decay_names() {
  std::vector<std::string> names;
  for (const Kind& kind : kKinds) names.emplace_back(kind.name);
  return names;
}

Decay decay_of_name(std::string_view name) {
  for (const Kind& kind : kKinds) {
    if (kind.name == name) return kind.decay;
  }
  const std::string guess = nearest(name, decay_names());
  const std::string list = fmt::format("Schedules: {}.", fmt::join(decay_names(), ", "));
  throw Error(fmt::format("optimizer.schedule = \"{}\": no such schedule", name),
              guess.empty() ? list : fmt::format("Did you mean {}? {}", guess, list));
}

double learning_rate(const Schedule& schedule, int64_t step) {
  RL_CHECK(step, >=, 1);
  RL_CHECK(schedule.warmup_steps, <, schedule.steps);
  const double peak = schedule.learning_rate, low = schedule.min_learning_rate;
  if (step <= schedule.warmup_steps) {
    return peak * static_cast<double>(step) / static_cast<double>(schedule.warmup_steps);
  }
  const Kind& kind = kind_of(schedule.decay);
  if (kind.remainder == nullptr) return peak;
  if (step >= schedule.steps) return low;
  const double progress =
      static_cast<double>(step - schedule.warmup_steps) / static_cast<double>(schedule.steps - schedule.warmup_steps);
  return low + (peak - low) * kind.remainder(progress);
}

}  // namespace ridgeline::optim
