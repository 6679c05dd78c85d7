// Collectives and point-to-point between ranks.
//
// A World is all ranks of a run and what they share: the way to make communicators, peer-visible memory, and the state
// of failure. A Communicator belongs to one (group of ranks, stream): its operations are started in program order, the
// same order on every rank of the group.
//
// Every operation is asynchronous: start (`all_reduce`, ...) publishes this rank's buffers and returns a Ticket at
// once; `wait(ticket)` returns when the result is in this rank's buffers and the buffers may be overwritten. Work that
// is CPU work (reductions through shared memory) is done inside `wait` on the calling thread, so starting early and
// waiting late hides the differences between ranks. Tickets complete in order: waiting for one completes all before it.
// While a rank waits it does whatever work is ready on all its communicators, for itself and for ranks that have
// started but not yet waited. At most 64 collectives and 128 messages per rank are outstanding on a communicator;
// starting one more completes the oldest first. Only the ranks named in an `exchange` take part in it; the others call
// nothing.
//
// Reductions add in fp32 and round once to the buffer's dtype, in a declared order that is the same on every backend:
// consecutive groups of `sum_group` ranks are summed in ascending rank order, then the group sums in ascending order.
// Nothing is ever summed by a library. Between hosts the sum of a group travels where its ranks share a host, else each
// rank's own values do: so `sum_group` is best the number of ranks that a communicator has on each host. With H hosts
// of one group each, a host sends 2 (H-1)/H of an all_reduce's buffer, (H-1)/H of a reduce_scatter's or all_gather's
// (16-bit values count twice while they are summed: sums travel as fp32), and of a broadcast's at most twice that.
//
// Errors. A size, dtype or operation that differs between ranks, a rank that does not arrive within the timeout, a peer
// that died or failed: Error on every rank, naming operation, label, and the ranks at fault. After an error a World is
// unusable ("failed"); every later call on any of its communicators throws the first failure. Buffers of a started
// operation must stay readable and writable until it is waited for or the Communicator is destroyed.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ridgeline/base/dtype.h"

namespace ridgeline::comm {

enum class ReduceOp { sum, max, min };

// What an operation is for: shown when it fails and in traces. Plain data; `what` must be a string literal.
struct Label {
  const char* what = "";
  int32_t segment = -1;  // its number, -1 when there is none
  int64_t step = -1;
};

struct Ticket {
  uint64_t number = 0;
};

struct Send {
  int peer;
  ConstRef data;
  int64_t count;
};
struct Receive {
  int peer;
  Ref data;
  int64_t count;
};

enum class RequestKind : uint8_t { all_reduce, reduce_scatter, all_gather, broadcast, all_to_all, barrier, exchange };

constexpr bool reduces(RequestKind kind) {
  return kind == RequestKind::all_reduce || kind == RequestKind::reduce_scatter;
}
// The buffer holds a part for every rank.
constexpr bool by_parts(RequestKind kind) {
  return kind == RequestKind::reduce_scatter || kind == RequestKind::all_gather || kind == RequestKind::all_to_all;
}

// One operation as a backend gets it.
struct Request {
  RequestKind kind = RequestKind::barrier;
  Ref buffer;                         // in place; of all_to_all what is sent
  Ref received;                       // all_to_all
  int64_t count = 0;                  // elements: of a part where the operation works by parts, else of the buffer
  ReduceOp op = ReduceOp::sum;        // all_reduce, reduce_scatter
  int root = 0;                       // broadcast
  std::span<const Send> sends;        // exchange: these two are good during start() only
  std::span<const Receive> receives;  // exchange
  Label label;
};

// What an operation is called with is checked here, once for all backends; a backend implements start() and wait().
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;  // within this communicator's group
  virtual int size() const = 0;
  virtual int world_rank(int rank_in_group) const = 0;
  // Whether what was started goes on while the caller computes; between ranks of a host those that wait do the work.
  virtual bool travels() const { return false; }
  // Bytes of buffers, or of sums of them, that this rank has sent to other hosts since the communicator was made.
  virtual int64_t sent_to_other_hosts() const { return 0; }

