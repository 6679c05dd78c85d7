// How processes that share a preparation stay in touch while each does its own part. Internal to the room, and for what
// else they do before.
#pragma once

#include <chrono>

#include "ridgeline/data/prepare.h"

namespace ridgeline::data {

// While they work apart, all meet once a round (PrepareSharing::round). So a process that hangs keeps the others
// waiting for a round at the most before they wait in `add_up`, which says who is missing when its own time is over.
// Every process makes one for the same piece of work. Alone it does nothing.
class SharingRounds {
 public:
  // `sharing` must outlive it.
  explicit SharingRounds(const PrepareSharing& sharing);
  // Between pieces of this process's work; on the thread that calls add_up.
  void go_on();
  // Behind all of it: returns when all have come here.
  void finish();

 private:
  bool meet(bool working);  // whether anybody still works
  const PrepareSharing& sharing_;
  std::chrono::steady_clock::time_point next_;
};

}  // namespace ridgeline::data
