// A communicator behind a slow link (comm::Link): the inner one does the work, a timer says when it may be complete.
#pragma once

#include <array>
#include <chrono>
#include <memory>

#include "ridgeline/comm/communicator.h"

namespace ridgeline::comm::detail {

class RankWorld;

// One rank's link: when the transfers that were given to it are through. Used by the rank's thread alone.
class LinkClock {
 public:
  using Time = std::chrono::steady_clock::time_point;
  explicit LinkClock(const Link& link) : link_(link) {}

  const Link& link() const { return link_; }
  // Lines up a transfer that starts at `now`; when it ends.
  Time reserve(Time now, int64_t traffic);

 private:
  Link link_;
  Time free_{};
};

class ThrottledCommunicator : public Communicator {
 public:
  // `world` and `clock` outlive it.
  ThrottledCommunicator(RankWorld& world, LinkClock& clock, std::unique_ptr<Communicator> inner)
      : world_(world), clock_(clock), inner_(std::move(inner)) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  int world_rank(int member) const override { return inner_->world_rank(member); }
  bool travels() const override { return true; }
  int64_t sent_to_other_hosts() const override { return inner_->sent_to_other_hosts(); }

  // Sleeps until the transfer is through, then completes it. Throws the world's failure from its sleep too.
  void wait(Ticket ticket) override;

 protected:
  Ticket start(const Request& request) override;

 private:
  struct Deadline {
    uint64_t ticket = 0;
    LinkClock::Time time;
  };
  // At least as many as an inner communicator has outstanding tickets; an older one is complete.
  static constexpr size_t kDeadlines = 1024;

  RankWorld& world_;
  LinkClock& clock_;
  std::unique_ptr<Communicator> inner_;
  std::array<Deadline, kDeadlines> deadlines_{};
};

}  // namespace ridgeline::comm::detail
