#include "ridgeline/data/sharing_rounds.h"

namespace ridgeline::data {

using std::chrono::steady_clock;

SharingRounds::SharingRounds(const PrepareSharing& sharing)
    : sharing_(sharing), next_(steady_clock::now() + sharing.round) {}

bool SharingRounds::meet(bool working) {
  int64_t all = working ? 1 : 0;
  sharing_.add_up({&all, 1});
  next_ = steady_clock::now() + sharing_.round;
  return all > 0;
}

void SharingRounds::go_on() {
  if (sharing_.count > 1 && steady_clock::now() >= next_) meet(true);
}

void SharingRounds::finish() {
  while (sharing_.count > 1 && meet(false)) {
  }
}

}  // namespace ridgeline::data
