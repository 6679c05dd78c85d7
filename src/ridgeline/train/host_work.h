// What the processes of a host need not do each for itself when a run starts.
#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "ridgeline/comm/communicator.h"
#include "ridgeline/train/agreement.h"

namespace ridgeline::train {

// Those on this rank's host, ascending.
std::vector<int> ranks_of_own_host(const comm::World& world);

// What may take longer than the timeout, and what is to be agreed on when it is done. It runs on a thread of its own;
// where it can, it ends with an Error soon after `stop` is set: then another rank has failed.
using LongWork = std::function<std::vector<Fact>(const std::atomic<bool>& stop)>;
// Collective over `ranks`, a communicator of `world`. All meet about once a second until the work of each (null: it has
// none) is done. Returns what became of this rank's.
Standing meet_until_done(const comm::World& world, comm::Communicator& ranks, const comm::Label& label,
                         const LongWork& work);
// The same over all of the world, which then agrees on it.
void agree_when_done(comm::World& world, const comm::Label& label, const LongWork& work);

// A value that follows from files alone.
struct Reading {
  std::string of;  // which files, and what of them: the same text in two processes of a host, the same value
  std::function<std::string()> read;
};

// Collective over the world, whatever each rank has to read. The values of `readings`, in their order; each is read by
// one of those processes of a host that want it, and they share the work. None where that one failed: who needs the
// value reads it and sees why.
std::vector<std::optional<std::string>> read_once(comm::World& world, std::span<const Reading> readings);

}  // namespace ridgeline::train
