// Files: mapped for reading, written by ranges, replaced atomically. Every failure is an Error that names the path.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace ridgeline {

// A whole file mapped read-only. Empty files map to an empty span. Movable, not copyable.
class MappedFile {
 public:
  enum class Access { random, sequential };

  explicit MappedFile(const std::filesystem::path& path, Access access = Access::random);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }
  const std::filesystem::path& path() const { return path_; }

 private:
  void release() noexcept;
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// An open file for positioned reads and writes (pread/pwrite), safe to share between threads and ranks.
class File {
 public:
  enum class Mode {
    read,
    create,  // created or truncated, read and write
    update   // must exist, read and write
  };

  File(const std::filesystem::path& path, Mode mode);
  // Takes over what is open already; `path` is for messages.
  File(std::filesystem::path path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}
  ~File();
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  void write_at(int64_t offset, std::span<const std::byte> bytes);
  // Throws when the file ends before `bytes` is full.
  void read_at(int64_t offset, std::span<std::byte> bytes) const;
  // Sets the size; growing leaves a hole (reads as zeros).
  void resize(int64_t size);
  // Reserves disk space, so that a full disk shows now and not half-way through a save.
  void reserve(int64_t size);
  // On return the data is on the device (fdatasync).
  void sync();
  // Has the system begin to bring a range to the device, so that sync() finds little to wait for. Only a hint: what
  // goes wrong with it sync() says.
  void begin_sync(int64_t offset, int64_t bytes);
  int64_t size() const;
  int descriptor() const { return descriptor_; }
  // Closes and reports what close() reports; the destructor closes silently.
  void close();
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

// Writes `bytes` to a TemporaryFile, syncs it, gives it the name `path` and syncs the folder: a reader sees the old
// file or the whole new one, never a part.
void write_atomically(const std::filesystem::path& path, std::string_view bytes);

// Removes the temporary files of write_atomically(`path`, …) calls that never returned. Only when nobody writes `path`.
void remove_temporaries(const std::filesystem::path& path);

// rename() then fsync of the parent folder.
void rename_durably(const std::filesystem::path& from, const std::filesystem::path& to);

// After a file of `folder` got its name: that it has it is on the device, where the file system can promise that.
void sync_folder(const std::filesystem::path& folder);

// The whole file as a string.
std::string read_text(const std::filesystem::path& path);

// mkdir -p; an Error that names the path when it cannot.
void make_folder(const std::filesystem::path& path);

template <typename T>
std::span<const std::byte> bytes_of(std::span<const T> values) {
  return std::as_bytes(values);
}
inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span<const char>(text.data(), text.size()));
}

}  // namespace ridgeline
