#include "ridgeline/base/lock_file.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <fstream>
#include <map>
#include <mutex>
#include <random>
#include <sstream>
#include <thread>
#include <utility>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/base/temporary_file.h"

namespace ridgeline {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

// "beat: " and its ten digits stand at the start, so that a beat is one small write.
constexpr std::string_view kBeat = "beat: ";
constexpr int kSilentBeats = 5;

// What a lock file says of its holder.
struct Holder {
  int64_t process = 0;
  std::string begun;    // of the process, in the kernel's ticks: process numbers come again
  std::string machine;  // this start of this kernel, and the process numbers' namespace
  std::string host, command, since, token, beat;

  std::string kernel() const { return machine.substr(0, machine.find(' ')); }
};

std::string first_line(const fs::path& file) {
  std::ifstream stream(file);
  std::string line;
  std::getline(stream, line);
  return line;
}

std::string this_machine() {
  std::error_code ignored;
  const fs::path space = fs::read_symlink("/proc/self/ns/pid", ignored);
  return first_line("/proc/sys/kernel/random/boot_id") + " " + space.string();
}

// When a process began; "" when there is no such process (or it is a zombie, which writes nothing any more).
std::string begin_of(int64_t process) {
  const std::string line = first_line(fmt::format("/proc/{}/stat", process));
  const size_t name_end = line.rfind(')');  // the name may hold anything
  if (name_end == std::string::npos) return {};
  std::istringstream fields(line.substr(name_end + 1));
  std::string field;
  for (int number = 3; fields >> field; ++number) {
    if (number == 3 && (field == "Z" || field == "X")) return {};
    if (number == 22) return field;
  }
  return {};
}

std::string host_name() {
  std::array<char, 256> name{};
  ::gethostname(name.data(), name.size() - 1);
  return name.data();
}

std::string new_token() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random());
}

std::string read_all(int descriptor) {
  std::array<char, 2048> text{};
  const ssize_t size = ::pread(descriptor, text.data(), text.size(), 0);
  return {text.data(), static_cast<size_t>(std::max<ssize_t>(size, 0))};
}

std::optional<Holder> parse(const std::string& text) {
  std::map<std::string, std::string, std::less<>> values;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (const size_t colon = line.find(": "); colon != std::string::npos)
      values[line.substr(0, colon)] = line.substr(colon + 2);
  }
  if (!values.contains("end")) return std::nullopt;  // not yet written, or not by us
  Holder holder{.process = std::atoll(values["process"].c_str()),
                .begun = values["begun"],
                .machine = values["machine"],
                .host = values["host"],
                .command = values["command"],
                .since = values["since"],
                .token = values["token"],
                .beat = values["beat"]};
  return holder;
}

std::string text_of(const Holder& holder) {
  return fmt::format(
      "{}{:010}\nprocess: {}\nhost: {}\ncommand: {}\nsince: {}\nbegun: {}\nmachine: {}\ntoken: {}\nend: .\n", kBeat, 0,
      holder.process, holder.host, holder.command, holder.since, holder.begun, holder.machine, holder.token);
}

// Kinds of file systems (statfs) that only one kernel mounts: on these a lock that is granted says everything.
bool shared_between_hosts(int descriptor) {
  constexpr std::array<uint32_t, 9> kLocal = {0xEF53,     0x58465342, 0x9123683E, 0x01021994, 0x794C7630,
                                              0x2FC12FC1, 0xF2F52010, 0x858458F6, 0x52654973};
  struct statfs info {};
  if (::fstatfs(descriptor, &info) != 0) return true;
  return std::find(kLocal.begin(), kLocal.end(), static_cast<uint32_t>(info.f_type)) == kLocal.end();
}

enum class Lock { granted, held, unsupported };

Lock try_lock(int descriptor, bool carries_locks) {
  if (!carries_locks) return Lock::unsupported;
  struct flock whole {};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  while (::fcntl(descriptor, F_OFD_SETLK, &whole) != 0) {
    if (errno == EINTR) continue;
    return errno == EAGAIN || errno == EACCES ? Lock::held : Lock::unsupported;
  }
  return Lock::granted;
}

// What try_lock would come to, without taking it; for a file that is open for reading only, too.
Lock look_at_lock(int descriptor, bool carries_locks) {
  struct flock whole {};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  if (!carries_locks || ::fcntl(descriptor, F_OFD_GETLK, &whole) != 0) return Lock::unsupported;
  return whole.l_type == F_UNLCK ? Lock::granted : Lock::held;
}

bool still_there(int descriptor, const fs::path& file) {
  struct stat open {
  }, named{};
  return ::fstat(descriptor, &open) == 0 && ::stat(file.c_str(), &named) == 0 && open.st_ino == named.st_ino &&
         open.st_dev == named.st_dev;
}

