#include "ridgeline/base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>
#include <vector>

#include "ridgeline/base/error.h"

namespace ridgeline {
namespace {

namespace fs = std::filesystem;

Error file_error(std::string_view action, const fs::path& path) {
  const int number = errno;
  return system_error(fmt::format("cannot {} '{}'", action, path.string()), number);
}

int open_or_throw(const fs::path& path, int flags, std::string_view action) {
  const int descriptor = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
  if (descriptor < 0) throw file_error(action, path);
  return descriptor;
}

}  // namespace

MappedFile::MappedFile(const fs::path& path, Access access) : path_(path) {
  const int descriptor = open_or_throw(path, O_RDONLY, "open");
  struct stat info {};
  if (::fstat(descriptor, &info) != 0) {
    const Error error = file_error("look at", path);
    ::close(descriptor);
    throw error;
  }
  if (S_ISDIR(info.st_mode)) {
    ::close(descriptor);
    throw Error(fmt::format("'{}' is a folder, not a file", path.string()));
  }
  size_ = static_cast<size_t>(info.st_size);
  if (size_ > 0) {
    void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (address == MAP_FAILED) {
      const Error error = file_error("map", path);
      ::close(descriptor);
      throw error;
    }
    ::madvise(address, size_, access == Access::sequential ? MADV_SEQUENTIAL : MADV_RANDOM);
    data_ = static_cast<const std::byte*>(address);
  }
  ::close(descriptor);
}

void MappedFile::release() noexcept {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  data_ = nullptr;
  size_ = 0;
}

MappedFile::~MappedFile() {
  release();
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    release();
    path_ = std::move(other.path_);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

File::File(const fs::path& path, Mode mode) : path_(path) {
  switch (mode) {
    case Mode::read:
      descriptor_ = open_or_throw(path, O_RDONLY, "open");
      break;
    case Mode::create:
      descriptor_ = open_or_throw(path, O_RDWR | O_CREAT | O_TRUNC, "create");
      break;
    case Mode::update:
      descriptor_ = open_or_throw(path, O_RDWR, "open for writing");
      break;
  }
}

File::~File() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

File::File(File&& other) noexcept : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

File& File::operator=(File&& other) noexcept {
  if (this != &other) {
    if (descriptor_ >= 0) ::close(descriptor_);
    path_ = std::move(other.path_);
    descriptor_ = std::exchange(other.descriptor_, -1);
  }
  return *this;
}

void File::write_at(int64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    // Some systems cut a single write at 2 GiB.
    const size_t part = std::min<size_t>(bytes.size(), size_t{1} << 30);
    const ssize_t written = ::pwrite(descriptor_, bytes.data(), part, offset);
    if (written < 0) {
      if (errno == EINTR) continue;
      throw file_error("write", path_);
    }
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += written;
  }
}

void File::read_at(int64_t offset, std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    const size_t part = std::min<size_t>(bytes.size(), size_t{1} << 30);
    const ssize_t got = ::pread(descriptor_, bytes.data(), part, offset);
    if (got < 0) {
      if (errno == EINTR) continue;
      throw file_error("read", path_);
    }
    if (got == 0) {
      throw Error(fmt::format("'{}' ends at byte {}, {} bytes before what was to be read", path_.string(), offset,
                              bytes.size()),
                  "The file is cut short; get it again or use an older one.");
    }
    bytes = bytes.subspan(static_cast<size_t>(got));
    offset += got;
  }
}

void File::resize(int64_t size) {
  if (::ftruncate(descriptor_, size) != 0) throw file_error("set the size of", path_);
}

void File::reserve(int64_t size) {
  if (size <= 0) return;
  const int number = ::posix_fallocate(descriptor_, 0, size);
  if (number == 0) return;
  // A file system without reservation only loses the early warning.
  if (number == EOPNOTSUPP || number == EINVAL) return resize(size);
  throw system_error(fmt::format("cannot reserve {} bytes for '{}'", size, path_.string()), number);
}

void File::sync() {
  if (::fdatasync(descriptor_) != 0) throw file_error("sync", path_);
}

void File::begin_sync(int64_t offset, int64_t bytes) {
#if defined(__linux__)
  ::sync_file_range(descriptor_, offset, bytes, SYNC_FILE_RANGE_WRITE);
#endif
}

int64_t File::size() const {
  struct stat info {};
  if (::fstat(descriptor_, &info) != 0) throw file_error("look at", path_);
  return info.st_size;
}

void File::close() {
  const int descriptor = std::exchange(descriptor_, -1);
  if (descriptor >= 0 && ::close(descriptor) != 0) throw file_error("close", path_);
}

void sync_folder(const fs::path& folder) {
  const int descriptor = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  ::fsync(descriptor);  // Some file systems refuse to sync folders; the rename itself has already succeeded.
  ::close(descriptor);
}

void remove_temporaries(const fs::path& path) {
  const std::string begin = path.filename().string() + ".";
  std::vector<fs::path> found;
  std::error_code code;
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, code)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(begin) || !name.ends_with(".tmp") || name.size() <= begin.size() + 4) continue;
    const std::string_view middle = std::string_view(name).substr(begin.size(), name.size() - begin.size() - 4);
    // A process and a count, see write_atomically().
    if (middle.find_first_not_of("0123456789.") == std::string_view::npos) found.push_back(entry.path());
  }
  for (const fs::path& temporary : found) {
    if (!fs::remove(temporary, code) && code)
      throw system_error(fmt::format("cannot remove '{}'", temporary.string()), code.value());
  }
}

void rename_durably(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) throw file_error("rename into place", to);
  sync_folder(to.parent_path());
}

std::string read_text(const fs::path& path) {
  const MappedFile file(path, MappedFile::Access::sequential);
  return std::string(file.text());
}

void make_folder(const fs::path& path) {
  std::error_code code;
  fs::create_directories(path, code);
  if (code) throw system_error(fmt::format("cannot create the folder '{}'", path.string()), code.value());
}

}  // namespace ridgeline
