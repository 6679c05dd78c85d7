#include "ridgeline/comm/start_word.h"

#include <time.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "ridgeline/comm/failure_log.h"

namespace ridgeline::comm::detail {

using Milliseconds = std::chrono::milliseconds;

StartWord::StartWord(const WorldOptions& options, int rank) : options_(options), rank_(rank), began_(::time(nullptr)) {}

Milliseconds StartWord::turn(Milliseconds limit) const {
  // Ranks beyond the last turn speak at once: only where all before them are missing.
  constexpr Milliseconds kOfRankZero{1000}, kOfEach{25};
  constexpr int kTurns = 40;
  if (rank_ <= 0) return Milliseconds(0);
  return std::min(limit, kOfRankZero) + kOfEach * std::min(rank_ - 1, kTurns);
}

bool StartWord::tell(const Failure& failure) const {
  const std::string& file = options_.failure_file;
  if (rank_ > 1 && file.empty()) return false;
  // Of the second in which this process began, too: rank 0 may have found it out at once.
  if (rank_ > 0 && !file.empty() && written_since(file, began_ - 1)) return true;
  if (options_.on_failure) options_.on_failure(failure);
  if (!file.empty()) {
    // Nobody has made the folder of a run that has not come together yet.
    std::error_code ignored;
    std::filesystem::create_directories(std::filesystem::path(file).parent_path(), ignored);
    write_failure_file(file, failure, began_);
  }
  return static_cast<bool>(options_.on_failure);
}

}  // namespace ridgeline::comm::detail
