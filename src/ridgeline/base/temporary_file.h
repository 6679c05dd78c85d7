// Files that are nobody's until they are whole: what an interrupted program leaves behind is nothing.
//
// The bytes go to a file without a name where the file system can do that (O_TMPFILE), which is gone with the process,
// however that ends. Elsewhere, and for the moment in which one file takes another's place, it has a name beside the
// target ("NAME.PID.N.tmp"); all such names are in one table, which remove_temporary_files() empties.
#pragma once

#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "ridgeline/base/file.h"

namespace ridgeline {

class TemporaryFile {
 public:
  enum class Naming {
    late,  // without a name as long as that is possible
    early  // with a name from the start: what file systems without O_TMPFILE do
  };

  // Error when there can be no file beside `target`.
  explicit TemporaryFile(std::filesystem::path target, Naming naming = Naming::late);
  // What was not placed is gone.
  ~TemporaryFile();
  TemporaryFile(TemporaryFile&& other) noexcept;
  TemporaryFile& operator=(TemporaryFile&&) = delete;
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  // Read and write; messages call it by the name of its target.
  File& file() { return file_; }

  // Syncs, gives the file the target's name, in place of what has it, and syncs the folder: a reader sees the old file
  // or the whole new one. Closes the file.
  void place();

 private:
  int open(Naming naming);
  std::filesystem::path target_;
  std::string name_;  // "" as long as there is none
  int entry_ = -1;    // of name_ in the table
  File file_;
};

// While it lives, remove_temporary_files() also removes what its paths name then (files, or folders that are empty). A
// stop that comes while it begins, ends or removes finds all of them or none. Paths past the table's room (128 at a
// time, 4095 bytes) are not remembered.
class GoesWithProcess {
 public:
  explicit GoesWithProcess(const std::filesystem::path& path);
  // The files of one thing.
  explicit GoesWithProcess(std::span<const std::filesystem::path> paths);
  // create() makes what `path` names, in moments and without an exception, and says whether it did; else nothing goes.
  GoesWithProcess(const std::filesystem::path& path, const std::function<bool()>& create);
  // What it names stays.
  ~GoesWithProcess();
  GoesWithProcess(const GoesWithProcess&) = delete;
  GoesWithProcess& operator=(const GoesWithProcess&) = delete;

  // Removes what it names, if it can, and forgets it.
  void remove();

 private:
  void claim();
  void forget();
  std::vector<std::string> paths_;
  std::vector<int> entries_;  // of paths_ in the table
};

// Removes every named temporary of this process. Async-signal-safe: for the handler of a signal that ends the process,
// which must not return to the work (files that are being created at that moment are waited for).
void remove_temporary_files() noexcept;

}  // namespace ridgeline
