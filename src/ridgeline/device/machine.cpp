#include "ridgeline/device/machine.h"

#include <fmt/format.h>
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <limits>
#include <optional>
#include <set>
#include <sstream>

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/bound_thread.h"

namespace ridgeline::device {
namespace {

std::atomic<int> bound_threads{0};

// Those of the main thread, whoever calls.
std::vector<int> allowed_processors() {
  std::vector<int> all;
  // The kernel refuses a mask that is smaller than its own.
  for (int size = CPU_SETSIZE; size <= 64 * CPU_SETSIZE && all.empty(); size *= 4) {
    cpu_set_t* const set = CPU_ALLOC(static_cast<size_t>(size));
    if (set == nullptr) break;
    const size_t bytes = CPU_ALLOC_SIZE(static_cast<size_t>(size));
    CPU_ZERO_S(bytes, set);
    if (::sched_getaffinity(::getpid(), bytes, set) == 0) {
      for (int cpu = 0; cpu < size; ++cpu) {
        if (CPU_ISSET_S(static_cast<size_t>(cpu), bytes, set)) all.push_back(cpu);
      }
    }
    CPU_FREE(set);
  }
  if (all.empty()) all.push_back(0);
  return all;
}

// `real` as RIDGELINE_PROCESSORS wants it.
std::vector<int> pretended_processors(std::vector<int> real) {
  const char* const wish = std::getenv("RIDGELINE_PROCESSORS");
  if (wish == nullptr) return real;
  const std::string_view text = wish;
  int count = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (problem != std::errc() || end != text.data() + text.size() || count < 1 || count > Machine::kMaxProcessors) {
    throw Error(fmt::format("RIDGELINE_PROCESSORS={}: no number from 1 to {}", text, Machine::kMaxProcessors),
                "Unset RIDGELINE_PROCESSORS to use the processors that there are.");
  }
  std::vector<int> processors(static_cast<size_t>(count));
  for (size_t i = 0; i < processors.size(); ++i) processors[i] = real[i % real.size()];
  return processors;
}

std::string read_model_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown CPU";
}

int64_t free_memory() {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    long long kib = 0;
    if (std::sscanf(line.c_str(), "MemAvailable: %lld", &kib) == 1) return kib * 1024;
  }
  return Machine::kUnlimited;
}

int64_t free_cgroup_memory() {
  std::ifstream membership("/proc/self/cgroup");
  const std::string text{std::istreambuf_iterator<char>(membership), {}};
  return cgroup_headroom("/sys/fs/cgroup", text);
}

int64_t free_addresses() {
  struct rlimit limit {};
  if (::getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return Machine::kUnlimited;
  std::ifstream file("/proc/self/statm");
  int64_t pages = 0;
  file >> pages;
  return std::max<int64_t>(static_cast<int64_t>(limit.rlim_cur) - pages * ::sysconf(_SC_PAGESIZE), 0);
}

// The number that a file of a cgroup holds; nothing for "max" and where there is no file.
std::optional<int64_t> number_in(const std::filesystem::path& file) {
  std::ifstream stream(file);
  int64_t value = 0;
  if (!(stream >> value)) return std::nullopt;
  return value;
}

// Bytes of files that the kernel drops when memory is asked for, but counts as used until then.
int64_t reclaimable(const std::filesystem::path& folder) {
  std::ifstream stream(folder / "memory.stat");
  std::string name;
  int64_t value = 0, own = 0, total = 0;
  while (stream >> name >> value) {
    if (name == "inactive_file") own = value;
    if (name == "total_inactive_file") total = value;  // version 1: with the groups below
  }
  return std::max(own, total);
}

// What the limits of `folder` and of the folders above it, up to `root`, leave.
int64_t headroom_of(const std::filesystem::path& root, std::string_view folder, const char* limit, const char* used) {
  int64_t left = Machine::kUnlimited;
  for (std::filesystem::path path = std::filesystem::path(folder).relative_path();; path = path.parent_path()) {
    const std::optional<int64_t> most = number_in(root / path / limit), now = number_in(root / path / used);
    if (most && now)
      left = std::min(left, std::max<int64_t>(*most - std::max<int64_t>(*now - reclaimable(root / path), 0), 0));
    if (path.empty()) return left;
  }
}

}  // namespace

Machine Machine::read() {
  RL_REQUIRE(BoundThread::count() == 0, "the machine is read while {} threads are bound to some of its processors",
             BoundThread::count());
  return {.processors = pretended_processors(allowed_processors()),
          .model_name = read_model_name(),
          .memory = free_memory(),
          .cgroup_memory = free_cgroup_memory(),
          .addresses = free_addresses()};
}

int Machine::threads_per_rank(int ranks) const {
  return std::max(1, count() / (ranks_on_processors > 0 ? ranks_on_processors : ranks));
}

WorkerTeam::Place Machine::place_of_rank(int rank, int ranks, int threads) const {
  const int64_t busy = int64_t{ranks} * threads;
  const std::set<int> real(processors.begin(), processors.end());
  WorkerTeam::Place place{.processors = {}, .crowded = busy > static_cast<int64_t>(real.size())};
  if (busy == count())
    place.processors.assign(processors.begin() + int64_t{rank} * threads,
                            processors.begin() + (int64_t{rank} + 1) * threads);
  return place;
}

int64_t cgroup_headroom(const std::filesystem::path& root, std::string_view membership) {
  int64_t left = Machine::kUnlimited;
  std::istringstream lines{std::string(membership)};
  for (std::string line; std::getline(lines, line);) {
    // "4:memory,hugetlb:/jobs/7" (version 1), "0::/jobs/7" (version 2)
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string folder = line.substr(second + 1);
    if (controllers == ",,") left = std::min(left, headroom_of(root, folder, "memory.max", "memory.current"));
    if (controllers.find(",memory,") == std::string::npos) continue;
    left = std::min(left, headroom_of(root / "memory", folder, "memory.limit_in_bytes", "memory.usage_in_bytes"));
  }
  return left;
}

struct BoundThread::Before {
  cpu_set_t processors;
};

BoundThread::BoundThread(std::span<const int> processors) {
  if (processors.empty()) return;
  auto before = std::make_unique<Before>();
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int processor : processors) {
    if (processor < CPU_SETSIZE) CPU_SET(static_cast<size_t>(processor), &set);
  }
  if (::pthread_getaffinity_np(::pthread_self(), sizeof before->processors, &before->processors) != 0) return;
  if (::pthread_setaffinity_np(::pthread_self(), sizeof set, &set) != 0) return;
  before_ = std::move(before);
  bound_threads.fetch_add(1);
}

BoundThread::~BoundThread() {
  if (!before_) return;
  ::pthread_setaffinity_np(::pthread_self(), sizeof before_->processors, &before_->processors);
  bound_threads.fetch_sub(1);
}

int BoundThread::count() {
  return bound_threads.load();
}

}  // namespace ridgeline::device
