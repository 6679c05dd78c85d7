// What was measured between the hosts of a run, for people.
#pragma once

#include <string>

#include "ridgeline/comm/link_check.h"

namespace ridgeline::cli {

// The links that are slow, a line each; "" when none is.
std::string slow_links_text(const comm::LinkReport& report);

// All of it: a line per host, slowest first and at most kHostsShown, then the links that are slow.
std::string links_text(const comm::LinkReport& report);
constexpr int kHostsShown = 32;

}  // namespace ridgeline::cli