std::optional<Holder> read_holder(const fs::path& file) {
  const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);  // anew: a shared file system looks again
  if (descriptor < 0) return std::nullopt;
  std::optional<Holder> holder = parse(read_all(descriptor));
  ::close(descriptor);
  return holder;
}

// Of a file that its holder has just created and not yet filled.
std::optional<Holder> await_holder(const fs::path& file, milliseconds most) {
  const auto limit = std::chrono::steady_clock::now() + most;
  for (;;) {
    std::optional<Holder> holder = read_holder(file);
    if (holder || std::chrono::steady_clock::now() > limit) return holder;
    std::this_thread::sleep_for(milliseconds(20));
  }
}

// Whether the file changes within the silence that means the end.
bool beats(const fs::path& file, const Holder& seen, milliseconds beat) {
  const auto limit = std::chrono::steady_clock::now() + kSilentBeats * beat;
  while (std::chrono::steady_clock::now() < limit) {
    std::this_thread::sleep_for(std::min<milliseconds>(beat / 4, milliseconds(500)));
    const std::optional<Holder> now = read_holder(file);
    if (!now) return false;  // it said goodbye
    if (now->beat != seen.beat || now->token != seen.token) return true;
  }
  return false;
}

[[noreturn]] void refuse(const std::string& what, const std::optional<Holder>& holder) {
  const std::string who = holder ? fmt::format("process {} on host {} ({}) since {}", holder->process, holder->host,
                                               holder->command, holder->since)
                                 : "another process that has just begun";
  throw LockHeld(fmt::format("{} is being written by {}", what, who),
                 "Wait for it or stop it; or choose another --out.");
}

}  // namespace

struct LockFile::Held {
  fs::path file;
  std::string what;
  LockSettings settings;
  Holder self;
  int descriptor = -1;
  std::mutex mutex;
  std::condition_variable stop;
  bool stopped = false;
  std::thread heart;
  // What goes with the lock, also when a signal ends the process: the file, and a folder that was made for it.
  std::optional<GoesWithProcess> folder_goes, file_goes;

  ~Held() {
    {
      const std::lock_guard guard(mutex);
      stopped = true;
    }
    stop.notify_all();
    if (heart.joinable()) heart.join();
    if (file_goes && still_there(descriptor, file)) file_goes->remove();
    file_goes.reset();
    if (descriptor >= 0) ::close(descriptor);
    if (folder_goes) folder_goes->remove();  // unless it holds something
  }

  // False when the file was taken away meanwhile: try again.
  bool attempt() {
    constexpr int kFlags = O_RDWR | O_CLOEXEC;
    Lock lock = Lock::held;
    int problem = 0;
    file_goes.emplace(file, [&] {
      descriptor = ::open(file.c_str(), kFlags | O_CREAT | O_EXCL, 0666);
      problem = errno;
      if (descriptor < 0) return false;
      lock = try_lock(descriptor, settings.carries_locks);
      return lock != Lock::held;
    });
    const bool created = descriptor >= 0;
    if (!created) {
      if (problem == EEXIST) {
        descriptor = ::open(file.c_str(), kFlags);
        problem = errno;
      }
      if (descriptor < 0) {
        file_goes.reset();
        if (problem == ENOENT && fs::exists(file.parent_path().empty() ? fs::path(".") : file.parent_path()))
          return false;
        throw system_error(fmt::format("cannot create the lock file '{}'", file.string()), problem);
      }
      lock = try_lock(descriptor, settings.carries_locks);
    }
    if (lock == Lock::held) {
      file_goes.reset();
      ::close(std::exchange(descriptor, -1));
      refuse(what, await_holder(file, milliseconds(1000)));
    }
    if (!still_there(descriptor, file) || (!created && !over(lock))) {
      file_goes.reset();
      ::close(std::exchange(descriptor, -1));
      return false;
    }
    if (!created) file_goes.emplace(file);
    return true;
  }

  // Sees to the holder before: refuses while it lives, takes its file away where only the file was the lock. False:
  // somebody else was faster.
  bool over(Lock lock) {
    refuse_while_alive(lock);
    if (lock == Lock::granted) return true;
    take_away();
    return false;
  }

  void refuse_while_alive(Lock lock) {
    const bool alone = lock == Lock::granted;  // among the processes that the lock reaches
    const bool filled = alone && !settings.shared.value_or(shared_between_hosts(descriptor));
    const std::optional<Holder> before =
        filled ? read_holder(file) : await_holder(file, milliseconds(alone ? 300 : 2000));
    if (before && lives(*before, alone)) {
      ::close(std::exchange(descriptor, -1));
      refuse(what, before);
    }
  }

