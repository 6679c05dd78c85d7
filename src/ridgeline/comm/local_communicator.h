// A communicator whose ranks share a host: every collective and message is done by reading and writing each other's
// buffers. One mechanism for threads and processes; only where a peer's buffer is found differs (Host::address_of).
//
// Collectives. Each rank writes a Header and arrives at the collective's Meeting; the last to arrive opens it. The work
// is cut into chunks that any waiting rank claims and does for everybody: a sum is read from all buffers and written to
// all, so all_reduce moves 2 n words per n of each rank and nothing is copied twice. Which rank does a chunk changes no
// bit. Buffers that peers cannot see pass through a bounded stage, in rounds: copy in, chunks, copy out.
//
// Messages. The sender publishes, the receiver copies; through a stage when the sender's buffer is not visible.
#pragma once

#include <string>
#include <vector>

#include "ridgeline/comm/rank_world.h"

namespace ridgeline::comm::detail {

class LocalCommunicator : public Communicator, public Engine {
 public:
  LocalCommunicator(RankWorld& world, std::span<const int> ranks, std::string_view name, uint64_t key);
  ~LocalCommunicator() override;
  LocalCommunicator(const LocalCommunicator&) = delete;
  LocalCommunicator& operator=(const LocalCommunicator&) = delete;

  int rank() const override { return me_; }
  int size() const override { return n_; }
  int world_rank(int member) const override { return ranks_[static_cast<size_t>(member)]; }

  void wait(Ticket ticket) override;

  bool progress() override;
  bool outstanding() const override { return completed_ < started_; }
  uint64_t completed() const override { return completed_; }
  int missing(std::span<int> ranks) const override;
  std::string waiting_in() const override;

 protected:
  Ticket start(const Request& request) override;

 private:
  // How a collective is cut; the same on every rank.
  struct Plan {
    int64_t length = 0;        // elements of a rank's part (or of the buffer where there is one part)
    int64_t round_length = 0;  // of those, handled in one round
    int64_t chunk_length = 0;  // of those, handled in one chunk
    int64_t rounds = 0;
    int64_t blocks = 1;  // independent pieces of `round_length` in a round: parts, or pairs of ranks
    uint64_t chunks_per_round = 0;
    uint64_t chunks = 0;
    bool staged = false;  // some rank's buffer passes through its stage
    bool streaming = false;
  };
  struct Collective {
    Header header;
    Ref first, second;  // this rank's buffers
    uint64_t ticket = 0;
    bool planned = false;
    int64_t round = 0;  // rounds this rank has finished
    Plan plan;
  };
  // One rank's buffer as a chunk sees it: staged or direct.
  struct View {
    std::byte* base;
    int64_t part_bytes;
    int64_t first;  // index of the element at base
    int64_t size;
    std::byte* at(int64_t part, int64_t i) const { return base + part * part_bytes + (i - first) * size; }
  };
  struct Incoming {
    Ref data;
    int64_t count = 0;
    int peer = 0;
    uint64_t key = 0;
    uint64_t ticket = 0;
    Message* message = nullptr;  // once found
    bool done = false;
    char label[40] = {};
  };
  struct Outgoing {
    const std::byte* data = nullptr;
    uint64_t ticket = 0;
    int peer = 0;
  };
  struct Outstanding {
    RequestKind kind;
    int32_t remaining;  // messages, or 1 for a collective
    int32_t segment;
    int64_t step;
    char label[40];
  };
  static constexpr uint64_t kTickets = 512;

  // collectives (local_collective.cpp)
  Ticket start_collective(const Request& request);
  bool progress_collective();
  void verify(const Collective& collective);
  Plan make_plan(const Collective& collective) const;
  bool do_chunks(Collective& collective, Meeting& meeting);
  void do_chunk(const Collective& collective, uint64_t chunk);
  void do_reduce(const Collective& collective, int64_t round, int64_t part, int64_t begin, int64_t count);
  void do_copy(const Collective& collective, int64_t round, int64_t block, int64_t begin, int64_t count);
  void retire(uint64_t number);
  bool everyone_retired(uint64_t number) const;
  View view(const Collective& collective, int member, bool second, int64_t round) const;
  void copy_staged(const Collective& collective, int64_t round, bool in);
  void make_ready(Collective& collective, Meeting& meeting);
  // messages (local_exchange.cpp)
  Ticket start_exchange(const Request& request);
  void publish(const Send& send, uint64_t ticket, const Label& label);
  bool progress_messages();
  bool receive(Incoming& incoming);
  bool send_staged(uint64_t number);
  void check_message(const Incoming& incoming) const;
  // both
  uint64_t new_ticket(RequestKind kind, int32_t remaining, const Label& label);
  void finish(uint64_t ticket);
  void ring_members() const;
  void ring(int member) const { world_.host().ring(locals_[static_cast<size_t>(member)]); }
  Outstanding& outstanding_at(uint64_t ticket) { return tickets_[ticket % kTickets]; }
  const Outstanding& outstanding_at(uint64_t ticket) const { return tickets_[ticket % kTickets]; }
  std::string on_this() const;  // " on communicator 'data'"

  RankWorld& world_;
  std::vector<int> ranks_, locals_;  // of each member: world rank, rank on the host
  std::vector<int> sum_groups_;      // sizes of the runs of the declared order
  std::string name_;
  int n_ = 0, me_ = 0;
  uint64_t board_offset_ = 0;
  Board board_;

  uint64_t started_ = 0, completed_ = 0;  // tickets
  std::vector<Outstanding> tickets_;
  uint64_t collectives_begin_ = 0, collectives_end_ = 0;
  std::vector<Collective> collectives_;    // [number % kSlots]
  std::vector<uint64_t> sent_, received_;  // messages so far, per peer
  uint64_t incoming_begin_ = 0, incoming_end_ = 0;
  std::vector<Incoming> incoming_;
  std::vector<Outgoing> outgoing_;
  uint32_t stages_used_ = 0;  // bit per message stage
  std::vector<const void*> sources_;
  std::vector<void*> outputs_;
};

}  // namespace ridgeline::comm::detail
