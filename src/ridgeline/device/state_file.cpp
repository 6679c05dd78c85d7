#include "ridgeline/device/state_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"

namespace ridgeline::device {
namespace {

// Some systems cut a single transfer at 2 GiB.
constexpr size_t kLargest = size_t{1} << 30;

void check_aligned(int64_t offset, const void* address, size_t bytes) {
  constexpr auto kUnit = static_cast<uint64_t>(StateFile::kAlignment);
  RL_CHECK(static_cast<uint64_t>(offset) % kUnit, ==, 0U);
  RL_CHECK(reinterpret_cast<uintptr_t>(address) % kUnit, ==, 0U);
  RL_CHECK(bytes % kUnit, ==, 0U);
}

// `number` 0: the file ended.
Error transfer_error(std::string_view action, size_t bytes, int64_t offset, const std::string& file, int number) {
  return Error(fmt::format("cannot {} {} bytes at byte {} of {}: {}", action, bytes, offset, file,
                           number == 0 ? "the file ends there" : std::strerror(number)),
               "Look what the system says of that disk (dmesg, df), or offload to another one "
               "(optimizer.offload_directory); go on from the last checkpoint with --resume.");
}

}  // namespace

StateFile::StateFile(std::filesystem::path folder, int64_t bytes, std::string_view owner)
    : folder_(std::move(folder)),
      name_(fmt::format("the offload file of {} in '{}'", owner, folder_.string())),
      size_(bytes) {
  RL_CHECK(bytes, >, 0);
  RL_CHECK(bytes % kAlignment, ==, 0);
  make_folder(folder_);
  std::string path = (folder_ / "state.XXXXXX").string();
  descriptor_ = ::mkostemp(path.data(), O_CLOEXEC);
  if (descriptor_ < 0) throw system_error(fmt::format("cannot create {}", name_), errno);
  ::unlink(path.c_str());
  try {
    reserve();
    direct_ = try_direct();
  } catch (...) {
    ::close(descriptor_);
    throw;
  }
}

StateFile::~StateFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

StateFile::StateFile(StateFile&& other) noexcept
    : folder_(std::move(other.folder_)),
      name_(std::move(other.name_)),
      size_(other.size_),
      descriptor_(std::exchange(other.descriptor_, -1)),
      direct_(other.direct_) {}

void StateFile::reserve() {
  struct statvfs disk {};
  if (::fstatvfs(descriptor_, &disk) != 0)
    throw system_error(fmt::format("cannot look at the disk of {}", name_), errno);
  const auto free = static_cast<int64_t>(disk.f_bavail) * static_cast<int64_t>(disk.f_frsize);
  int number = ENOSPC;
  // Asked first: to reserve more than there is would fill the disk before it fails.
  if (size_ <= free) {
    do {
      number = ::fallocate(descriptor_, 0, 0, size_) == 0 ? 0 : errno;
    } while (number == EINTR);
  }
  if (number == ENOSPC || number == EDQUOT) {
    throw Error(
        fmt::format("{} needs {} bytes, but only {} are free there{}", name_, size_, free,
                    number == EDQUOT ? " and the quota does not allow them" : ""),
        "Free some space, name a folder on a larger disk with optimizer.offload_directory, or cut the state between "
        "more ranks (parallel.shard).");
  }
  // A file system without reservation only loses the early warning.
  if (number == EOPNOTSUPP || number == ENOSYS) number = ::ftruncate(descriptor_, size_) == 0 ? 0 : errno;
  if (number != 0) throw system_error(fmt::format("cannot reserve {} bytes for {}", size_, name_), number);
}

bool StateFile::try_direct() {
  const int flags = ::fcntl(descriptor_, F_GETFL);
  if (::fcntl(descriptor_, F_SETFL, flags | O_DIRECT) != 0) return false;
  // Some take the flag and refuse the transfers, or want more alignment than a page.
  alignas(kAlignment) static constexpr std::byte kZeros[kAlignment] = {};
  if (::pwrite(descriptor_, kZeros, kAlignment, 0) == kAlignment) return true;
  ::fcntl(descriptor_, F_SETFL, flags);
  return false;
}

void StateFile::read(int64_t offset, std::span<std::byte> to) const {
  check_aligned(offset, to.data(), to.size());
  while (!to.empty()) {
    const ssize_t got = ::pread(descriptor_, to.data(), std::min(to.size(), kLargest), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) throw transfer_error("read", to.size(), offset, name_, got == 0 ? 0 : errno);
    to = to.subspan(static_cast<size_t>(got));
    offset += got;
  }
}

void StateFile::write(int64_t offset, std::span<const std::byte> from) {
  check_aligned(offset, from.data(), from.size());
  while (!from.empty()) {
    const ssize_t put = ::pwrite(descriptor_, from.data(), std::min(from.size(), kLargest), offset);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) throw transfer_error("write", from.size(), offset, name_, put == 0 ? ENOSPC : errno);
    from = from.subspan(static_cast<size_t>(put));
    offset += put;
  }
}

}  // namespace ridgeline::device
