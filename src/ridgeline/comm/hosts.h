// How the processes of a run find out who shares a host, and how their hosts find each other. All of it is collective
// over the ranks of a wire.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ridgeline/base/error.h"
#include "ridgeline/comm/control_links.h"
#include "ridgeline/comm/host.h"
#include "ridgeline/comm/wire.h"

namespace ridgeline::comm::detail {

struct Hosts {
  std::string name;                     // of this process's host
  std::vector<std::string> names;       // of all, in the order of their first ranks
  std::vector<std::vector<int>> ranks;  // of each host, ascending
  std::vector<int32_t> processes;       // of every rank, on its host
  int own = 0;                          // number of this process's host
  int processors = 0;                   // that its ranks may use together
  int ranks_on_processors = 0;          // how many of them may use one of this process's
  bool pretended = false;               // tests cut one machine into hosts by RIDGELINE_RANKS_PER_HOST
};
// `processors`: numbers of those that this process may use.
Hosts find_hosts(Wire& wire, const std::vector<int>& processors);

// The lowest rank with a problem, -1 when there is none.
int first_with_problem(Wire& wire, bool problem);

// When a rank has a problem the world fails with that of the lowest, which is announced on its host, and every rank
// throws it.
void agree(Wire& wire, const Host& host, const Hosts& hosts, const std::optional<Error>& problem);

// RIDGELINE_INTERFACE in the environment: the network interface by which hosts reach each other, "" for any.
std::string chosen_interface();

// What the watchers of all hosts need to connect. `listener` of a host's first rank, null in the others.
ControlSetup control_setup(Wire& wire, const Hosts& hosts, const WorldOptions& options,
                           const ControlListener* listener);

}  // namespace ridgeline::comm::detail
