// A stream: an in-order queue of work on one device. Every op takes one. On the CPU a compute stream is the calling
// rank's thread with its worker team: an op has finished when its call returns. On a GPU an op has been enqueued.
#pragma once

namespace ridgeline::device {

class WorkerTeam;

enum class Kind { cpu, cuda, hip };

class Stream {
 public:
  // A CPU compute stream whose ops run on `team` (not owned, must outlive the stream).
  explicit Stream(WorkerTeam& team) : team_(&team) {}

  Kind kind() const { return Kind::cpu; }
  WorkerTeam& team() const { return *team_; }

 private:
  WorkerTeam* team_;
};

}  // namespace ridgeline::device
