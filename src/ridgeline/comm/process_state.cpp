#include "ridgeline/comm/process_state.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <charconv>
#include <string_view>

namespace ridgeline::comm::detail {
namespace {

constexpr unsigned kExiting = 4;       // PF_EXITING, include/linux/sched.h
constexpr int kFieldsBeforeFlags = 6;  // from the state's on

unsigned flags_of(std::string_view fields) {
  for (int field = 0; field < kFieldsBeforeFlags; ++field) {
    const size_t space = fields.find(' ');
    if (space == std::string_view::npos) return 0;
    fields.remove_prefix(space + 1);
  }
  unsigned flags = 0;
  std::from_chars(fields.data(), fields.data() + fields.size(), flags);
  return flags;
}

}  // namespace

ProcessState process_state(int process) {
  const int file = ::open(fmt::format("/proc/{}/stat", process).c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return {};
  char text[1024];
  const ssize_t count = ::read(file, text, sizeof(text));
  ::close(file);
  std::string_view all(text, count > 0 ? static_cast<size_t>(count) : 0);
  // The name, in parentheses, may hold any character; the fields behind it hold none, and the last is the exit status.
  const size_t name_end = all.rfind(')');
  if (name_end == std::string_view::npos || name_end + 2 >= all.size()) return {};
  ProcessState state{.letter = all[name_end + 2]};
  state.ends = (flags_of(all.substr(name_end + 2)) & kExiting) != 0;
  all.remove_suffix(all.size() - 1 - all.find_last_not_of('\n'));
  const size_t last = all.rfind(' ') + 1;
  std::from_chars(all.data() + last, all.data() + all.size(), state.exit_status);
  return state;
}

}  // namespace ridgeline::comm::detail
