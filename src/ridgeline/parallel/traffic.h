// What a program sends: for plans and benchmarks. Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "ridgeline/model/declarations.h"
#include "ridgeline/parallel/program.h"

namespace ridgeline::parallel {

struct Traffic {
  int64_t transfers = 0;  // operations between ranks
  int64_t bytes = 0;      // that a rank sends at the least (comm::Link says how each collective counts)

  Traffic& operator+=(const Traffic& other) {
    transfers += other.transfers;
    bytes += other.bytes;
    return *this;
  }
  bool operator==(const Traffic&) const = default;
};

// Of one operation; none where its group has one rank. `message_bytes`: of a micro-batch's residual stream, which
// stages exchange.
Traffic traffic_of(const Op& op, const std::vector<model::Segment>& segments, const Sharding& sharding,
                   int64_t message_bytes = 0);

// Of a whole program that follows an update (gathers of weights that lie whole on every rank happen after an update
// only).
Traffic traffic_of(const Program& program, const std::vector<model::Segment>& segments, const Sharding& sharding,
                   int64_t message_bytes = 0);

}  // namespace ridgeline::parallel
