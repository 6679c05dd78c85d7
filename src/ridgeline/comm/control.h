// The watchers of a job's hosts, as a tree that agrees on its first failure: host i's parent is host (i - 1) / 8, the
// root is host 0. This is what one host does, as a state machine: what happens goes in, with the time, and what is to
// be done comes out. It knows no sockets and no clock; any thread-free program may drive it.
//
// Failure. A host's first failure goes up to the root. The root's first arrival is the verdict; it goes down to all
// and is recorded by each, and the host where it happened announces it (prints it, writes the file). A launcher may
// kill every rank within a millisecond of a first death, on hosts that hear of it before the root does; so the root
// keeps a death for `hold`, and of several takes the earliest. A host without a verdict after `patience` announces its
// own failure.
//
// Silence. Neighbours send a sign of life every `beat`. A connection that closes before there is a verdict, or brings
// nothing for `silence`, is a failure that names the host beyond it. Whoever loses its parent turns to the parent's
// parent; where the root is lost, to host 1, which is then the root. A host of more than two that is left without any
// neighbour is cut off itself: it ends, and leaves the word to the others. Time in which this process did not run
// itself (`tick` comes late) is nobody's silence.
//
// Stall. A rank that waits for too long has its host ask up, the root asks all, and every host answers with those of
// its ranks that do not wait, the worst of them and of those below it. A host that does not answer in time is named
// itself. The root blames the worst, as the one failure.
//
// Departure. When all ranks of all hosts have left in good order the root says so, and closed connections mean nothing.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "ridgeline/comm/control_messages.h"

namespace ridgeline::comm::detail {

constexpr int kControlArity = 8;
constexpr int64_t kSecond = 1'000'000'000;

// In nanoseconds.
struct ControlTimes {
  int64_t beat = kSecond;
  int64_t silence = 10 * kSecond;
  int64_t patience = 2 * kSecond / 5;
  int64_t hold = kSecond / 20;
  int64_t reach = kSecond;            // to connect to another host
  int64_t answer = 2 * kSecond;       // from the root's inquiry to its verdict
  int64_t answer_step = kSecond / 4;  // every level of the tree answers that much earlier
};

// A host as the others name it.
struct ControlName {
  std::string host;
  std::string ranks;   // "rank 3", "ranks 4-7"
  int only_rank = -1;  // its rank where it has but one
};

int parent_of(int host);  // -1 of the root
// "rank 3", "ranks 4-7", "ranks 0, 2, 5"
std::string ranks_text(const std::vector<int>& ranks);

class Control {
 public:
  // What is to be done, in this order.
  struct Actions {
    struct Sending {
      int peer;
      ControlMessage message;
    };
    std::optional<Failure> record;  // the job has failed: every rank here must know, unless it does
    bool announce = false;          // this host prints what it recorded; else, after `settled`, nobody here does
    bool settled = false;           // nothing is left to be waited for before ranks leave
    std::optional<int> look;        // call `looked` with this number
    std::vector<Sending> send;
    bool leave = false;  // all ranks of the job have departed
    int reach = -1;      // connect to this host, then call `connected`; `lost` when it cannot be reached
  };

  // `hosts`: all of the job, by number.
  Control(int host, std::vector<ControlName> hosts, const ControlTimes& times, int64_t now);

  // `wall`: nanoseconds of the wall clock, by which deaths on several hosts are compared.
  void failed_here(const Failure& failure, int64_t now, int64_t wall);
  void stalled_here(const Stall& stall, int64_t now);
  void looked(int number, const std::vector<Suspect>& suspects, int64_t now);  // of this host's ranks
  void departed_here(int64_t now);                                             // all ranks of this host
  void connected(int peer, int64_t now);
  void received(int peer, const ControlMessage& message, int64_t now);
  void lost(int peer, int64_t now);
  void tick(int64_t now);  // after what has arrived was passed on; several times a `beat`
  Actions take();          // what came up since the last call

  // Something is under way that has a time limit far below a `beat`.
  bool in_a_hurry() const { return first_ || stall_ || inquiring_; }
  bool ended() const { return verdict_.has_value() || left_; }  // closed connections mean nothing any more

 private:
  struct Link {
    int64_t heard = 0;
    bool open = false, departed = false;
    bool silent = false;  // given up, but should it wake up it is to hear the verdict first
    bool asked = false;   // its answer is outstanding
  };

  void on(int peer, const Hello& message, int64_t now);
  void on(int peer, const Alive& message, int64_t now);
  void on(int peer, const FailureNotice& message, int64_t now);
  void on(int peer, const Verdict& message, int64_t now);
  void on(int peer, const Stall& message, int64_t now);
  void on(int peer, const Inquiry& message, int64_t now);
  void on(int peer, const Answer& message, int64_t now);
  void on(int peer, const Departed& message, int64_t now);
  void on(int peer, const Leave& message, int64_t now);

  bool root() const { return parent_ < 0; }
  bool linked_up() const;
  void send(int peer, const ControlMessage& message);
  void send_down(const ControlMessage& message);
  void arrive(const FailureNotice& notice, int64_t now, bool decides);
  void decide(const FailureNotice& notice);
  void announce();
  void fail(const FailureNotice& notice, int64_t now);  // a failure that was found here, not recorded yet
  void fail_for_loss(int peer, int64_t after, int64_t now);
  bool cut_off() const;
  void orphaned(int64_t now);
  void ask(int number, int64_t milliseconds, int64_t now);
  void add(const Suspect& suspect);
  void answer_when_complete(int64_t now);
  FailureNotice judge() const;
  void depart_when_complete();

  int host_;
  std::vector<ControlName> hosts_;
  ControlTimes times_;
  int parent_;
  std::map<int, Link> links_;
  int64_t ticked_, beaten_;

  std::optional<FailureNotice> own_, first_, verdict_;
  int64_t announce_at_ = 0, decide_at_ = 0;
  bool announced_ = false;
  bool lost_ = false;       // `own_` is that a neighbour was lost
  std::set<int> given_up_;  // hosts that were lost

  std::optional<Stall> stall_;  // the first that was heard of
  int inquiry_ = 0;             // number of the last
  bool inquiring_ = false, looked_ = false;
  int64_t answer_at_ = 0;
  std::vector<Suspect> suspects_;  // worst first

  bool departed_here_ = false, departed_ = false, left_ = false;
  Actions actions_;
};

}  // namespace ridgeline::comm::detail
