#include "ridgeline/base/temporary_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>
#include <functional>
#include <span>
#include <utility>

#include "ridgeline/base/error.h"

namespace ridgeline {
namespace {

namespace fs = std::filesystem;

// The table is plain memory, since a signal handler reads it. A handler waits while an entry is busy (its file is being
// created or renamed), and so that it never waits for the thread that it interrupted, that thread blocks signals
// meanwhile.
enum class State : int { free, busy, present };
constexpr size_t kEntries = 128;  // more at a time, or longer paths, are not remembered
constexpr size_t kLongestPath = 4096;
constexpr int kMostMilliseconds = 3000;  // a handler's patience with a file system that does not answer
struct Entry {
  std::atomic<State> state{State::free};
  std::array<char, kLongestPath> path{};
};
std::array<Entry, kEntries> remembered;
std::atomic<bool> ending{false};

// Enters `path`, busy; -1 when it cannot be remembered.
int enter(const std::string& path) {
  if (path.size() >= kLongestPath) return -1;
  for (size_t i = 0; i < kEntries; ++i) {
    State expected = State::free;
    if (!remembered[i].state.compare_exchange_strong(expected, State::busy)) continue;
    std::memcpy(remembered[i].path.data(), path.c_str(), path.size() + 1);
    return static_cast<int>(i);
  }
  return -1;
}

void set(int entry, State state) {
  if (entry >= 0) remembered[static_cast<size_t>(entry)].state.store(state);
}

// While it lives no handler runs on this thread: none that would wait for what this thread is busy with.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_{};
};

// Once a handler has begun, which may have passed these busy entries already, nothing may be created, renamed or kept
// any more: then the entries become `otherwise`, and this thread waits for the end.
void require_going_on(std::span<const int> entries, State otherwise) {
  if (!ending.load()) [[likely]]
    return;
  for (const int entry : entries) set(entry, otherwise);
  while (true) ::pause();
}

// create() makes the file called `path` and says whether it did; errno says why not. `entry` is then its place in the
// table, or -1.
template <typename Create>
bool create_named(const std::string& path, int& entry, Create create) {
  const SignalsBlocked blocked;
  entry = enter(path);
  require_going_on({&entry, 1}, State::free);
  if (create()) {
    set(entry, State::present);
    return true;
  }
  const int number = errno;
  set(std::exchange(entry, -1), State::free);
  errno = number;
  return false;
}

std::string name_beside(const fs::path& target) {
  static std::atomic<unsigned> counter{0};
  return fmt::format("{}.{}.{}.tmp", target.string(), ::getpid(), counter++);
}

fs::path folder_of(const fs::path& target) {
  return target.has_parent_path() ? target.parent_path() : fs::path(".");
}

// -1 when this file system, or this system without /proc, has no files without names.
int open_unnamed(const fs::path& target) {
#ifdef O_TMPFILE
  if (::access("/proc/self/fd", X_OK) != 0) return -1;
  return ::open(folder_of(target).c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);
#else
  return -1;
#endif
}

// Whether the unnamed file now also has the name `to`; errno says why not.
bool link_unnamed(int descriptor, const std::string& to) {
  const std::string from = fmt::format("/proc/self/fd/{}", descriptor);
  return ::linkat(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), AT_SYMLINK_FOLLOW) == 0;
}

}  // namespace

