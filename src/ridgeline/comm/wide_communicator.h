// A communicator whose ranks lie on several hosts: messages through a Channel between hosts, shared memory within each,
// sums by us. Operations go one after the other; large ones go in rounds of bounded size. Every rank owns a slice of
// each round:
//   ready   ranks of a host (neighbours) can read each other's buffers; those that they cannot see are staged
//   gather  a slice's owner receives what every other host has for it: the sums of its sum groups where these lie on
//           hosts, else its members' values; and adds in the declared order. No reduction is left to a library.
//   spread  the owner sends its slice to one rank of every other host, its partner there
//   share   neighbours read from each other what they own and what they received
//   leave   nobody reads a neighbour's buffer any more
// So each byte passes a host's link once per phase, and the senders of a host have an equal part of it. Neighbours only
// read each other's memory, which stays mapped: whoever fails may leave at once. all_to_all and barrier need no
// neighbours: every pair of ranks has messages of its own.
//
// All calls of the channel are made by the rank's own thread, while it waits (on any communicator).
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "ridgeline/comm/host_layout.h"
#include "ridgeline/comm/rank_world.h"
#include "ridgeline/comm/wire.h"

namespace ridgeline::comm::detail {

class WideCommunicator : public Communicator, public Engine {
 public:
  // `hosts`: a number for the host of each of `ranks`.
  WideCommunicator(RankWorld& world, std::unique_ptr<Channel> channel, std::span<const int> ranks,
                   std::span<const int> hosts, std::string_view name, uint64_t key);
  ~WideCommunicator() override;
  WideCommunicator(const WideCommunicator&) = delete;
  WideCommunicator& operator=(const WideCommunicator&) = delete;

  int rank() const override { return me_; }
  int size() const override { return n_; }
  int world_rank(int member) const override { return ranks_[static_cast<size_t>(member)]; }
  bool travels() const override { return true; }
  int64_t sent_to_other_hosts() const override { return sent_; }

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
  static constexpr int64_t kScratchBytes = 4 << 20;  // this rank's own
  static constexpr int64_t kStageBytes = 4 << 20;    // of each rank that has neighbours

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
  enum class Phase { idle, greet, ready, gather, spread, share, leave };
  // A member as the others of its host see it. `place` may be written while no neighbour is between ready and leave.
  struct alignas(64) Neighbour {
    std::atomic<uint64_t> step;  // how often it has arrived
    BufferPlace place;           // of its buffer in the oldest operation
  };
  // Of a member, in the round: elements of the buffer.
  struct Slice {
    int64_t at, length;
  };

  void make_board(uint64_t key);
  void take_ends(const Request& request);  // of an exchange; there is room for them
  Operation& operation(uint64_t ticket) { return operations_[ticket % kOutstanding]; }
  const Operation& operation(uint64_t ticket) const { return operations_[ticket % kOutstanding]; }
  const Operation& oldest() const { return operation(completed_ + 1); }
  void enter_greet();
  void check_greetings();
  void check_messages();
  void advance();  // the phase's messages and neighbours are all there
  void finish();
  void post(bool send, void* data, int64_t bytes, int peer, int tag);
  void post_send(void* data, int64_t bytes, int peer);
  void post_receive(void* data, int64_t bytes, int peer);
  void post_ends();
  bool all_there(bool& moved);
  Channel::Progress progress_of_messages();
  [[noreturn]] void undeliverable(const Undeliverable& error);

  // rounds of the oldest operation (wide_collective.cpp)
  void begin_rounds();
  void next_round();
  void advance_round();
  int64_t round_length() const;
  void enter_ready();
  void enter_gather();
  void gather_from_root();
  void reduce_slice();
  void enter_spread();
  void post_parts();  // of an all_to_all
  void enter_share();
  void enter(Phase phase);
  void read_neighbours();
  Slice slice(int owner) const;
  int64_t element_bytes() const { return size_of(oldest().greeting.dtype); }
  std::byte* own(int owner) const;                // this rank's copy of the slice
  std::byte* view(int member, int owner) const;   // a neighbour's
  std::byte* stage(int member, int owner) const;  // where it lies when the buffer cannot be seen
  void fill_stage(bool every_slice);
  void* scratch_slot(int slot) const;
  void* sum_here(const Summand& summand, int owner, int slot);
  bool is_partner_of(int owner) const { return layout_.partner(host_, owner) == me_; }
  Neighbour& neighbour(int member) const;
  void arrive();  // tells the neighbours that this rank has come to the end of a phase
  bool neighbours_there() const;

  RankWorld& world_;
  std::unique_ptr<Channel> channel_;
  std::vector<int> ranks_;
  HostLayout layout_;
  std::string name_;
  int n_ = 0, me_ = 0, host_ = 0;  // host_: of this rank, in layout_
  uint64_t board_offset_ = 0;
  std::vector<Operation> operations_;
  uint64_t started_ = 0, completed_ = 0;
  std::vector<End> ends_;  // ring
  uint64_t ends_count_ = 0;
  int64_t sent_ = 0;

  Phase phase_ = Phase::idle;
  int64_t round_ = 0, begin_ = 0, length_ = 0;  // of the oldest operation: elements of a slice handled now
  uint64_t step_ = 0;                           // how often this rank has arrived
  std::vector<Terms> greetings_;                // by member, or by end of the exchange; kNotThere before they arrive
  std::unique_ptr<std::byte[]> scratch_;
  std::vector<const void*> sources_, parts_;  // of the owned slice, by summand; of one summand, by member
};

}  // namespace ridgeline::comm::detail
