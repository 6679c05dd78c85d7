#include "ridgeline/launch/job.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "ridgeline/base/error.h"
#include "ridgeline/device/machine.h"
#include "ridgeline/observe/format.h"
#include "ridgeline/plan/memory_report.h"
#include "ridgeline/plan/traffic.h"
#include "ridgeline/train/remedy.h"
#include "ridgeline/train/sample_order.h"
#include "ridgeline/train/trainer.h"

namespace ridgeline::launch {
namespace {

constexpr double kHour = 3600;

void check_time(const Site& site, const JobRequest& request, const train::Config& config) {
  if (request.seconds <= config.train.stop_before_limit)
    throw Error(fmt::format("--time: {}: train.stop_before_limit keeps {} of it, which leaves no time for a step",
                            observe::format_duration(request.seconds),
                            observe::format_duration(config.train.stop_before_limit)),
                "Ask for more time, or give --set train.stop_before_limit=SECONDS.");
  if (site.limits.empty()) return;
  const auto limit = std::find_if(site.limits.begin(), site.limits.end(),
                                  [&](const TimeLimit& one) { return request.nodes <= one.nodes; });
  if (limit == site.limits.end())
    throw Error(
        fmt::format("--nodes {}: a job of {} has at most {}", request.nodes, site.name, site.limits.back().nodes),
        "Ask for fewer.");
  if (request.seconds <= limit->hours * kHour) return;
  throw Error(fmt::format("--time: {} on {}: {} gives jobs of up to {} at most {} h",
                          observe::format_duration(request.seconds), observe::format_counted(request.nodes, "node"),
                          site.name, observe::format_counted(limit->nodes, "node"), limit->hours),
              fmt::format("Ask for {} h: the job saves, queues itself again, and goes on.", limit->hours));
}

void lay_out(const Site& site, const train::Config& config, Job& job) {
  const int ranks = job.ranks_per_node;
  if (ranks > site.node.cores)
    throw Error(fmt::format("--ranks-per-node {}: a node of {} has {}", ranks, site.name,
                            observe::format_counted(site.node.cores, "core")),
                "A rank takes a core at the least.");
  job.cores_per_rank = site.node.cores / ranks;
  job.devices = ranks == site.node.devices;
  if (config.train.threads > job.cores_per_rank)
    throw Error(fmt::format("train.threads = {}: with {} on the {} of a node each has {}", config.train.threads,
                            observe::format_counted(ranks, "rank"), observe::format_counted(site.node.cores, "core"),
                            job.cores_per_rank),
                "Leave it out: 0 becomes that number. Or give fewer --ranks-per-node.");
}

// Ranks spread over more nodes, where that alone makes them fit; else nothing.
std::string spread(const Site& site, const Job& job) {
  const int64_t most = site.bytes() / (job.rank_bytes + job.order_bytes);
  for (int64_t each = std::min<int64_t>(most, job.ranks_per_node - 1); each > 0; --each) {
    if (job.ranks() % each == 0)
      return fmt::format(" Or spread the {} ranks: --ranks-per-node {} --nodes {}.", job.ranks(), each,
                         job.ranks() / each);
  }
  return {};
}

void check_memory(const Site& site, const train::Config& config, Job& job) {
  const comm::Mesh mesh = train::mesh_of(config, job.ranks());
  device::Machine machine;
  machine.processors.resize(static_cast<size_t>(site.node.cores));
  std::iota(machine.processors.begin(), machine.processors.end(), 0);
  machine.memory = site.bytes();
  const plan::MemoryReport report = train::memory_report(config, machine, mesh);
  job.rank_bytes = report.total;
  job.order_bytes = train::planned_order(config).bytes;
  plan::Limit limit{.bytes = site.bytes(), .ranks = job.ranks_per_node, .of = "node"};
  train::require_index_fits(config, job.order_bytes, limit.bytes / job.ranks_per_node, limit.of);
  limit.beside = job.order_bytes * job.ranks_per_node;
  plan::require_fits(
      report, limit, [&] { return train::nearest_remedy(config, machine, mesh, limit) + spread(site, job); },
      train::most_of_it(config, report));
}

// One sum travels for all ranks of a node that sum gradients.
void set_sum_group(train::Config& config, Job& job) {
  if (config.origins.contains("parallel.sum_group")) return;
  const comm::Mesh mesh = train::mesh_of(config, job.ranks());
  const int64_t best = plan::best_sum_group(train::sharding_of(config, mesh), job.ranks_per_node);
  job.sum_group = best != 0 && best != config.parallel.sum_group;
  if (!job.sum_group) return;
  config.parallel.sum_group = best;
  job.request.overrides.push_back(fmt::format("parallel.sum_group={}", best));
}

// How ranks find each other.
void set_connection(const Site& site, Job& job) {
  JobRequest& request = job.request;
  const bool given = std::any_of(request.train.begin(), request.train.end(), [](const std::string& word) {
    return word == "--rendezvous" || word.starts_with("--rendezvous=");
  });
  job.rendezvous = given || (request.program_mpi.empty() && job.ranks() > 1);
  if (job.rendezvous && !given) request.train.insert(request.train.end(), {"--rendezvous", "slurm"});
  job.mpi = job.rendezvous ? "none" : site.slurm.mpi == "auto" ? request.program_mpi : site.slurm.mpi;
}

}  // namespace

Job make_job(const Site& site, JobRequest request, train::Config config) {
  Job job{.request = std::move(request)};
  job.ranks_per_node = job.request.ranks_per_node == 0 ? static_cast<int>(site.node.ranks) : job.request.ranks_per_node;
  if (job.request.account.empty()) job.request.account = site.slurm.account;
  check_time(site, job.request, config);
  lay_out(site, config, job);
  if (config.train.threads == 0) {
    config.train.threads = job.cores_per_rank;
    job.request.overrides.push_back(fmt::format("train.threads={}", job.cores_per_rank));
  }
  train::check(config, job.ranks());
  train::require_data(config);
  set_sum_group(config, job);
  check_memory(site, config, job);
  set_connection(site, job);
  // Of a short job a quarter: it is to do something first.
  job.signal_before = std::min(site.slurm.signal_before, job.request.seconds / 4);
  return job;
}

}  // namespace ridgeline::launch
