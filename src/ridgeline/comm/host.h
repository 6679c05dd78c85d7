// The ranks of one host: their shared memory, how they wake each other, find each other's buffers, and fail together.
// One Host per process; for threads all ranks use the same one.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ridgeline/comm/board.h"
#include "ridgeline/comm/communicator.h"
#include "ridgeline/comm/failure.h"

namespace ridgeline::comm::detail {

struct HostSetup {
  std::byte* memory = nullptr;  // zeroed, shared by the host's ranks, not owned
  int64_t bytes = 0;
  std::vector<int> world_ranks;  // of the host's ranks, ascending
  int world_size = 0;
  bool processes = false;   // ranks are processes, not threads
  int64_t stage_bytes = 0;  // per rank and communicator, for buffers that peers cannot see
  std::string host_name;
  int hosts = 1;
  int processors = 0;           // that the host's ranks may use together
  int ranks_on_processors = 1;  // see World
  WorldOptions options;
};

class Host {
 public:
  explicit Host(HostSetup setup);

  static int64_t memory_bytes(int ranks, bool staged);  // to reserve; only what is used becomes resident

  int ranks() const { return static_cast<int>(setup_.world_ranks.size()); }
  int world_size() const { return setup_.world_size; }
  int world_rank(int local) const { return setup_.world_ranks[static_cast<size_t>(local)]; }
  int local_rank(int world_rank) const;  // -1 on another host
  bool processes() const { return setup_.processes; }
  int64_t stage_bytes() const { return setup_.stage_bytes; }
  const std::string& host_name() const { return setup_.host_name; }
  int hosts() const { return setup_.hosts; }
  int processors() const { return setup_.processors; }
  int ranks_on_processors() const { return setup_.ranks_on_processors; }
  const WorldOptions& options() const { return setup_.options; }
  HostBoard& board() const { return *reinterpret_cast<HostBoard*>(setup_.memory); }
  RankState& state(int local) const { return states_[local]; }
  std::byte* at(uint64_t offset) const { return setup_.memory + offset; }

  // Wakes a rank if it sleeps. What it waits for must have been changed before, with release order.
  void ring(int local) const;
  void ring_all() const;
  // Meets every rank of the host; only at start-up and in peer_visible. Throws on failure, and after the timeout, 10 s
  // at the least.
  void barrier(const char* what);

  // Offset of the board for `key`, made by whoever asks first; same key, same board.
  uint64_t find_board(uint64_t key, int64_t bytes);

  // Peer-visible memory of other processes, mapped here; nothing for threads.
  void add_region(int local, int region, std::byte* base, int64_t bytes);
  int next_region() const { return next_region_; }
  void region_added() { ++next_region_; }
  BufferPlace place_of(int local, const void* data, int64_t bytes) const;
  std::byte* address_of(int local, const BufferPlace& place) const;  // not for staged ones

  bool failed() const { return board().failure.state.load(std::memory_order_acquire) != 0; }
  // Records the first failure and wakes everybody; returns the failure that won. Between threads it is announced at
  // once, between processes that is left to the watcher, which knows of other hosts.
  Failure fail(const Failure& failure) const noexcept;
  // The failure on record is printed (on_failure) and written here, once.
  void announce() const noexcept;
  // It is another host's to announce: nobody prints it here.
  void keep_quiet() const noexcept;
  // Processes: returns when the failure has been announced, or needs not be. Without a watcher that says so, announces.
  void await_settled() const noexcept;

  // Processes: the end of a pipe that the watcher reads; not owned.
  void set_watcher(int file) { watcher_ = file; }
  bool watched() const { return watcher_ >= 0; }
  void ring_watcher() const;  // it looks at the ranks' states
  bool watcher_is_gone() const;
  // For a rank whose watcher is gone: makes the host fail. Neighbouring hosts name this one; where there are none, this
  // rank does.
  [[noreturn]] void fail_unwatched() const;
  // The failure on record, after failed().
  Failure failure() const;
  [[noreturn]] void throw_failure() const { throw RankFailure(failure(), false, false); }
  // Thrown out of run_threads and run_mpi: asks the first that comes here to print it, where there is no on_failure.
  [[noreturn]] void throw_to_program(bool leave_at_once) const;
  // After a failure: waits (at most the grace) until no rank touches peers' buffers, so that they may be freed.
  void quiesce(int local) const;
  // "all_reduce 'gradient' (segment 3, step 17) on communicator 'data'" of the rank's latest operation, "" for none.
  std::string position(int local) const;
  // The same of the last ones, and when they were started: steady clock in nanoseconds, ascending.
  struct StartedOperation {
    int64_t time;
    std::string text;
  };
  std::vector<StartedOperation> last_operations(int local) const;

 private:
  struct Region {
    std::byte* base = nullptr;
    int64_t bytes = 0;
  };
  std::string operation_text(const OperationRecord& operation) const;

  HostSetup setup_;
  RankState* states_ = nullptr;
  std::vector<Region> regions_;  // [local * kRegions + region]
  int next_region_ = 0;
  int watcher_ = -1;
  int64_t began_;  // wall clock, seconds
};

// "all_reduce 'gradient' (segment 3, step 17)"
std::string describe(RequestKind kind, std::string_view label, int32_t segment, int64_t step);

}  // namespace ridgeline::comm::detail
