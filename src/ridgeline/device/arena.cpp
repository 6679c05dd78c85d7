#include "ridgeline/device/arena.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/worker_team.h"

namespace ridgeline::device {
namespace {
constexpr int64_t kHugePage = int64_t{2} << 20;
constexpr int64_t kPage = 4096;
int64_t round_up(int64_t value, int64_t unit) {
  return (value + unit - 1) / unit * unit;
}
}  // namespace

void Arena::map(int64_t bytes, bool huge) {
  size_ = round_up(bytes, kPage);
  const int64_t slack = size_ >= kHugePage ? kHugePage : 0;
  void* address = ::mmap(nullptr, static_cast<size_t>(size_ + slack), PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (address == MAP_FAILED) {
    throw system_error(fmt::format("cannot reserve {:.2f} GiB of memory", static_cast<double>(size_) / (1 << 30)),
                       errno);
  }
  auto* begin = static_cast<std::byte*>(address);
  if (slack > 0) {
    auto* aligned = reinterpret_cast<std::byte*>(round_up(reinterpret_cast<int64_t>(begin), kHugePage));
    if (aligned > begin) ::munmap(begin, static_cast<size_t>(aligned - begin));
    const int64_t tail = (begin + size_ + slack) - (aligned + size_);
    if (tail > 0) ::munmap(aligned + size_, static_cast<size_t>(tail));
    begin = aligned;
  }
  if (huge) ::madvise(begin, static_cast<size_t>(size_), MADV_HUGEPAGE);
  data_ = begin;
}

Arena::Arena(int64_t bytes, WorkerTeam* team) {
  if (bytes <= 0) return;
  // Small arenas keep small pages: a huge page for a few kilobytes would break the promise of exact memory.
  map(bytes, bytes >= kHugePage);
  const auto touch = [&](int64_t first, int64_t last) {
    for (int64_t at = first; at < last; at += kPage) *reinterpret_cast<volatile char*>(data_ + at) = 0;
  };
  if (team != nullptr) {
    team->parallel_for(size_, kHugePage, touch);
  } else {
    touch(0, size_);
  }
}

Arena Arena::reserved(int64_t bytes) {
  Arena arena;
  if (bytes > 0) arena.map(bytes, false);
  return arena;
}

Arena::~Arena() {
  if (data_ != nullptr) ::munmap(data_, static_cast<size_t>(size_));
}

Arena::Arena(Arena&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Arena& Arena::operator=(Arena&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

ResidentMemory resident_memory() {
  ResidentMemory memory;
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    long long kib = 0;
    if (std::sscanf(line.c_str(), "VmRSS: %lld", &kib) == 1) memory.now = kib * 1024;
    if (std::sscanf(line.c_str(), "VmHWM: %lld", &kib) == 1) memory.peak = kib * 1024;
    if (std::sscanf(line.c_str(), "RssAnon: %lld", &kib) == 1) memory.anonymous = kib * 1024;
    if (std::sscanf(line.c_str(), "RssFile: %lld", &kib) == 1) memory.file = kib * 1024;
    if (std::sscanf(line.c_str(), "RssShmem: %lld", &kib) == 1) memory.shared = kib * 1024;
  }
  return memory;
}

}  // namespace ridgeline::device
