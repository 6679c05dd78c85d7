// Learning rates as pure functions of the step, so that a resumed run, another layout and the planner see the same one.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ridgeline::optim {

// What follows the warm-up. More kinds (by samples, or as other trainers count) are added here and in the table of
// learning_rate.cpp.
enum class Decay { constant, linear, cosine };

// "constant", "linear", "cosine".
std::string_view name_of(Decay decay);
// Error that lists the names (and the nearest one) for any other.
Decay decay_of_name(std::string_view name);
std::vector<std::string> decay_names();

struct Schedule {
  Decay decay = Decay::cosine;
  double learning_rate = 0.0;      // the peak
  double min_learning_rate = 0.0;  // at the last step; not used by constant
  int64_t warmup_steps = 0;        // W
  int64_t steps = 0;               // N, of the whole run
};

// The learning rate of optimizer step s = 1 … N:
//   s <= W            learning_rate * s / W
//   s >  W, with p = (s - W) / (N - W):
//     constant        learning_rate
//     linear          min + (learning_rate - min) * (1 - p)
//     cosine          min + (learning_rate - min) * (1 + cos(pi p)) / 2     (Loshchilov, Hutter, "SGDR", 2017)
//   s >= N > W        min, exactly (constant: learning_rate)
// so that the peak is reached at step W, the minimum at step N. In double; s >= 1, W < N.
double learning_rate(const Schedule& schedule, int64_t step);

}  // namespace ridgeline::optim
