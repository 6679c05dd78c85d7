// What every communicator must do, whatever carries it: one list of cases for all backends. A case runs on every rank
// of a world and throws when something is wrong.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "ridgeline/comm/communicator.h"

namespace ridgeline::comm::conformance {

struct Case {
  std::string name;
  std::function<void(World&)> run;
};

// Cases that succeed; all of them may run in one world, in order.
std::vector<Case> cases();

// Cases that end a world: what each must throw is matched by `expected` (all pieces in the message, on every rank).
struct FailureCase {
  std::string name;
  int timeout_milliseconds;
  std::function<void(World&)> run;
  std::vector<std::string> expected;
};
std::vector<FailureCase> failure_cases();

}  // namespace ridgeline::comm::conformance
