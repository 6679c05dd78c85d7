// What to change when a run does not fit into memory: found by planning the alternatives.
#pragma once

#include <string>

#include "ridgeline/device/machine.h"
#include "ridgeline/plan/memory_report.h"
#include "ridgeline/train/config.h"

namespace ridgeline::train {

// What a run takes: the report of the very inventory that training allocates, of the rank that takes most. `config`
// passes check().
plan::MemoryReport memory_report(const Config& config, const device::Machine& machine, const comm::Mesh& mesh);

// What most of that memory is for, and the keys that ask for it: "most of it, 900.00 GiB, is optimizer:
// optimizer.offload_buffer = 900000000000, model.layers = 12, ...".
std::string most_of_it(const Config& config, const plan::MemoryReport& report);

// The nearest change to `config` with which it fits `limit`, as a sentence for an error: a single key where one is
// enough, dearest last (more sharding, reducing every micro-batch, recompute, smaller micro-batches, offload to a file,
// fewer bits), else
// the shortest sequence of these, each at its strongest. Where nothing fits, the least that they lead to. Pure.
std::string nearest_remedy(const Config& config, const device::Machine& machine, const comm::Mesh& mesh,
                           const plan::Limit& limit);

}  // namespace ridgeline::train
