// How the slices of a model meet when they are ranks.
#pragma once

#include "ridgeline/comm/communicator.h"
#include "ridgeline/model/slice.h"

namespace ridgeline::parallel {

// Complete on return. `slices` may be null where there is one slice: then nothing may be called.
class SliceCommunicator : public model::SliceGroup {
 public:
  explicit SliceCommunicator(comm::Communicator* slices) : slices_(slices) {}

  // Of which step: for messages.
  void begin(int64_t step) { step_ = step; }

  void sum(device::Stream& /*stream*/, Ref values, int64_t count) override {
    slices_->wait(slices_->all_reduce(values, count, comm::ReduceOp::sum, {"sum over slices", -1, step_}));
  }
  void sum_parts(device::Stream& /*stream*/, Ref all, int64_t count) override {
    slices_->wait(slices_->reduce_scatter(all, count, comm::ReduceOp::sum, {"sum of parts over slices", -1, step_}));
  }
  void gather(device::Stream& /*stream*/, Ref all, int64_t count) override {
    slices_->wait(slices_->all_gather(all, count, {"parts of all slices", -1, step_}));
  }

 private:
  comm::Communicator* slices_;
  int64_t step_ = -1;
};

}  // namespace ridgeline::parallel