  // Unlinks the file of a dead holder, which is open: not the one that somebody as quick has put in its place since.
  // Only who has made a file named after it does so, so that nothing changes between the look and the unlinking.
  void take_away() const {
    struct stat dead {};
    if (::fstat(descriptor, &dead) != 0) return;
    const std::string mark = fmt::format("{}.{}.gone", file.string(), dead.st_ino);
    bool made = false;
    GoesWithProcess mark_goes(mark, [&] {
      const int mark_descriptor = ::open(mark.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      made = mark_descriptor >= 0;
      if (made) ::close(mark_descriptor);
      return made;
    });
    if (made) {
      if (still_there(descriptor, file)) ::unlink(file.c_str());
      mark_goes.remove();
      return;
    }
    struct stat other {};  // of one that was killed in these moments
    constexpr int kSeconds = 10;
    if (::stat(mark.c_str(), &other) == 0 && std::time(nullptr) - other.st_mtime > kSeconds) ::unlink(mark.c_str());
  }

  bool lives(const Holder& before, bool alone) const {
    const std::string kernel = self.kernel();
    if (!kernel.empty() && before.kernel() == kernel) {
      if (alone) return false;  // this kernel would have refused the lock
      if (before.machine == self.machine) return begin_of(before.process) == before.begun && !before.begun.empty();
    }
    if (!settings.shared.value_or(shared_between_hosts(descriptor))) return false;
    return beats(file, before, settings.beat);
  }

  void write() {
    const std::string text = text_of(self);
    if (::ftruncate(descriptor, 0) != 0 || ::pwrite(descriptor, text.data(), text.size(), 0) < 0) {
      const int number = errno;
      throw system_error(fmt::format("cannot write the lock file '{}'", file.string()), number);
    }
  }

  void live() {
    if (!settings.shared.value_or(shared_between_hosts(descriptor))) return;
    heart = std::thread([this] {
      std::unique_lock guard(mutex);
      for (uint64_t count = 1; !stop.wait_for(guard, settings.beat, [this] { return stopped; }); ++count) {
        const std::string digits = fmt::format("{:010}", count);
        // A beat that fails is one beat less; nothing depends on a single one.
        [[maybe_unused]] const ssize_t ignored = ::pwrite(descriptor, digits.data(), digits.size(), kBeat.size());
      }
    });
  }
};

LockFile::LockFile(const fs::path& file, const std::string& what, const std::string& command,
                   const LockSettings& settings)
    : held_(std::make_unique<Held>()) {
  held_->file = file;
  held_->what = what;
  held_->settings = settings;
  const std::time_t now = std::time(nullptr);
  held_->self = {.process = ::getpid(),
                 .begun = begin_of(::getpid()),
                 .machine = settings.machine.empty() ? this_machine() : settings.machine,
                 .host = host_name(),
                 .command = command,
                 .since = fmt::format("{:%Y-%m-%d %H:%M:%S} UTC", fmt::gmtime(now)),
                 .token = new_token(),
                 .beat = {}};
  constexpr int kAttempts = 100;
  for (int attempt = 0; !held_->attempt(); ++attempt) {
    if (attempt == kAttempts) refuse(what, read_holder(file));
    std::this_thread::sleep_for(milliseconds(5));
  }
  held_->write();
  held_->live();
}

LockFile::~LockFile() = default;

std::unique_ptr<const LockFile> LockFile::of_folder(const fs::path& folder, const std::string& what,
                                                    const std::string& command) {
  std::error_code ignored;
  const bool there = fs::exists(folder, ignored);
  make_folder(folder);
  auto lock = std::make_unique<LockFile>(lock_file_of(folder), what, command);
  if (there) return lock;
  lock->held_->folder_goes.emplace(folder);
  return lock;
}

void LockFile::require_free(const fs::path& file, const std::string& what, const LockSettings& settings) {
  Held look;
  look.file = file;
  look.what = what;
  look.settings = settings;
  look.self.machine = settings.machine.empty() ? this_machine() : settings.machine;
  look.descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (look.descriptor < 0) return;
  const Lock lock = look_at_lock(look.descriptor, settings.carries_locks);
  if (lock == Lock::held) refuse(what, await_holder(file, milliseconds(1000)));
  look.refuse_while_alive(lock);
}

const std::string& LockFile::token() const {
  return held_->self.token;
}

fs::path lock_file_of(const fs::path& folder) {
  return folder / "ridgeline.lock";
}

std::string lock_token(const fs::path& file) {
  const std::optional<Holder> holder = await_holder(file, milliseconds(0));
  return holder ? holder->token : std::string();
}

}  // namespace ridgeline
