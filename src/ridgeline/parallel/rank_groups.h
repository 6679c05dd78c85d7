// The communicators of a rank: one per group of ranks and stream.
#pragma once

#include <map>
#include <memory>

#include "ridgeline/comm/communicator.h"
#include "ridgeline/parallel/inventory.h"

namespace ridgeline::parallel {

// Made once, since a world never takes their memory back. Collective over the world, which must outlive them.
struct RankGroups {
  RankGroups(comm::World& world, const RunShape& run);

  // Ranks with the same part of the model.
  comm::Communicator& data() const { return data_ ? *data_ : *ranks; }
  // The slices of this rank's model; null where it is one.
  comm::Communicator* slices() const { return slices_.empty() ? nullptr : slices_.rbegin()->second.get(); }
  // Of them those that hold the same of what `copies` neighbours hold.
  comm::Communicator& copies(int copies) const { return *slices_.at(copies); }
  // The stages of this rank's pipeline, and the first and the last of them where they hold the same; else null.
  comm::Communicator* stages() const { return stages_.get(); }
  comm::Communicator* ends() const { return ends_.get(); }

  std::unique_ptr<comm::Communicator> ranks;           // all of the run
  std::unique_ptr<comm::Communicator> gather, reduce;  // of the shard group, one per stream
  std::unique_ptr<comm::Communicator> replicas;        // of this rank's shard

 private:
  std::map<int, std::unique_ptr<comm::Communicator>> slices_;  // by their number
  std::unique_ptr<comm::Communicator> stages_, ends_;
  std::unique_ptr<comm::Communicator> data_;  // where these are not all ranks
};

}  // namespace ridgeline::parallel
