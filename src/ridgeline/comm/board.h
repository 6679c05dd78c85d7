// What the ranks of one host share: plain structures of atomics in memory that all of them see (one process's for
// threads, a shared mapping for MPI). Everything in it works from all zeros and holds no pointers, so that it means the
// same in every process. Data that is not atomic is written before, and read after, an atomic that orders it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "ridgeline/base/dtype.h"
#include "ridgeline/comm/communicator.h"

namespace ridgeline::comm::detail {

const char* name_of(RequestKind kind);
const char* name_of(ReduceOp op);

constexpr int kSlots = 64;            // collectives outstanding on a communicator
constexpr int kMessages = 128;        // messages outstanding per rank and communicator
constexpr int kRecent = 32;           // operations remembered per rank
constexpr int kBlockedOn = 8;         // ranks that a waiting rank names
constexpr int kRegions = 16;          // peer_visible calls
constexpr int kCommunicators = 4096;  // communicators of all ranks of a host

// Where a rank sleeps: whoever may have changed what it waits for rings.
struct alignas(64) Bell {
  std::atomic<uint32_t> value;
  std::atomic<uint32_t> sleeping;
};

// Short text that may be read while it is written (in reports only: torn text would do no harm).
template <int kChars>
class SharedText {
 public:
  void store(std::string_view text) {
    char padded[kChars] = {};
    std::memcpy(padded, text.data(), text.size() < kChars ? text.size() : kChars - 1);
    for (int i = 0; i < kChars / 8; ++i) {
      uint64_t word = 0;
      std::memcpy(&word, padded + 8 * i, 8);
      words_[i].store(word, std::memory_order_relaxed);
    }
  }
  std::string load() const {
    char padded[kChars] = {};
    for (int i = 0; i < kChars / 8; ++i) {
      const uint64_t word = words_[i].load(std::memory_order_relaxed);
      std::memcpy(padded + 8 * i, &word, 8);
    }
    padded[kChars - 1] = 0;
    return padded;
  }

 private:
  std::atomic<uint64_t> words_[kChars / 8];
};

// One started operation, for reports.
struct OperationRecord {
  SharedText<40> label;
  std::atomic<uint32_t> kind;
  std::atomic<int32_t> segment;
  std::atomic<int64_t> step;
  std::atomic<uint64_t> board;  // offset of the communicator's board
  std::atomic<int64_t> time;    // steady clock in nanoseconds
};

// One rank as its host's other ranks see it.
struct alignas(64) RankState {
  Bell bell;
  std::atomic<int32_t> process;                 // its process id
  std::atomic<int32_t> life_file;               // its end of a pipe that closes when it dies
  std::atomic<uint32_t> departed;               // it has left the world in good order
  std::atomic<uint32_t> busy;                   // it is reading or writing peers' buffers now
  std::atomic<int32_t> blocked;                 // how many ranks it says it waits for, 0 when it does not wait
  std::atomic<int32_t> blocked_on[kBlockedOn];  // their world ranks
  std::atomic<int64_t> heartbeat;               // when it last looked while waiting, steady clock in nanoseconds
  std::atomic<int64_t> moved;                   // when it last started an operation or stopped waiting for one
  std::atomic<uint32_t> stalled;                // it has waited for too long; the next two say for what
  SharedText<192> stalled_in;
  SharedText<320> stalled_what;
  std::atomic<uint64_t> started;  // operations started
  OperationRecord recent[kRecent];
  std::atomic<int64_t> region_bytes[kRegions];
  std::atomic<int32_t> region_file[kRegions];  // descriptor in its process
};

struct FailureRecord {
  std::atomic<uint32_t> state;      // 0 none, 1 being written, 2 there
  std::atomic<uint32_t> announced;  // someone prints and writes it, or has
  std::atomic<uint32_t> reported;   // no rank needs to print it
  std::atomic<uint32_t> settled;    // nothing is left to be waited for before ranks leave
  int32_t rank;
  int32_t refusal;
  int32_t death;
  char host[64];
  char operation[192];
  char what[1024];
  char next[512];
};

struct DirectoryEntry {
  std::atomic<uint64_t> key;
  std::atomic<uint64_t> offset;
};

// Start of a host's shared memory; communicators' boards are cut from what follows.
struct HostBoard {
  FailureRecord failure;
  std::atomic<uint32_t> stopping;  // a rank unwinds with operations outstanding: touch no peer's buffer any more
  std::atomic<uint32_t> everyone_departed;  // all ranks of all hosts have left in good order
  std::atomic<uint32_t> directory_lock;
  std::atomic<uint64_t> used;  // bytes given away
  alignas(64) Bell host_bell;
  std::atomic<uint64_t> host_barrier;  // arrivals at start-up barriers, all of them
  DirectoryEntry directory[kCommunicators];
  // RankState[ranks] follows
};

// Where a rank's buffer lies, as its peers can find it.
struct BufferPlace {
  static constexpr uint32_t kAddress = 0;  // offset is an address in the common address space
  static constexpr uint32_t kStaged = 1;   // not visible: it comes through the rank's stage
  static constexpr uint32_t kRegion = 2;   // kRegion + i: offset in the rank's i-th peer-visible region
  uint32_t place = kAddress;
  uint64_t offset = 0;
};

// What a rank starts, as the others compare it with theirs. Plain bytes: it lies in shared memory and travels.
struct Terms {
  RequestKind kind;
  DType dtype;
  ReduceOp op;
  int32_t root;
  int64_t count;
  int32_t segment;
  int64_t step;
  char label[40];
};
Terms terms_of(const Request& request);
bool same_operation(const Terms& left, const Terms& right);  // whatever they are called
// "all_reduce 'gradient' (segment 3, step 17) of 8 fp32 (sum)"
std::string describe(const Terms& terms);

// One rank's side of one collective. Written before it arrives at the meeting.
struct alignas(64) Header : Terms {
  BufferPlace first, second;
};

// One collective of all members. The last to arrive resets the counters and opens it; then its chunks are claimed and
// done by whoever is waiting.
struct alignas(64) Meeting {
  std::atomic<uint32_t> arrived;
  std::atomic<uint64_t> opened;  // 1 + sequence number
  alignas(64) std::atomic<uint64_t> claimed;
  std::atomic<uint64_t> done;
  std::atomic<uint64_t> ready;  // staged operations: members whose stage holds the round's data, over all rounds
};

// One message from a rank to a peer. `key` publishes it; the receiver copies and sets `finished`.
struct alignas(64) Message {
  std::atomic<uint64_t> key;  // (1 + receiver) << 40 | number of the message between the two; 0 when free
  DType dtype;
  int64_t count;
  BufferPlace data;
  char label[40];
  std::atomic<uint32_t> wanted;  // staged: the receiver is there
  std::atomic<uint32_t> finished;
  std::atomic<int64_t> filled;  // staged: bytes the sender has passed so far
  std::atomic<int64_t> taken;   // staged: bytes the receiver has taken so far
  int32_t stage;                // staged: which message stage
};

// One member of a communicator as the others see it.
struct alignas(64) MemberState {
  std::atomic<uint64_t> published;  // collectives started
  std::atomic<uint64_t> retired;    // collectives complete and no longer looked at
  std::atomic<uint64_t> readied;    // staged: collective << 24 | rounds made ready
  std::atomic<uint64_t> messages_begin, messages_end;
};

// Layout of a communicator's board: [BoardStart][MemberState n][Meeting kSlots][Header kSlots × n][Message n ×
// kMessages] [stage n × stage_bytes][message stages n × stage_bytes].
struct BoardStart {
  SharedText<40> name;
};

class Board {
 public:
  static constexpr int64_t kMessageStages = 16;

