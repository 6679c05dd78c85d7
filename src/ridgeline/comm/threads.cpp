// Ranks as threads of one process.
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <condition_variable>
#include <list>
#include <mutex>
#include <system_error>
#include <thread>

#include "ridgeline/base/error.h"
#include "ridgeline/comm/rank_world.h"
#include "ridgeline/device/arena.h"

namespace ridgeline::comm {
namespace {

using detail::Host;
using detail::HostSetup;
using detail::RankWorld;

class ThreadWorld : public RankWorld {
 public:
  using RankWorld::RankWorld;
  const char* backend() const override { return "threads"; }
  std::span<std::byte> peer_visible(int64_t bytes) override {
    check_failed();
    const device::Arena& arena = arenas_.emplace_back(bytes, nullptr);
    host().barrier("peer_visible");
    return {arena.data(), static_cast<size_t>(bytes)};
  }

 private:
  std::list<device::Arena> arenas_;
};

// Everything the threads use. Shared with each of them, so that one that never comes back keeps what it may still
// touch.
struct Run {
  void* memory = MAP_FAILED;
  size_t bytes = 0;
  std::function<void(World&)> body;
  std::unique_ptr<Host> host;
  std::vector<std::unique_ptr<ThreadWorld>> worlds;
  std::exception_ptr only;  // of a single rank: its own exception is the failure
  std::mutex mutex;
  std::condition_variable ended;
  int running = 0;

  ~Run() {
    worlds.clear();
    host.reset();
    if (memory != MAP_FAILED) ::munmap(memory, bytes);
  }
};

// The exception of a single rank is the caller's, unless it has been told of the failure already: once is enough.
bool alone_unheard(const Run& run) {
  return run.worlds.size() == 1 && !run.host->options().on_failure;
}

void run_rank(const std::shared_ptr<Run>& run, int rank) {
  ThreadWorld& world = *run->worlds[static_cast<size_t>(rank)];
  try {
    run->body(world);
    run->host->state(rank).departed.store(1, std::memory_order_release);
  } catch (const RankFailure&) {
    // Someone else's failure, on record already.
  } catch (const Refusal& error) {
    world.refuse(error);
    if (alone_unheard(*run)) run->only = std::current_exception();
  } catch (const Error& error) {
    world.RankWorld::fail(error.message(), error.next_step());
    if (alone_unheard(*run)) run->only = std::current_exception();
  } catch (const std::exception& error) {
    world.fail(error.what());
    if (alone_unheard(*run)) run->only = std::current_exception();
  } catch (...) {
    world.fail("threw something that is not an exception");
  }
  const std::lock_guard lock(run->mutex);
  --run->running;
  run->ended.notify_all();
}

std::string machine_name() {
  char name[256] = {};
  ::gethostname(name, sizeof(name) - 1);
  return name;
}

// Names a rank whose thread did not return after the failure of another.
bool wait_for_all(Run& run) {
  std::unique_lock lock(run.mutex);
  const auto all_back = [&] { return run.running == 0; };
  using namespace std::chrono_literals;
  while (!run.host->failed()) {
    if (run.ended.wait_for(lock, 100ms, all_back)) return true;
  }
  return run.ended.wait_for(lock, run.host->options().grace, all_back);
}

// One thread per rank. Where the system starts no more of them, the first rank without one has failed.
std::vector<std::thread> start_ranks(const std::shared_ptr<Run>& run) {
  const int ranks = run->running;
  std::vector<std::thread> threads;
  threads.reserve(static_cast<size_t>(ranks));
  try {
    for (int rank = 0; rank < ranks; ++rank) threads.emplace_back([run, rank] { run_rank(run, rank); });
  } catch (const std::system_error& error) {
    const size_t started = threads.size();
    const Error failure =
        system_error(fmt::format("cannot start thread {} of {} ranks", started + 1, ranks), error.code().value());
    run->worlds[started]->RankWorld::fail(
        failure.message(), "Use fewer --ranks, or raise the limit on processes (ulimit -u, the job's limit on tasks).");
    const std::lock_guard lock(run->mutex);
    run->running -= ranks - static_cast<int>(started);
  }
  return threads;
}

}  // namespace

void run_threads(int ranks, const WorldOptions& options, const std::function<void(World&)>& body) {
  if (ranks < 1) throw Error(fmt::format("{} ranks", ranks), "Start at least one.");
  auto run = std::make_shared<Run>();
  run->bytes = static_cast<size_t>(Host::memory_bytes(ranks, false));
  run->memory = ::mmap(nullptr, run->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (run->memory == MAP_FAILED) throw system_error("cannot reserve memory for the ranks", errno);
  HostSetup setup;
  setup.memory = static_cast<std::byte*>(run->memory);
  setup.bytes = static_cast<int64_t>(run->bytes);
  for (int rank = 0; rank < ranks; ++rank) setup.world_ranks.push_back(rank);
  setup.world_size = ranks;
  setup.processors = static_cast<int>(options.processors.size());
  setup.ranks_on_processors = ranks;
  setup.host_name = machine_name();
  setup.options = options;
  run->body = body;
  run->host = std::make_unique<Host>(std::move(setup));
  for (int rank = 0; rank < ranks; ++rank) run->worlds.push_back(std::make_unique<ThreadWorld>(*run->host, rank));

  run->running = ranks;
  std::vector<std::thread> threads = start_ranks(run);
  if (!wait_for_all(*run)) {
    for (std::thread& thread : threads) thread.detach();
    run->host->throw_to_program(true);
  }
  for (std::thread& thread : threads) thread.join();
  if (run->only) std::rethrow_exception(run->only);
  if (run->host->failed()) run->host->throw_to_program(false);
}

}  // namespace ridgeline::comm
