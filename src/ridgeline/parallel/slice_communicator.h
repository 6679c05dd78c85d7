// How the slices of a model meet when they are ranks.
#pragma once

#include <optional>

#include "ridgeline/comm/communicator.h"
#include "ridgeline/model/slice.h"

namespace ridgeline::parallel {

// Complete on return. `slices` may be null where there is one slice: then nothing may be called.
class SliceCommunicator : public model::SliceGroup {
 public:
  // `overlap` false: every sum is waited for where it starts.
  SliceCommunicator(comm::Communicator* slices, bool overlap) : slices_(slices), overlap_(overlap) {}

  // Of which step: for messages.
  void begin(int64_t step) { step_ = step; }

  bool travels() const override { return overlap_ && slices_ != nullptr && slices_->travels(); }
  void start_sum(device::Stream& stream, Ref values, int64_t count) override {
    started_ = slices_->all_reduce(values, count, comm::ReduceOp::sum, {"sum over slices", -1, step_});
    if (!overlap_) finish(stream);
  }
  void finish(device::Stream& /*stream*/) override {
    if (started_) slices_->wait(*started_);  // and for those before it
    started_.reset();
  }
  void sum_parts(device::Stream& /*stream*/, Ref all, int64_t count) override {
    slices_->wait(slices_->reduce_scatter(all, count, comm::ReduceOp::sum, {"sum of parts over slices", -1, step_}));
  }
  void gather(device::Stream& /*stream*/, Ref all, int64_t count) override {
    slices_->wait(slices_->all_gather(all, count, {"parts of all slices", -1, step_}));
  }

 private:
  comm::Communicator* slices_;
  const bool overlap_;
  std::optional<comm::Ticket> started_;  // the last
  int64_t step_ = -1;
};

}  // namespace ridgeline::parallel
