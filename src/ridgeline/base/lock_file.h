// One writer per output: while a process writes to a run folder, a dataset or a model folder, it holds a lock file
// there; a second writer is refused at once, and told which process on which host was first, and since when.
//
// The lock is the kernel's (an open file description lock, fcntl F_OFD_SETLK): the end of a process, however sudden,
// releases it, and a lock file that was left behind stands in nobody's way. On a shared file system:
//   NFS 3 (with lockd) and 4, Lustre mounted with `-o flock`, GPFS, CephFS, BeeGFS with tuneUseGlobalFileLocks
//       carry these locks between hosts: a second writer anywhere is refused at once.
//   NFS `nolock` or `local_lock`, Lustre `-o localflock`, BeeGFS as it comes
//       hold them on each host for itself: between hosts the beat decides.
//   Lustre without either option, some FUSE file systems
//       refuse them (ENOSYS, EOPNOTSUPP, ENOLCK): whoever creates the file has the lock; on the same host the process
//       that it names must still run, between hosts the beat decides.
// The beat: on file systems that hosts share, the holder counts up in its lock file every few seconds. Who finds the
// file of a holder on another host that did not say goodbye watches for that long: a beat refuses, silence means that
// the holder is gone. So only a start after a crash on *another* host takes these seconds.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "ridgeline/base/error.h"

namespace ridgeline {

// Another process holds the lock.
class LockHeld : public Error {
  using Error::Error;
};

// How tests put other file systems in the place of this one.
struct LockSettings {
  bool carries_locks = true;             // false: as on a file system that refuses them
  std::optional<bool> shared = {};       // between hosts; absent: by the kind of file system
  std::chrono::milliseconds beat{3000};  // between beats; silence of five is the end
  std::string machine = {};              // absent: this one
};

class LockFile {
 public:
  // Creates `file` in a folder that exists, and locks it. `what` it protects, in words: "the run in 'runs/a'";
  // `command` says to others what this process does: "ridgeline train". LockHeld when another process holds it; Error
  // when the file cannot be made.
  LockFile(const std::filesystem::path& file, const std::string& what, const std::string& command,
           const LockSettings& settings = {});
  // Removes the file and releases the lock.
  ~LockFile();
  // Of a folder that is written to: `folder`/ridgeline.lock. A folder that is not there is made, and goes with the lock
  // when nothing was written to it.
  static std::unique_ptr<const LockFile> of_folder(const std::filesystem::path& folder, const std::string& what,
                                                   const std::string& command);
  // LockHeld where the constructor would throw it now; takes nothing, and writes nothing.
  static void require_free(const std::filesystem::path& file, const std::string& what,
                           const LockSettings& settings = {});
  LockFile(const LockFile&) = delete;
  LockFile& operator=(const LockFile&) = delete;

  // Differs between any two locks ever taken: who reads the same one in the file sees the same folder.
  const std::string& token() const;

 private:
  struct Held;
  std::unique_ptr<Held> held_;
};

// `folder`/ridgeline.lock.
std::filesystem::path lock_file_of(const std::filesystem::path& folder);
// The token in a lock file; "" where there is none.
std::string lock_token(const std::filesystem::path& file);

}  // namespace ridgeline