  // In place over all ranks: buffer[i] = reduction of every rank's buffer[i]. dtypes f32, bf16, f16, f64, i64 (f64 and
  // i64 sum exactly as their own type).
  Ticket all_reduce(Ref buffer, int64_t count, ReduceOp op, const Label& label);
  // In place: buffer holds size()*shard elements; afterwards part [rank*shard, (rank+1)*shard) holds the reduction, the
  // other parts are unspecified.
  Ticket reduce_scatter(Ref buffer, int64_t shard, ReduceOp op, const Label& label);
  // In place: part [rank*shard, (rank+1)*shard) is this rank's; afterwards all parts are filled.
  Ticket all_gather(Ref buffer, int64_t shard, const Label& label);
  Ticket broadcast(Ref buffer, int64_t count, int root, const Label& label);
  // Part i of `send` goes to rank i, part j of `receive` came from rank j; `part` elements each. Must not alias.
  Ticket all_to_all(ConstRef send, Ref receive, int64_t part, const Label& label);
  // Rendezvous point-to-point: all sends and receives of one call progress together.
  Ticket exchange(std::span<const Send> sends, std::span<const Receive> receives, const Label& label);
  Ticket barrier(const Label& label);
  // Any of these.
  Ticket request(const Request& request);

  virtual void wait(Ticket ticket) = 0;

 protected:
  virtual Ticket start(const Request& request) = 0;
};

// First failure of a run.
struct Failure {
  int rank = -1;  // the culprit, -1 when unknown
  std::string host;
  std::string operation;  // operation and label it died or stalled in, when known
  std::string what;       // one line, printed once
  std::string next;       // what to do about it, may be empty
  bool refusal = false;   // of a Refusal (failure.h): no failure file
  bool death = false;     // the rank's process died
  std::string log;        // where what that rank did last is written (rank_log_path), "" for nowhere
};

// A network to pretend: every rank has one link, shared by all its communicators, and its transfers pass over it one
// after the other in the order in which they start. A transfer that starts at t completes on this rank no earlier than
//   max(t, end of the link's transfer before it) + latency + traffic / bytes_per_second.
// Nothing is slowed down by work: `wait` sleeps until then. The bits are those of the unthrottled world. Traffic is
// what a rank must send (and receive at the same time) at the least, B bytes being its whole buffer and n the ranks:
//   all_reduce 2 (n-1)/n B; reduce_scatter, all_gather, all_to_all (n-1)/n B; broadcast B; barrier 0; exchange the
//   larger of what is sent to and received from other ranks.
// Communicators of one rank have no traffic. Every operation pays the latency once, however small it is.
struct Link {
  double bytes_per_second = 0;  // 0: unlimited
  std::chrono::nanoseconds latency{0};

  bool throttles() const { return bytes_per_second > 0 || latency.count() > 0; }
  // Of one transfer on an idle link.
  std::chrono::nanoseconds duration(int64_t traffic) const;
};

// Bytes per rank, of buffers of `bytes`, as stated at Link.
int64_t all_reduce_traffic(int ranks, int64_t bytes);
int64_t part_traffic(int ranks, int64_t bytes);  // reduce_scatter, all_gather, all_to_all
// The same of any operation as rank `rank` of `ranks` starts it.
int64_t traffic_of(const Request& request, int rank, int ranks);

