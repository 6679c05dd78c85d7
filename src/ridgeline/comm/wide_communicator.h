// A communicator whose ranks lie on several hosts: messages through a Channel between hosts, shared memory within each,
// sums by us. Operations are cut into pieces, of which several are under way at once, also those of operations that
// follow each other: while one is summed or shared others are on the link, both ways. Every rank owns a slice of each
// piece:
//   enter   it can read the buffers of its host's other ranks (neighbours); what they cannot see is staged
//   gather  a slice's owner receives what every other host has for it: the sums of its sum groups where these lie on
//           hosts, else its members' values; and adds in the declared order. No reduction is left to a library.
//   spread  the owner sends its slice to one rank of every other host, its partner there
//   share   neighbours read from each other what they own and what they received
// So each byte passes a host's link once per phase, and the senders of a host have an equal part of it. Neighbours only
// read each other's memory, which stays mapped: whoever fails may leave at once. A neighbour's slice is read by its
// partner alone until the partner has passed it on, and written by the neighbour after that: so pieces wait for no
// neighbour but where they read. all_to_all and barrier need no neighbours: every pair of ranks has messages of its
// own.
//
// Pieces take every step in ascending order, and each phase has a tag of its own: so messages under a tag come in one
// order, whatever else is ready sooner on one rank than on another. An exchange has the communicator for itself: it
// begins when all before it is complete, and what follows it waits.
//
// All calls of the channel are made by the rank's own thread, while it starts an operation or waits (on any
// communicator).
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
  static constexpr uint64_t kAhead = 8;               // operations that are announced while older ones go on
  static constexpr uint64_t kPieces = 4;              // under way
  static constexpr int64_t kPieceBytes = 1 << 20;     // of a piece: all of its slices; this rank's scratch
  static constexpr int64_t kLeastMessage = 64 << 10;  // bytes: shorter ones only where there is no more
  // Of announcements, of each phase, and of an exchange: the k-th message to a peer is its k-th there, however the two
  // ranks group their messages into exchanges.
  enum Tag { kGreetingTag, kGatherTag, kSpreadTag, kMessageTag };

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
    uint64_t pieces_end = 0;                // number after its last piece, once it has begun
    Batch messages;                         // greetings; of an exchange all
  };
  // `length` elements from `begin` of every part; where there are no parts, as many for each member from `begin` of the
  // buffer.
  struct Piece {
    const Operation* operation = nullptr;
    uint64_t number = 0;
    int64_t begin = 0, length = 0;
    Batch messages;                    // of the phase that it is in
    std::vector<const void*> sources;  // of the owned slice, by summand
  };
  // How many pieces have come past a step. A neighbour's tell what may be read of it.
  enum Step { entered, complete, left, kSteps };
  // A member as the others of its host see it. `places` are of its buffer, in the pieces under way.
  struct alignas(64) Neighbour {
    std::atomic<uint64_t> steps[kSteps];
    BufferPlace places[kPieces];
  };
  // Of a member, in a piece: elements of the buffer.
  struct Slice {
    int64_t at, length;
  };

  void make_board(uint64_t key);
  void take_ends(const Request& request);  // of an exchange; there is room for them
  Operation& operation(uint64_t ticket) { return operations_[ticket % kOutstanding]; }
  const Operation& operation(uint64_t ticket) const { return operations_[ticket % kOutstanding]; }
  // Each does one thing if it can be done now: announces the next operation, cuts it into pieces, ends the oldest.
  bool announce();
  bool begin();
  bool finish();
  bool is_exchange(uint64_t ticket) const { return operation(ticket).greeting.kind == RequestKind::exchange; }
  bool overlaps_outstanding(const Operation& later) const;
  std::span<Terms> greetings(uint64_t ticket);  // what the others announce, by member
  void check_greetings(uint64_t ticket);
  void check_messages();  // of the exchange that has the communicator
  std::string text_of(uint64_t ticket) const;
  void post(bool send, void* data, int64_t bytes, int peer, Tag tag, Batch& batch);
  void post_ends();
  void post_send(Piece& piece, void* data, int64_t bytes, int peer, Tag tag);
  void post_receive(Piece& piece, void* data, int64_t bytes, int peer, Tag tag);
  [[noreturn]] void undeliverable(const Undeliverable& error);

  // pieces (wide_collective.cpp)
  int64_t piece_length(const Terms& terms) const;
  int64_t piece_elements(const Terms& terms) const;  // of the buffer, or of each part
  uint64_t piece_count(const Terms& terms) const;
  Piece& piece(uint64_t number) { return pieces_[number % kPieces]; }
  // Each takes the next piece one step further, if it can be done now.
  bool enter();
  bool gather();
  bool spread();
  bool complete_spread();
  bool share();
  bool finished(const Operation& one) const;
  bool shares(const Piece& piece) const;
  void gather_summands(Piece& piece);
  void gather_from_root(Piece& piece);
  void reduce_slice(const Piece& piece);
  void post_slices(Piece& piece);
  void post_parts(Piece& piece);  // of an all_to_all
  void read_neighbours(const Piece& piece);
  Slice slice(const Piece& piece, int owner) const;
  std::byte* own(const Piece& piece, int owner) const;                // this rank's copy of the slice
  std::byte* view(const Piece& piece, int member, int owner) const;   // a neighbour's
  std::byte* stage(const Piece& piece, int member, int owner) const;  // where it lies when the buffer cannot be seen
  void fill_stage(const Piece& piece, bool every_slice);
  void* scratch_slot(const Piece& piece, int slot) const;
  void* sum_here(const Piece& piece, const Summand& summand, int owner, int slot);
  bool is_partner_of(int owner) const { return layout_.partner(host_, owner) == me_; }
  Neighbour& neighbour(int member) const;
  void arrive(Step step);                        // one piece more of this rank has come past it
  bool all_past(Step step, uint64_t end) const;  // all pieces before `end`, of every neighbour

  RankWorld& world_;
  std::unique_ptr<Channel> channel_;
  std::vector<int> ranks_;
  HostLayout layout_;
  std::string name_;
  int n_ = 0, me_ = 0, host_ = 0;  // host_: of this rank, in layout_
  uint64_t board_offset_ = 0;
  std::vector<Operation> operations_;
  // Tickets: given out, announced, cut into pieces or posted, done.
  uint64_t started_ = 0, announced_ = 0, begun_ = 0, completed_ = 0;
  std::vector<End> ends_;  // ring
  uint64_t ends_count_ = 0;
  int64_t sent_ = 0;

  std::vector<Terms> greetings_;          // kAhead times by member; kNotThere before they arrive
  std::vector<Terms> message_greetings_;  // by end of the exchange
  Piece pieces_[kPieces];
  // Pieces: cut, then past each step; entered, complete and left are this rank's as a neighbour. entering_: the
  // operation of the next one that enters.
  uint64_t cut_ = 0, gathering_ = 0, spreading_ = 0, steps_[kSteps] = {}, entering_ = 1;
  std::unique_ptr<std::byte[]> scratch_;
  std::vector<const void*> parts_;  // of one summand, by member
};

}  // namespace ridgeline::comm::detail