  Board() = default;
  Board(std::byte* memory, int members, int64_t stage_bytes)
      : memory_(memory), members_(members), stage_(stage_bytes) {}
  static int64_t bytes(int members, int64_t stage_bytes) {
    return Board(nullptr, members, stage_bytes).message_stage_offset() + members * stage_bytes;
  }

  BoardStart& start() const { return *at<BoardStart>(0); }
  MemberState& member(int i) const { return at<MemberState>(kStart)[i]; }
  Meeting& meeting(uint64_t number) const { return at<Meeting>(meeting_offset())[number % kSlots]; }
  Header& header(uint64_t number, int i) const {
    return at<Header>(header_offset())[static_cast<int64_t>(number % kSlots) * members_ + i];
  }
  Message& message(int sender, uint64_t number) const {
    return at<Message>(message_offset())[int64_t{sender} * kMessages + static_cast<int64_t>(number % kMessages)];
  }
  std::byte* stage(int i) const { return memory_ + stage_offset() + i * stage_; }
  std::byte* message_stage(int i, int stage) const {
    return memory_ + message_stage_offset() + i * stage_ + stage * message_stage_bytes();
  }
  int64_t stage_bytes() const { return stage_; }
  int64_t message_stage_bytes() const { return stage_ / kMessageStages; }

 private:
  static constexpr int64_t kStart = 64;
  template <typename T>
  T* at(int64_t offset) const {
    return reinterpret_cast<T*>(memory_ + offset);
  }
  int64_t meeting_offset() const { return kStart + members_ * int64_t{sizeof(MemberState)}; }
  int64_t header_offset() const { return meeting_offset() + kSlots * int64_t{sizeof(Meeting)}; }
  int64_t message_offset() const { return header_offset() + members_ * kSlots * int64_t{sizeof(Header)}; }
  int64_t stage_offset() const {
    return (message_offset() + members_ * kMessages * int64_t{sizeof(Message)} + 4095) / 4096 * 4096;
  }
  int64_t message_stage_offset() const { return stage_offset() + members_ * stage_; }

  std::byte* memory_ = nullptr;
  int members_ = 0;
  int64_t stage_ = 0;
};

// Sleeps while *word == expected, at most `microseconds`; across processes when `shared`.
void futex_wait(std::atomic<uint32_t>& word, uint32_t expected, int64_t microseconds, bool shared);
void futex_wake(std::atomic<uint32_t>& word, bool shared);
int64_t steady_nanoseconds();

}  // namespace ridgeline::comm::detail
