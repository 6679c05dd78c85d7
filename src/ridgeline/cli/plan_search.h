// `ridgeline plan --search`: layouts that fit, ranked, and the best of them as a configuration.
#pragma once

#include <cstdint>
#include <filesystem>

#include "ridgeline/cli/command.h"
#include "ridgeline/cli/run_config.h"
#include "ridgeline/plan/step_time.h"

namespace ridgeline::cli {

struct PlanSearchOptions {
  bool search = false;
  int gpus = 0;  // 0: not given
  int most = 20;
  double teraflops = plan::Cluster{}.flops * 1e-12;
  double inside = plan::Cluster{}.inside * 1e-9, between = plan::Cluster{}.between * 1e-9;  // GB/s
  plan::Cluster cluster;
  std::filesystem::path out;
};

void add_plan_search(const Command& command, PlanSearchOptions& options);
// `memory`: of each rank's device; 0: not given.
void search_plan(const PlanSearchOptions& options, const RunConfigOptions& run, int64_t memory, bool json);

}  // namespace ridgeline::cli
