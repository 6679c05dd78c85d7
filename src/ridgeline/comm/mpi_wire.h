// A run whose processes an MPI launcher started. MPI is initialised and finalised here, and called nowhere else.
#pragma once

#include "ridgeline/comm/wire.h"

namespace ridgeline::comm::detail {

class MpiWire : public Wire {
 public:
  // Initialises MPI, which can be done once in a process. Does not finalise it: leave() does, since after a failure MPI
  // would wait for ranks that are gone.
  MpiWire();
  const char* name() const override { return "mpi"; }
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void all_gather(const void* own, void* all, int64_t bytes) override;
  void broadcast(void* data, int64_t bytes, int root) override;
  std::unique_ptr<Channel> channel(std::span<const int> ranks, uint64_t key) override;
  // A process that hangs in MPI_Finalize leaves with the exit status after 5 s.
  void leave(const std::function<int()>& exit_status) override;

 private:
  int rank_ = 0, size_ = 0;
};

}  // namespace ridgeline::comm::detail
