// A communicator whose ranks lie on several hosts: messages through MPI, sums by us. Every rank owns a slice of each
// round and receives its peers' parts of that slice as they are; so the declared order holds whatever the hosts are,
// and no reduction is left to MPI. Operations go one after the other; large ones go in rounds of bounded size.
//
// All MPI calls are made by the rank's own thread, while it waits (on any communicator).
#pragma once

#include <array>
#include <string>
#include <vector>

#include "ridgeline/comm/rank_world.h"

namespace ridgeline::comm::detail {

class WideCommunicator : public Communicator, public Engine {
 public:
  WideCommunicator(RankWorld& world, std::span<const int> ranks, std::string_view name, uint64_t key);
  ~WideCommunicator() override;
  WideCommunicator(const WideCommunicator&) = delete;
  WideCommunicator& operator=(const WideCommunicator&) = delete;

  int rank() const override { return me_; }
  int size() const override { return n_; }
  int world_rank(int member) const override { return ranks_[static_cast<size_t>(member)]; }
  bool travels() const override { return true; }

  void wait(Ticket ticket) override;

  bool progress() override;
  bool outstanding() const override { return completed_ < started_; }
  uint64_t completed() const override { return completed_; }
  int missing(std::span<int> ranks) const override;
  std::string waiting_in() const override;

 protected:
  Ticket start(const Request& request) override;

 private:
  static constexpr uint64_t kOutstanding = 256;
  static constexpr int64_t kScratchBytes = 4 << 20;

  // One end of a message of an exchange. A greeting is what peers tell each other before an operation or a message.
  struct End {
    std::byte* data;
    Terms greeting;
    int peer;
    bool sends;
  };
  struct Operation {
    Terms greeting;
    Ref first, second;
    uint64_t ends_begin = 0, ends_end = 0;  // of an exchange
  };
  enum class Phase { idle, greet, gather, spread };

  struct Requests;  // MPI requests, out of sight

  void take_ends(const Request& request);  // of an exchange; there is room for them
  Operation& operation(uint64_t ticket) { return operations_[ticket % kOutstanding]; }
  const Operation& operation(uint64_t ticket) const { return operations_[ticket % kOutstanding]; }
  // Each enters a phase of the oldest operation: posts its messages.
  void enter_greet();
  void enter_gather();
  void enter_spread();
  void next_round();
  void advance();  // the phase's messages are all there
  void check_greetings();
  void reduce_round();
  void finish();
  void post(bool send, void* data, int64_t bytes, int peer, int tag);
  void post_send(void* data, int64_t bytes, int peer);
  void post_receive(void* data, int64_t bytes, int peer);
  void post_ends();
  bool all_there();
  void withdraw();  // what is posted and has not arrived
  [[noreturn]] void undeliverable(int code);

  RankWorld& world_;
  std::vector<int> ranks_, sum_groups_;
  std::string name_;
  int n_ = 0, me_ = 0;
  uint64_t board_offset_ = 0;
  std::vector<Operation> operations_;
  uint64_t started_ = 0, completed_ = 0;
  std::vector<End> ends_;  // ring
  uint64_t ends_count_ = 0;

  Phase phase_ = Phase::idle;
  int64_t round_ = 0, begin_ = 0, length_ = 0;  // of the oldest operation: elements of a slice handled now
  std::vector<Terms> greetings_;                // by member, or by end of the exchange
  std::vector<std::byte> scratch_;
  std::vector<const void*> sources_;
  std::unique_ptr<Requests> requests_;
};

}  // namespace ridgeline::comm::detail
