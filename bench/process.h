// A child process with its standard input and output as lines: the programs whose steps a benchmark interleaves.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

namespace ridgeline::bench {

class Process {
 public:
  // Starts `command` (searched in PATH) with `environment` ("NAME=value", "NAME" alone unsets) over this process's own.
  explicit Process(const std::vector<std::string>& command, const std::vector<std::string>& environment = {});
  // Closes its input, and kills it when it still runs half a minute later.
  ~Process();
  Process(Process&& other) noexcept;
  Process& operator=(Process&&) = delete;

  void write_line(const std::string& line);
  // The next line that begins with '{'; others are skipped. Error when the child ends instead.
  std::string read_json_line();

 private:
  std::string command_;  // for messages
  pid_t child_ = -1;
  int input_ = -1, output_ = -1;
  std::string pending_;
};

}  // namespace ridgeline::bench
