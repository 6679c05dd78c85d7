// The log of a single rank, for `train --logs`: which rank is slow, and in what, is in no other file.
#pragma once

#include <filesystem>
#include <fstream>

#include "ridgeline/comm/communicator.h"
#include "ridgeline/train/step_log.h"

namespace ridgeline::train {

class RankLog {
 public:
  // Appends to the rank's file in the logs of the run's folder; makes that folder. Error when it cannot be written.
  RankLog(const std::filesystem::path& run, const comm::World& world);
  // One line: the step's seconds, and where they went on this rank.
  void record(const StepRecord& record);

 private:
  void write(const std::string& line);
  std::filesystem::path path_;
  std::ofstream file_;
};

}  // namespace ridgeline::train