struct WorldOptions {
  std::chrono::milliseconds timeout{600'000};  // how long to wait for a rank inside one operation
  int sum_group = 8;                           // reduction order, see above; rank 0's counts
  std::string failure_file;                    // where the first failure is written, once per run; "" for none
  // Where a failure leaves what ranks did last, in rank_log_path: of the culprit and of the 15 nearest to it by number,
  // or of every rank. Its parent must be there. "" for nowhere.
  std::string log_folder;
  bool log_every_rank = false;
  // How long, after a failure, the other ranks get to come back from their own work before they are given up.
  std::chrono::milliseconds grace{3'000};
  // How long a host may be silent before it is taken for dead; never longer than `timeout`, never less than 2 s.
  std::chrono::milliseconds silence{10'000};
  // Called once per run with the first failure, on the host where it happened and as soon as it is known: on any
  // thread, or in the small process that watches over ranks that are processes (a launcher may kill every rank within a
  // millisecond of the first death, so waiting for an exception to unwind would lose the message). It may only print.
  // Where it is set, no rank is asked to print again.
  std::function<void(const Failure&)> on_failure;
  // What the process is to exit with when it has to leave from a hanging MPI_Finalize (run_mpi); null: 0. Called once
  // `body` has returned on every rank.
  std::function<int()> exit_status;
  // Numbers of the processors that this process may use. Where the ranks of a host together have as many as they are, a
  // rank that waits spins for some microseconds before it sleeps.
  std::vector<int> processors;
  Link link;  // throttles communicators of more than one rank; the default does not
};

class World {
 public:
  virtual ~World() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual const char* backend() const = 0;  // "threads" | "mpi" | "tcp"
  virtual const WorldOptions& options() const = 0;
  // How many ranks are on this rank's host, and how many of these, itself included, may use one of its processors.
  virtual int ranks_of_host() const = 0;
  virtual int ranks_on_processors() const = 0;
  // Hosts of the run, numbered in the order of their first ranks, and the one of a rank.
  virtual int hosts() const = 0;
  virtual int host_of(int rank) const = 0;

  // Collective over `ranks` (ascending world ranks, the same list on each of them).
  virtual std::unique_ptr<Communicator> communicator(std::span<const int> ranks, std::string_view name) = 0;
  std::unique_ptr<Communicator> communicator(std::string_view name);  // over all ranks

  // Collective over the world: `bytes` (may differ per rank) of memory of this rank that its peers on the same host can
  // read and write directly; collectives on buffers inside it move no extra copy. Huge pages where the system gives
  // them, touched before return. Freed with the World. Throws with a hint when shared memory (/dev/shm) is too small.
  virtual std::span<std::byte> peer_visible(int64_t bytes) = 0;

  // Declares that this rank fails (it threw): wakes every rank, which throws the failure from its next or current call.
  // First failure wins; returns that one. Never throws, never blocks.
  virtual Failure fail(std::string_view what) noexcept = 0;
};

// Runs body(world) on `ranks` threads of this process. Returns when all have returned; rethrows the first failure once
// as an Error that names the culprit.
void run_threads(int ranks, const WorldOptions& options, const std::function<void(World&)>& body);

// Runs body(world) on this process as one rank of MPI_COMM_WORLD (started by mpirun or srun). MPI is initialised and
// finalised inside. Same failure behaviour: on return of an Error the caller exits non-zero, by std::_Exit, since MPI
// is left as it is; peers that cannot be reached do not keep it alive. Throws when Ridgeline was built without MPI.
//
// Hosts hear of each other's failures over TCP connections of their own (control.h), on the interface that
// RIDGELINE_INTERFACE names, else on any. Where a rank is missing MPI gives no time back: a start that takes longer
// than the timeout (10 s at the least) says so once, and leaves by std::_Exit(1). MPI_Finalize may hang although
// nothing is left to be done: a rank that has spent 5 s in it, after every rank of every host has returned from `body`,
// leaves the process there and then with WorldOptions::exit_status, its stdio flushed.
void run_mpi(const WorldOptions& options, const std::function<void(World&)>& body);

// The same without MPI between the processes, whoever started them: they meet at `rendezvous`, where rank 0 listens,
// and pass messages over TCP. It is "host:port", the host being rank 0's, or "slurm" for one that follows from the job.
// Which rank of how many this process is the environment says (RIDGELINE_RANK and RIDGELINE_WORLD_SIZE; else what
// torchrun, mpirun or srun sets). Throws Error where the ranks do not come together within the timeout, or do not fit
// together. RIDGELINE_RENDEZVOUS_SECRET: what all must know, if it is set. Messages are neither encrypted nor signed:
// the network is trusted, as it is with MPI.
void run_rendezvous(const WorldOptions& options, std::string_view rendezvous, const std::function<void(World&)>& body);

// True when this process was started by an MPI launcher (PMI/PMIx/OMPI variables).
bool launched_by_mpi();

// True when this process is to be one rank beside other processes: a rendezvous is given (as the command line has it,
// else RIDGELINE_RENDEZVOUS in the environment), or it was started by an MPI launcher.
bool launched(std::string_view rendezvous = {});
// Runs body as that rank: run_rendezvous, or else run_mpi.
void run_launched(const WorldOptions& options, std::string_view rendezvous, const std::function<void(World&)>& body);

// What srun's --mpi= must be for ranks of this build to find each other: "pmi2" (MPICH), "pmix" (Open MPI), "" without
// MPI.
const char* slurm_mpi_flag();

// Whether srun started this process as one of several tasks.
bool one_of_several_tasks();

// Whether other processes of this launcher may be about to say the same: this one is a rank, or one of several tasks.
bool may_have_company();

// For a process that takes itself for the only one (no launcher's variables, or an MPI world of one rank): throws when
// it is one of several tasks. N of them would train N times, into one folder.
void require_company();

}  // namespace ridgeline::comm
