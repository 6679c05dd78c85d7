// A run as a job of a site: how many ranks where, with how many threads, and whether it fits. Pure.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "ridgeline/launch/site.h"
#include "ridgeline/train/config.h"

namespace ridgeline::launch {

// What the user asks for.
struct JobRequest {
  std::filesystem::path config, out;
  std::vector<std::string> overrides;  // KEY=VALUE
  std::vector<std::string> train;      // further options of `train`
  int nodes = 1;
  int ranks_per_node = 0;   // 0: as the site has it
  double seconds = 3600;    // of the job
  std::string account;      // "": the site's
  std::string program_mpi;  // `--mpi=` that the program's MPI wants of srun; "": it has none
  std::string command;      // that wrote the script, for its first lines
};

struct Job {
  JobRequest request;  // complete
  int ranks_per_node = 1;
  int64_t cores_per_rank = 1;
  bool devices = false;      // each rank has one of its own
  std::string mpi;           // `--mpi=` of srun; "": as Slurm is configured
  bool rendezvous = false;   // ranks meet over TCP instead
  bool sum_group = false;    // the last override sets parallel.sum_group
  double signal_before = 0;  // seconds
  int64_t rank_bytes = 0;    // of the rank that takes most
  int64_t order_bytes = 0;   // of each rank beside that, for the order of samples

  int ranks() const { return request.nodes * ranks_per_node; }
};

// Error, with the nearest remedy, where the site has no such nodes or time, where `train` would refuse the
// configuration on so many ranks, and where the ranks of a node do not fit its memory: this version computes on
// processors, whatever devices there are. Where train.threads is 0, threads become an override: a rank's share of the
// cores; where the configuration does not say parallel.sum_group and ranks that sum gradients share a node, so does
// that (plan::best_sum_group). A program without MPI gets --rendezvous slurm, unless request.train has a rendezvous.
// `config` is complete, request.overrides are in it.
Job make_job(const Site& site, JobRequest request, train::Config config);

}  // namespace ridgeline::launch
