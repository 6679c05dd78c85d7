// A run whose processes an MPI launcher started. MPI is initialised and finalised here, and called nowhere else.
#pragma once

#include <memory>

#include "ridgeline/comm/start_limit.h"
#include "ridgeline/comm/wire.h"

namespace ridgeline::comm::detail {

class MpiWire : public Wire {
 public:
  // Initialises MPI, which can be done once in a process. Does not finalise it: leave() does, since after a failure MPI
  // would wait for ranks that are gone. Until watched() a StartLimit of the timeout, 10 s at the least, counts.
  explicit MpiWire(const WorldOptions& options);
  const char* name() const override { return "mpi"; }
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void all_gather(const void* own, void* all, int64_t bytes) override;
  void broadcast(void* data, int64_t bytes, int root) override;
  std::unique_ptr<Channel> channel(std::span<const int> ranks, uint64_t key) override;
  void watched() override;
  // A process that hangs in MPI_Finalize leaves with the exit status after 5 s.
  void leave(const std::function<int()>& exit_status) override;

 private:
  int rank_ = 0, size_ = 0;
  std::unique_ptr<StartLimit> start_limit_;
};

}  // namespace ridgeline::comm::detail
