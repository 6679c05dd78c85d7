// A run as a job: what fits where, what is refused, what the script says.
#include "ridgeline/launch/job.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "ridgeline/base/error.h"
#include "ridgeline/launch/job_script.h"
#include "ridgeline/train/remedy.h"

namespace ridgeline::launch {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

JobRequest request_of(int nodes, const std::string& config) {
  return {.config = "configs/" + config + ".toml",
          .out = "runs/it",
          .nodes = nodes,
          .program_mpi = "pmi2",
          .command = "..."};
}

Job job_of(const Site& site, const JobRequest& request, const std::vector<std::string>& more = {}) {
  return make_job(site, request, train::parse_config(RIDGELINE_SOURCE "/" + request.config.string(), more));
}

std::string job_refusal(const Site& site, const JobRequest& request, const std::vector<std::string>& more = {}) {
  try {
    job_of(site, request, more);
  } catch (const Error& error) {
    return error.what();
  }
  return "none";
}

TEST(Job, TakesRanksAndThreadsFromTheSite) {
  const Site site = read_site("frontier");
  const Job job = job_of(site, request_of(4, "gpt_22b_3d"));
  EXPECT_EQ(job.ranks(), 32);
  EXPECT_EQ(job.cores_per_rank, 7);
  EXPECT_TRUE(job.devices);
  EXPECT_THAT(job.request.overrides, testing::Contains("train.threads=7"));
  EXPECT_EQ(job.signal_before, 300);
  JobRequest fewer = request_of(8, "gpt_22b_3d");
  fewer.ranks_per_node = 4;
  fewer.seconds = 120;  // half of it is the run's own to stop in
  const Job other = job_of(site, fewer, {"train.threads=3"});
  EXPECT_EQ(other.cores_per_rank, 14);
  EXPECT_FALSE(other.devices);
  EXPECT_EQ(other.signal_before, 30);
  EXPECT_TRUE(other.request.overrides.empty());
}

TEST(Job, CountsTheVeryMemoryThatTrainingTakes) {
  const Site site = read_site("generic");
  const JobRequest request = request_of(2, "quickstart");
  const train::Config config =
      train::parse_config(RIDGELINE_SOURCE "/configs/quickstart.toml",
                          std::vector<std::string>{"train.threads=16", "data.train=x", "train.micro_batch=2"});
  JobRequest with_mpi = request;
  with_mpi.program_mpi = "pmix";
  const Job job = make_job(site, with_mpi, config);
  EXPECT_EQ(job.rank_bytes, train::memory_report(config, {}, train::mesh_of(config, 4)).total);
  EXPECT_EQ(job.mpi, "pmix");
}

TEST(Job, RefusesWhatDoesNotFitWithTheNearestRemedy) {
  Site site = read_site("frontier");
  site.node.memory = 200;  // 8 x 33.4 GiB are asked for
  const std::string text = job_refusal(site, request_of(2, "gpt2_xl_ddp"));
  EXPECT_THAT(text, AllOf(HasSubstr("8 ranks on a node need 267"), HasSubstr("200.00 GiB of the node's memory"),
                          HasSubstr("parallel.shard"), HasSubstr("--ranks-per-node 4 --nodes 4")));
  // Both remedies are true.
  JobRequest spread = request_of(4, "gpt2_xl_ddp");
  spread.ranks_per_node = 4;
  EXPECT_EQ(job_refusal(site, spread), "none");
  EXPECT_EQ(job_refusal(site, request_of(2, "gpt2_xl_ddp"), {"parallel.shard=parameters"}), "none");
}

TEST(Job, RefusesWhatTheSiteOrTrainingWould) {
  const Site site = read_site("frontier");
  EXPECT_THAT(job_refusal(site, request_of(3, "gpt_22b_3d")), HasSubstr("24 ranks are no multiple of 32"));
  EXPECT_THAT(job_refusal(site, request_of(4, "gpt_22b_3d"), {"train.global_batch=21"}),
              HasSubstr("train.global_batch"));
  EXPECT_THAT(job_refusal(site, request_of(9409, "gpt2_xl_ddp")), HasSubstr("at most 9408"));
  JobRequest request = request_of(4, "gpt_22b_3d");
  request.seconds = 7201;
  EXPECT_THAT(job_refusal(site, request), AllOf(HasSubstr("up to 91 nodes at most 2 h"), HasSubstr("Ask for 2 h")));
  request.seconds = 7200;
  EXPECT_EQ(job_refusal(site, request), "none");
  request.ranks_per_node = 57;
  EXPECT_THAT(job_refusal(site, request), HasSubstr("has 56 cores"));
  EXPECT_THAT(job_refusal(site, request_of(4, "gpt_22b_3d"), {"train.threads=8"}), HasSubstr("each has 7"));
  EXPECT_THAT(job_refusal(site, request_of(2, "gpt2_xl_ddp"), {"data.train="}), HasSubstr("data.train"));
  request.ranks_per_node = 8;
  request.seconds = 60;
  EXPECT_THAT(job_refusal(site, request), HasSubstr("train.stop_before_limit keeps"));
  EXPECT_EQ(job_refusal(site, request, {"train.stop_before_limit=30"}), "none");
}

TEST(Job, RanksThatNoMpiConnectsMeetOverTcp) {
  const Site site = read_site("generic");  // slurm.mpi = "auto"
  const std::vector<std::string> more = {"data.train=x", "train.global_batch=64"};
  JobRequest request = request_of(2, "gpt2_124m");
  const std::string with = job_script(site, job_of(site, request, more));
  EXPECT_THAT(with, AllOf(HasSubstr("--mpi=pmi2\n"), Not(HasSubstr("--rendezvous"))));
  request.program_mpi.clear();
  const std::string without = job_script(site, job_of(site, request, more));
  EXPECT_THAT(without, AllOf(HasSubstr("--mpi=none\n"), HasSubstr("  --rendezvous\n  slurm\n")));
  EXPECT_EQ(job_of(read_site("frontier"),
                   [&] {
                     JobRequest other = request_of(2, "gpt2_xl_ddp");
                     other.program_mpi.clear();
                     return other;
                   }())
                .mpi,
            "none");
  // A rendezvous of the user's stands, with MPI or without.
  for (const char* mpi : {"", "pmi2"}) {
    request.program_mpi = mpi;
    request.train = {"--rendezvous=node1:29400"};
    const std::string given = job_script(site, job_of(site, request, more));
    EXPECT_THAT(given,
                AllOf(HasSubstr("--mpi=none\n"), HasSubstr("--rendezvous=node1:29400\n"), Not(HasSubstr("slurm\n"))));
  }
  // One rank has nobody to meet.
  request.train.clear();
  request.program_mpi.clear();
  request.nodes = request.ranks_per_node = 1;
  EXPECT_THAT(job_script(site, job_of(site, request, more)), Not(HasSubstr("--rendezvous")));
}

TEST(Job, RanksOfANodeSumFirst) {
  const Site site = read_site("frontier");
  const auto sum_group = [&](const JobRequest& request, const std::vector<std::string>& more) {
    const Job job = job_of(site, request, more);
    std::string found = "none";
    for (const std::string& key : job.request.overrides) {
      if (key.starts_with("parallel.sum_group=")) found = key.substr(key.find('=') + 1);
    }
    EXPECT_EQ(job.sum_group, found != "none");
    EXPECT_EQ(job_script(site, job).find("one sum travels") != std::string::npos, job.sum_group);
    return found;
  };
  const JobRequest sharded = request_of(2, "gptj_6b_fsdp");
  EXPECT_EQ(sum_group(sharded, {}), "none");  // 8, the default
  EXPECT_EQ(sum_group(sharded, {"parallel.tensor=2"}), "4");
  EXPECT_EQ(sum_group(sharded, {"parallel.tensor=2", "parallel.sum_group=8"}), "none");  // the user's
  EXPECT_EQ(sum_group(sharded, {"parallel.tensor=8"}), "none");                          // one of a group on each node
  EXPECT_EQ(sum_group(sharded, {"parallel.shard_group=8"}), "none");  // groups of shards in a node, one replica on each
  JobRequest request = request_of(2, "gpt2_xl_ddp");
  request.ranks_per_node = 4;
  EXPECT_EQ(sum_group(request, {}), "4");
  request.nodes = 1;
  EXPECT_EQ(sum_group(request, {}), "none");
}

TEST(JobScript, SaysWhatCountsAndOnlyThat) {
  const Site site = read_site("lumi");
  const std::string with = job_script(site, job_of(site, request_of(4, "gpt_22b_3d")));
  EXPECT_THAT(with, AllOf(testing::StartsWith(kScriptMark), HasSubstr("#SBATCH --nodes=4\n"),
                          HasSubstr("#SBATCH --time=1:00:00\n"), HasSubstr("#SBATCH --requeue\n"),
                          HasSubstr("#SBATCH --gpus-per-node=8\n"), HasSubstr("mask_cpu:"), HasSubstr("--ntasks=32\n"),
                          HasSubstr("export NCCL_NET_GDR_LEVEL=3\n"), Not(HasSubstr("--mpi"))));
  JobRequest request = request_of(8, "gpt_22b_3d");
  request.ranks_per_node = 4;
  request.account = "a b";
  const std::string without = job_script(site, job_of(site, request));
  EXPECT_THAT(without, AllOf(HasSubstr("#SBATCH --account=\"a b\"\n"), HasSubstr("--cpus-per-task=14\n"),
                             HasSubstr("export FI_CXI_RX_MATCH_MODE=hybrid\n"), Not(HasSubstr("NCCL")),
                             Not(HasSubstr("mask_cpu:")), Not(HasSubstr("gpus-per-node"))));
}

TEST(JobScript, QuotesWordsForTheShell) {
  EXPECT_EQ(shell_word("runs/a-1.toml"), "runs/a-1.toml");
  EXPECT_EQ(shell_word(""), "\"\"");
  EXPECT_EQ(shell_word("it's $HOME"), "\"it's \\$HOME\"");
  EXPECT_EQ(shell_word("a\"b\\`c`"), R"("a\"b\\\`c\`")");
}

}  // namespace
}  // namespace ridgeline::launch