int TemporaryFile::open(Naming naming) {
  int descriptor = naming == Naming::late ? open_unnamed(target_) : -1;
  if (descriptor >= 0) return descriptor;
  const std::string name = name_beside(target_);
  const auto create = [&] {
    descriptor = ::open(name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    return descriptor >= 0;
  };
  if (!create_named(name, entry_, create))
    throw system_error(fmt::format("cannot create '{}'", target_.string()), errno);
  name_ = name;
  return descriptor;
}

TemporaryFile::TemporaryFile(fs::path target, Naming naming)
    : target_(std::move(target)), file_(target_, open(naming)) {}

TemporaryFile::TemporaryFile(TemporaryFile&& other) noexcept
    : target_(std::move(other.target_)),
      name_(std::exchange(other.name_, {})),
      entry_(std::exchange(other.entry_, -1)),
      file_(std::move(other.file_)) {}

TemporaryFile::~TemporaryFile() {
  if (name_.empty()) return;
  ::unlink(name_.c_str());
  set(entry_, State::free);
}

void TemporaryFile::place() {
  file_.sync();
  if (name_.empty() && link_unnamed(file_.descriptor(), target_.string())) {
    file_.close();
    return sync_folder(folder_of(target_));
  }
  if (name_.empty()) {  // the target's is taken: one beside it, to be renamed
    const std::string name = name_beside(target_);
    if (!create_named(name, entry_, [&] { return link_unnamed(file_.descriptor(), name); }))
      throw system_error(fmt::format("cannot put '{}' in place", target_.string()), errno);
    name_ = name;
  }
  file_.close();
  {
    const SignalsBlocked blocked;
    set(entry_, State::busy);
    require_going_on({&entry_, 1}, State::present);
    const bool renamed = ::rename(name_.c_str(), target_.c_str()) == 0;
    set(entry_, renamed ? State::free : State::present);
    if (!renamed) throw system_error(fmt::format("cannot rename into place '{}'", target_.string()), errno);
    name_.clear();
  }
  sync_folder(folder_of(target_));
}

GoesWithProcess::GoesWithProcess(const fs::path& path) : GoesWithProcess({&path, 1}) {}

GoesWithProcess::GoesWithProcess(std::span<const fs::path> paths) {
  for (const fs::path& path : paths) paths_.push_back(path.string());
  entries_.assign(paths_.size(), -1);
  const SignalsBlocked blocked;
  for (size_t i = 0; i < paths_.size(); ++i) entries_[i] = enter(paths_[i]);
  require_going_on(entries_, State::free);
  for (const int entry : entries_) set(entry, State::present);
}

GoesWithProcess::GoesWithProcess(const fs::path& path, const std::function<bool()>& create)
    : paths_{path.string()}, entries_{-1} {
  if (!create_named(paths_.front(), entries_.front(), create)) forget();
}

GoesWithProcess::~GoesWithProcess() {
  const SignalsBlocked blocked;
  claim();
  forget();
}

void GoesWithProcess::remove() {
  const SignalsBlocked blocked;
  claim();
  for (const std::string& path : paths_) {
    if (::unlink(path.c_str()) != 0 && errno == EISDIR) ::rmdir(path.c_str());
  }
  forget();
}

// A handler that begins from here on waits until forget(); one that has begun removes them all.
void GoesWithProcess::claim() {
  for (const int entry : entries_) set(entry, State::busy);
  require_going_on(entries_, State::present);
}

void GoesWithProcess::forget() {
  for (const int entry : entries_) set(entry, State::free);
  entries_.clear();
  paths_.clear();
}

void remove_temporary_files() noexcept {
  ending.store(true);
  int patience = kMostMilliseconds;
  // One look at a state decides: what becomes busy after it finds `ending` set, and waits.
  const auto is_present = [&patience](const Entry& entry) {
    State state = entry.state.load();
    for (; state == State::busy && patience > 0; --patience) {
      const timespec moment{0, 1'000'000};
      ::nanosleep(&moment, nullptr);
      state = entry.state.load();
    }
    return state == State::present;
  };
  bool folders = false;
  for (const Entry& entry : remembered) {
    if (is_present(entry) && ::unlink(entry.path.data()) != 0) folders |= errno == EISDIR;
  }
  if (!folders) return;
  // When they are empty: after the files.
  for (const Entry& entry : remembered) {
    if (is_present(entry)) ::rmdir(entry.path.data());
  }
}

void write_atomically(const fs::path& path, std::string_view bytes) {
  TemporaryFile temporary(path);
  temporary.file().write_at(0, bytes_of(bytes));
  temporary.place();
}

}  // namespace ridgeline
