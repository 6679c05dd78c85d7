#include "ridgeline/train/rank_log.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <ctime>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/comm/failure.h"
#include "ridgeline/train/run_folder.h"

namespace ridgeline::train {
namespace {

// In the order of parallel::Phase.
constexpr std::array kPhaseNames = {"gather", "forward", "loss", "backward", "reduce", "update", "exchange"};
static_assert(kPhaseNames.size() == parallel::kPhases);

}  // namespace

RankLog::RankLog(const std::filesystem::path& run, const comm::World& world)
    : path_(comm::rank_log_path((run / kLogsName).string(), world.rank())) {
  make_folder(path_.parent_path());
  file_.open(path_, std::ios::app);
  std::array<char, 64> host{};
  ::gethostname(host.data(), host.size() - 1);
  write(fmt::format("rank {} of {} on host {}, process {}", world.rank(), world.size(), host.data(), ::getpid()));
}

void RankLog::record(const StepRecord& record) {
  std::string line =
      fmt::format("step {}: {:.6f} s: data {:.6f}", record.step, record.step_seconds, record.data_seconds);
  for (size_t phase = 0; phase < kPhaseNames.size(); ++phase)
    line += fmt::format(", {} {:.6f}", kPhaseNames[phase], static_cast<double>(record.phases[phase]) * 1e-9);
  write(line);
}

void RankLog::write(const std::string& line) {
  // At once on its way: the process may not live to say more.
  file_ << fmt::format("{:%FT%TZ} {}\n", fmt::gmtime(std::time(nullptr)), line) << std::flush;
  if (!file_) throw Error(fmt::format("cannot write '{}'", path_.string()), "Is the disk full? Leave out --logs.");
}

}  // namespace ridgeline::train
