#include "ridgeline/comm/mpi_wire.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <mpi.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace ridgeline::comm::detail {
namespace {

constexpr int64_t kLargestMessage = 1 << 30;  // MPI counts in int
constexpr unsigned kFinalizeSeconds = 5;

class MpiChannel : public Channel {
 public:
  MpiChannel(std::span<const int> ranks, uint64_t key) {
    MPI_Group everyone = MPI_GROUP_NULL, group = MPI_GROUP_NULL;
    MPI_Comm_group(MPI_COMM_WORLD, &everyone);
    MPI_Group_incl(everyone, static_cast<int>(ranks.size()), ranks.data(), &group);
    MPI_Comm_create_group(MPI_COMM_WORLD, group, static_cast<int>(key >> 8 & 0x3fff), &comm_);
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
    MPI_Group_free(&group);
    MPI_Group_free(&everyone);
  }
  ~MpiChannel() override {
    if (comm_ != MPI_COMM_NULL && requests_.empty()) MPI_Comm_free(&comm_);
  }
  MpiChannel(const MpiChannel&) = delete;
  MpiChannel& operator=(const MpiChannel&) = delete;

  void send(const void* data, int64_t bytes, int member, int tag, Batch& batch) override {
    post({member, true, &batch}, bytes, [&](int64_t at, int length, MPI_Request* request) {
      return MPI_Isend(static_cast<const std::byte*>(data) + at, length, MPI_BYTE, member, tag, comm_, request);
    });
  }
  void receive(void* data, int64_t bytes, int member, int tag, Batch& batch) override {
    post({member, false, &batch}, bytes, [&](int64_t at, int length, MPI_Request* request) {
      return MPI_Irecv(static_cast<std::byte*>(data) + at, length, MPI_BYTE, member, tag, comm_, request);
    });
  }

  bool progress() override {
    int done = 0;
    if (requests_.empty()) {
      // What others wait for may still be in MPI's hands, and moves only while it is called.
      MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, comm_, &done, MPI_STATUS_IGNORE);
      return false;
    }
    done_.resize(requests_.size());
    check(MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &done, done_.data(), MPI_STATUSES_IGNORE));
    if (done <= 0) return false;
    for (int i = 0; i < done; ++i) --ends_[static_cast<size_t>(done_[static_cast<size_t>(i)])].batch->open;
    size_t left = 0;
    for (size_t i = 0; i < requests_.size(); ++i) {
      if (requests_[i] == MPI_REQUEST_NULL) continue;
      requests_[left] = requests_[i];
      ends_[left++] = ends_[i];
    }
    requests_.resize(left);
    ends_.resize(left);
    return true;
  }

  int missing(const Batch& batch, std::span<int> members) const override {
    size_t count = 0;
    for (size_t i = 0; i < requests_.size(); ++i) {
      if (ends_[i].batch != &batch) continue;
      int done = 1;
      if (requests_[i] != MPI_REQUEST_NULL) MPI_Request_get_status(requests_[i], &done, MPI_STATUS_IGNORE);
      if (done == 0) add_once(members, count, ends_[i].member);
    }
    return static_cast<int>(count);
  }

  // Open receives name memory of the caller, and the next call of MPI, for whatever purpose, would still deliver into
  // it. A receive that no message has met yet can be cancelled without its sender; one that is just being filled gets a
  // moment, since its sender may be gone. The communicator is left as it is: its requests refer to such ranks.
  void withdraw() override {
    constexpr int kPatience = 200;  // naps of a millisecond, for all together
    int naps = 0;
    for (size_t i = 0; i < requests_.size(); ++i) {
      if (ends_[i].sends || requests_[i] == MPI_REQUEST_NULL) continue;
      MPI_Cancel(&requests_[i]);
      int done = 0;
      for (;;) {
        MPI_Test(&requests_[i], &done, MPI_STATUS_IGNORE);
        if (done != 0 || ++naps > kPatience) break;
        ::usleep(1000);
      }
    }
    requests_.clear();
    ends_.clear();
    comm_ = MPI_COMM_NULL;
  }

 private:
  struct End {
    int member;
    bool sends;
    Batch* batch;
  };

  static void check(int code) {
    if (code != MPI_SUCCESS) throw Undeliverable(fmt::format("MPI could not deliver (error {})", code));
  }
  template <typename Start>
  void post(const End& end, int64_t bytes, const Start& start) {
    for (int64_t at = 0; at < bytes || at == 0; at += kLargestMessage) {
      requests_.push_back(MPI_REQUEST_NULL);
      ends_.push_back(end);
      ++end.batch->open;
      check(start(at, static_cast<int>(std::min(bytes - at, kLargestMessage)), &requests_.back()));
    }
  }

  MPI_Comm comm_ = MPI_COMM_NULL;
  std::vector<MPI_Request> requests_;
  std::vector<End> ends_;  // of each
  std::vector<int> done_;  // numbers of those that have ended
};

