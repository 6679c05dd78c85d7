#include "ridgeline/comm/failure_log.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "ridgeline/comm/process_state.h"

namespace ridgeline::comm {

std::string rank_log_path(std::string_view folder, int rank) {
  return fmt::format("{}/rank-{:04}.log", folder, rank);
}

namespace detail {
namespace {

std::string standing_text(const RankState& state, bool is_process) {
  const ProcessState process = is_process ? process_state(state.process.load()) : ProcessState{.letter = 'R'};
  if (process.is_dead()) return "is dead";
  if (process.letter == 'T' || process.letter == 't') return "is stopped";
  if (state.departed.load() != 0) return "has ended";
  const int waits = std::min<int>(state.blocked.load(), kBlockedOn);
  if (waits <= 0) return "is busy";
  std::vector<int> ranks;
  for (int i = 0; i < waits; ++i) ranks.push_back(state.blocked_on[i].load());
  return fmt::format("waits for {} {}", ranks.size() == 1 ? "rank" : "ranks", fmt::join(ranks, ", "));
}

std::string report_text(const Host& host, int local, const Failure& failure) {
  const RankState& state = host.state(local);
  const int64_t now = steady_nanoseconds();
  const auto seconds = [&](int64_t since) { return static_cast<double>(now - since) * 1e-9; };
  std::string text = fmt::format("{:%FT%TZ} rank {} of {} on host {}, process {}\n  failure: {}\n  this rank {}",
                                 fmt::gmtime(::time(nullptr)), host.world_rank(local), host.world_size(),
                                 host.host_name(), host.processes() ? state.process.load() : ::getpid(), failure.what,
                                 standing_text(state, host.processes()));
  const int64_t moved = std::max(state.moved.load(), state.heartbeat.load());
  if (moved != 0) text += fmt::format(", last seen to run {:.3f} s ago", seconds(moved));
  text += "\n  operations that it started last, and how many seconds ago:\n";
  for (const Host::StartedOperation& operation : host.last_operations(local))
    text += fmt::format("    {:10.3f}  {}\n", seconds(operation.time), operation.text);
  return text;
}

}  // namespace

bool is_logged(int rank, int culprit, int ranks) {
  const int first = std::clamp(culprit - kLogsOfFailure / 2, 0, std::max(0, ranks - kLogsOfFailure));
  return rank >= first && rank < first + kLogsOfFailure;
}

void write_failure_logs(const Host& host, const Failure& failure) {
  const std::string& folder = host.options().log_folder;
  if (folder.empty() || failure.refusal) return;
  for (int local = 0; local < host.ranks(); ++local) {
    const int rank = host.world_rank(local);
    if (!host.options().log_every_rank && !is_logged(rank, failure.rank, host.world_size())) continue;
    ::mkdir(folder.c_str(), 0755);
    const int file = ::open(rank_log_path(folder, rank).c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (file < 0) return;
    const std::string text = report_text(host, local, failure);
    const ssize_t written = ::write(file, text.data(), text.size());
    ::close(file);
    if (written < 0) return;
  }
}

bool written_since(const std::string& path, int64_t began) {
  struct stat there {};
  return ::stat(path.c_str(), &there) == 0 && there.st_mtim.tv_sec > began;
}

void write_failure_file(const std::string& path, const Failure& failure, int64_t began) {
  if (written_since(path, began)) return;
  const std::string text =
      fmt::format("rank: {}\nhost: {}\noperation: {}\nfailure: {}\nnext: {}\nlog: {}\n", failure.rank, failure.host,
                  failure.operation, failure.what, failure.next, failure.log);
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) return;
  if (::write(file, text.data(), text.size()) < 0) {
    // The failure is still thrown and printed; there is nowhere else to say that the file is missing.
  }
  ::close(file);
}

}  // namespace detail
}  // namespace ridgeline::comm
