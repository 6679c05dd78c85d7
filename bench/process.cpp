#include "bench/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <thread>
#include <utility>

#include "ridgeline/base/error.h"

namespace ridgeline::bench {

Process::Process(const std::vector<std::string>& command, const std::vector<std::string>& environment)
    : command_(fmt::format("{}", fmt::join(command, " "))) {
  int to_child[2], from_child[2];
  if (::pipe2(to_child, O_CLOEXEC) != 0 || ::pipe2(from_child, O_CLOEXEC) != 0)
    throw system_error("cannot make a pipe", errno);
  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  child_ = ::fork();
  if (child_ < 0) throw system_error("cannot start a process", errno);
  if (child_ == 0) {
    ::dup2(to_child[0], STDIN_FILENO);
    ::dup2(from_child[1], STDOUT_FILENO);
    for (const std::string& entry : environment) {
      const size_t equals = entry.find('=');
      if (equals == std::string::npos) {
        ::unsetenv(entry.c_str());
      } else {
        ::setenv(entry.substr(0, equals).c_str(), entry.c_str() + equals + 1, 1);
      }
    }
    ::execvp(arguments[0], arguments.data());
    ::_exit(127);
  }
  ::close(to_child[0]);
  ::close(from_child[1]);
  input_ = to_child[1];
  output_ = from_child[0];
}

Process::Process(Process&& other) noexcept
    : command_(std::move(other.command_)),
      child_(std::exchange(other.child_, -1)),
      input_(std::exchange(other.input_, -1)),
      output_(std::exchange(other.output_, -1)),
      pending_(std::move(other.pending_)) {}

Process::~Process() {
  if (input_ >= 0) ::close(input_);
  if (output_ >= 0) ::close(output_);
  if (child_ <= 0) return;
  // The end of its input ends it, and a launcher's ranks with it; killed at once they would be left behind.
  for (int tries = 0; tries < 300; ++tries) {
    if (::waitpid(child_, nullptr, WNOHANG) == child_) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  ::kill(child_, SIGKILL);
  ::waitpid(child_, nullptr, 0);
}

void Process::write_line(const std::string& line) {
  const std::string text = line + "\n";
  if (::write(input_, text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    throw system_error(fmt::format("`{}` does not listen any more", command_), errno);
  }
}

std::string Process::read_json_line() {
  for (;;) {
    const size_t end = pending_.find('\n');
    if (end != std::string::npos) {
      std::string line = pending_.substr(0, end);
      pending_.erase(0, end + 1);
      if (!line.empty() && line.front() == '{') return line;
      continue;
    }
    char buffer[4096];
    const ssize_t got = ::read(output_, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) throw Error(fmt::format("`{}` ended before it answered", command_), "Run it by hand to see why.");
    pending_.append(buffer, static_cast<size_t>(got));
  }
}

}  // namespace ridgeline::bench
