// What the watchers of a job's hosts say to each other, and how it lies on the wire. A message is a header (four bytes
// that name protocol and version, the kind, the length) and a plain structure of fixed size; hosts of one job are of
// one architecture, as MPI's messages of bytes require already. What arrives is checked before it is believed: kind,
// length, that texts end, that counts and numbers lie where they may.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "ridgeline/comm/communicator.h"

namespace ridgeline::comm::detail {

using ControlSecret = std::array<uint64_t, 2>;  // random, one per job: whoever knows it belongs to the job

constexpr int kSuspects = 8;  // at most, whatever the number of hosts

// First on every connection, from the host that made it.
struct Hello {
  ControlSecret secret;
  int64_t host;
};
// Nothing but a sign of life; also the answer to Hello.
struct Alive {
  int64_t unused;
};
// A host's first failure. Up: as it was recorded; down (Verdict): the one that counts.
struct FailureNotice {
  int64_t when;     // wall clock, nanoseconds: of two deaths the earlier counts
  int32_t source;   // host that recorded it, and alone prints it
  int32_t rank;     // of the culprit, -1 when unknown
  int32_t death;    // 1: a process died, which may be the launcher's answer to another failure
  int32_t refusal;  // as in Failure
  char host[64], operation[192], what[1024], next[512];
};
struct Verdict {
  FailureNotice failure;
};
// Up: a rank waits for too long.
struct Stall {
  int64_t rank;
  char operation[192];  // it waits in
  char what[320];       // "…: ranks 2, 3 did not arrive within 15000 ms"
};
// Down: who does not wait?
struct Inquiry {
  int32_t number;
  int32_t milliseconds;  // until the answer must be on its way
};
// How suspicious a rank or host is, worst first.
enum class Standing : int32_t { stopped, silent, not_running, busy, ended };
struct Suspect {
  Standing standing;
  int32_t rank;  // -1 for a host that is silent
  int32_t host;
  int32_t process;
  int64_t idle_milliseconds;  // since it last started or waited for an operation
  char position[192];
};
// Up: the worst suspects of a host and of all below it.
struct Answer {
  int32_t number;
  int32_t count;
  Suspect suspects[kSuspects];
};
// Up: all ranks of a host and of all below it have departed. Down (Leave): all ranks of the job have.
struct Departed {
  int64_t unused;
};
struct Leave {
  int64_t unused;
};

// Its index is the message's kind on the wire.
using ControlMessage = std::variant<Hello, Alive, FailureNotice, Verdict, Stall, Inquiry, Answer, Departed, Leave>;

FailureNotice notice_of(const Failure& failure, int source, int64_t when);
Failure failure_of(const FailureNotice& notice);

// Text into a field, cut at its end, which stays 0.
template <size_t kChars>
void put_text(char (&field)[kChars], std::string_view text) {
  const size_t length = text.size() < kChars ? text.size() : kChars - 1;
  for (size_t i = 0; i < kChars; ++i) field[i] = i < length ? text[i] : '\0';
}

std::vector<std::byte> encode(const ControlMessage& message);

// Cuts a stream of bytes into messages. Once it has seen what no watcher of this version sends it gives nothing more.
class ControlReader {
 public:
  void add(std::span<const std::byte> bytes);
  // The next message that has arrived as a whole, if any. `hosts`: numbers of hosts lie below it.
  std::optional<ControlMessage> next(int hosts);
  bool broken() const { return broken_; }

 private:
  std::vector<std::byte> bytes_;
  bool broken_ = false;
};

}  // namespace ridgeline::comm::detail