// Open MPI passes what it has to tell people through a pointer that its own layers replace, too; as of 4.1. Of a peer
// that has gone every rank would tell in 14 lines, before the one that is to blame is known; all else is passed on.
using OpenMpiTeller = int (*)(const char* file, const char* topic, int heading, ...);
using OpenMpiText = char* (*)(const char* file, const char* topic, int heading, va_list values);
OpenMpiText open_mpi_text = nullptr;

int tell_but_of_lost_peers(const char* file, const char* topic, int heading, ...) {
  if (std::string_view(topic) == "peer hung up") return 0;
  va_list values;
  va_start(values, heading);
  char* const text = open_mpi_text(file, topic, heading, values);
  va_end(values);
  if (text != nullptr) std::fputs(text, stderr);
  std::free(text);
  return 0;
}

void silence_lost_peers() {
  char version[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  MPI_Get_library_version(version, &length);
  if (!std::string_view(version).starts_with("Open MPI v4.")) return;  // later ones have a function of that name
  auto* const teller = static_cast<OpenMpiTeller*>(::dlsym(RTLD_DEFAULT, "opal_show_help"));
  open_mpi_text = reinterpret_cast<OpenMpiText>(::dlsym(RTLD_DEFAULT, "opal_show_help_vstring"));
  if (teller != nullptr && open_mpi_text != nullptr) *teller = tell_but_of_lost_peers;
}

// For a signal handler.
volatile std::sig_atomic_t exit_status_of_hang = 0;

}  // namespace

MpiWire::MpiWire(const WorldOptions& options) {
  int initialized = 0;
  MPI_Initialized(&initialized);
  if (initialized != 0) throw Error("run_mpi was called twice in one process", "MPI can be started only once.");
  start_limit_ = std::make_unique<StartLimit>(options, std::max(options.timeout, kLeastStart));
  start_limit_->waits_in("MPI_Init");
  int level = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &level);
  start_limit_->waits_in("the first exchange between ranks");
  // What goes wrong is said by us, once, and not by MPI on every rank.
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  silence_lost_peers();
  MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
  MPI_Comm_size(MPI_COMM_WORLD, &size_);
}

void MpiWire::all_gather(const void* own, void* all, int64_t bytes) {
  const auto count = static_cast<int>(bytes);
  MPI_Allgather(own, count, MPI_BYTE, all, count, MPI_BYTE, MPI_COMM_WORLD);
}

void MpiWire::broadcast(void* data, int64_t bytes, int root) {
  MPI_Bcast(data, static_cast<int>(bytes), MPI_BYTE, root, MPI_COMM_WORLD);
}

std::unique_ptr<Channel> MpiWire::channel(std::span<const int> ranks, uint64_t key) {
  return std::make_unique<MpiChannel>(ranks, key);
}

void MpiWire::watched() {
  start_limit_.reset();
}

// All is done and written: a rank that hangs here leaves all the same.
void MpiWire::leave(const std::function<int()>& exit_status) {
  exit_status_of_hang = exit_status ? exit_status() : 0;
  std::fflush(nullptr);
  struct sigaction leave_at_once {};
  struct sigaction before {};
  leave_at_once.sa_handler = [](int) { ::_exit(exit_status_of_hang); };
  ::sigaction(SIGALRM, &leave_at_once, &before);
  ::alarm(kFinalizeSeconds);
  MPI_Finalize();
  ::alarm(0);
  ::sigaction(SIGALRM, &before, nullptr);
}

}  // namespace ridgeline::comm::detail
