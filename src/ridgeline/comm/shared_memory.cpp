#include "ridgeline/comm/shared_memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <string>
#include <utility>

#include "ridgeline/base/error.h"

namespace ridgeline::comm::detail {
namespace {

constexpr int64_t kPage = 4096;
constexpr int64_t kHugePage = int64_t{2} << 20;

double gib(int64_t bytes) {
  return static_cast<double>(bytes) / (1 << 30);
}

// Touching more than there is would bring the out-of-memory killer instead of an error.
// What is free now counts, not what was when the command began (device::Machine): peers have taken theirs meanwhile.
void check_limits(int64_t bytes) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
      limit.rlim_cur < static_cast<rlim_t>(bytes)) {
    throw Error(fmt::format("{:.2f} GiB of shared memory are needed, but the limit on file sizes is {:.2f} GiB",
                            gib(bytes), gib(static_cast<int64_t>(limit.rlim_cur))),
                "Raise it (ulimit -f unlimited), or use ranks as threads, which need no shared memory.");
  }
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    long long kib = 0;
    if (std::sscanf(line.c_str(), "MemAvailable: %lld", &kib) != 1) continue;
    if (int64_t{kib} * 1024 < bytes) {
      throw Error(fmt::format("{:.2f} GiB of shared memory are needed, but only {:.2f} GiB of memory are free",
                              gib(bytes), gib(int64_t{kib} * 1024)),
                  "Use fewer ranks per host or a smaller model, or shard more of the state.");
    }
  }
}

std::byte* map(int file, int64_t bytes) {
  // Huge pages need an aligned start.
  const int64_t slack = bytes >= kHugePage ? kHugePage : 0;
  void* reserved = ::mmap(nullptr, static_cast<size_t>(bytes + slack), PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED)
    throw system_error(fmt::format("cannot reserve {:.2f} GiB of addresses", gib(bytes)), errno);
  auto* begin = static_cast<std::byte*>(reserved);
  std::byte* start = begin;
  if (slack != 0) {
    start = reinterpret_cast<std::byte*>((reinterpret_cast<int64_t>(begin) + kHugePage - 1) / kHugePage * kHugePage);
    if (start > begin) ::munmap(begin, static_cast<size_t>(start - begin));
    const int64_t tail = begin + slack - start;
    if (tail > 0) ::munmap(start + bytes, static_cast<size_t>(tail));
  }
  if (::mmap(start, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) ==
      MAP_FAILED) {
    const int error = errno;
    ::munmap(start, static_cast<size_t>(bytes));
    throw system_error(fmt::format("cannot map {:.2f} GiB of shared memory", gib(bytes)), error);
  }
  if (slack != 0) ::madvise(start, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  return start;
}

}  // namespace

SharedMemory SharedMemory::create(const char* name, int64_t bytes, bool touch) {
  SharedMemory memory;
  if (bytes <= 0) return memory;
  if (touch) check_limits(bytes);
  memory.size_ = (bytes + kPage - 1) / kPage * kPage;
  memory.file_ = ::memfd_create(name, MFD_CLOEXEC);
  if (memory.file_ < 0) throw system_error("cannot create shared memory (memfd_create)", errno);
  if (::ftruncate(memory.file_, memory.size_) != 0) {
    const int error = errno;
    throw Error(
        system_error(fmt::format("cannot make {:.2f} GiB of shared memory", gib(bytes)), error).message(),
        "Look at the limits on memory and file size (ulimit -a, the job's memory limit), or use ranks as threads.");
  }
  memory.data_ = map(memory.file_, memory.size_);
  if (touch) {
    for (int64_t at = 0; at < memory.size_; at += kPage) *reinterpret_cast<volatile char*>(memory.data_ + at) = 0;
  }
  return memory;
}

SharedMemory SharedMemory::attach(int process, int file, int64_t bytes) {
  SharedMemory memory;
  if (bytes <= 0) return memory;
  const std::string path = fmt::format("/proc/{}/fd/{}", process, file);
  memory.file_ = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (memory.file_ < 0) {
    throw Error(system_error(fmt::format("cannot open a peer's shared memory ({})", path), errno).message(),
                "Ranks of one host must run as the same user and see each other's processes: start them in the same "
                "container, or use ranks as threads.");
  }
  memory.size_ = (bytes + kPage - 1) / kPage * kPage;
  memory.data_ = map(memory.file_, memory.size_);
  memory.close_file();
  return memory;
}

SharedMemory::~SharedMemory() {
  if (data_ != nullptr) ::munmap(data_, static_cast<size_t>(size_));
  close_file();
}

SharedMemory::SharedMemory(SharedMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      file_(std::exchange(other.file_, -1)) {}

SharedMemory& SharedMemory::operator=(SharedMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(file_, other.file_);
  return *this;
}

void SharedMemory::close_file() {
  if (file_ >= 0) ::close(file_);
  file_ = -1;
}

}  // namespace ridgeline::comm::detail
