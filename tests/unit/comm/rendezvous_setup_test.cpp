// Where ranks meet and which of them a process is.
#include "ridgeline/comm/rendezvous_setup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "../environment.h"
#include "ridgeline/base/error.h"
#include "ridgeline/comm/communicator.h"

namespace ridgeline::comm::detail {
namespace {

class RendezvousSetupTest : public testing::Test {
 protected:
  void set(const std::map<std::string, std::string>& values) { environment_.set(values); }
  static RendezvousSetup read(std::string_view given) { return rendezvous_setup(given, std::chrono::seconds(1)); }
  static std::string error_of(std::string_view given) {
    try {
      read(given);
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing was thrown";
  }

  Environment environment_{"RIDGELINE_RANK",
                           "RIDGELINE_WORLD_SIZE",
                           "RANK",
                           "WORLD_SIZE",
                           "OMPI_COMM_WORLD_RANK",
                           "OMPI_COMM_WORLD_SIZE",
                           "PMI_RANK",
                           "PMI_SIZE",
                           "SLURM_PROCID",
                           "SLURM_STEP_NUM_TASKS",
                           "SLURM_STEP_NODELIST",
                           "SLURM_JOB_ID",
                           "SLURM_STEP_ID",
                           "RIDGELINE_RENDEZVOUS",
                           "RIDGELINE_RENDEZVOUS_SECRET",
                           "PMI_FD",
                           "PMIX_RANK"};
};

TEST_F(RendezvousSetupTest, ReadsHostAndPort) {
  set({{"RIDGELINE_RANK", "3"}, {"RIDGELINE_WORLD_SIZE", "8"}, {"RIDGELINE_RENDEZVOUS_SECRET", "word"}});
  const RendezvousSetup setup = read("node1.cluster:29400");
  EXPECT_EQ(setup.host, "node1.cluster");
  EXPECT_EQ(setup.port, 29400);
  EXPECT_EQ(setup.rank, 3);
  EXPECT_EQ(setup.size, 8);
  EXPECT_EQ(setup.secret, "word");
  EXPECT_EQ(setup.place(), "node1.cluster:29400");
  EXPECT_EQ(read("[fd00::1]:1").host, "fd00::1");
}

TEST_F(RendezvousSetupTest, RefusesWhatIsNoHostAndPort) {
  set({{"RANK", "0"}, {"WORLD_SIZE", "1"}});
  for (const char* given : {"node1", "node1:", ":29400", "node1:0", "node1:65536", "node1:port", "node1:1x", ""}) {
    EXPECT_THAT(error_of(given), testing::HasSubstr("not a host and a port")) << given;
  }
}

TEST_F(RendezvousSetupTest, TheNearestStarterSaysWhichRankThisIs) {
  set({{"SLURM_PROCID", "5"}, {"SLURM_STEP_NUM_TASKS", "6"}});
  EXPECT_EQ(read("a:1").rank, 5);
  EXPECT_EQ(rank_in_environment(), 5);
  set({{"PMI_RANK", "4"}, {"PMI_SIZE", "6"}});
  EXPECT_EQ(read("a:1").rank, 4);
  set({{"OMPI_COMM_WORLD_RANK", "3"}, {"OMPI_COMM_WORLD_SIZE", "6"}});
  EXPECT_EQ(read("a:1").rank, 3);
  set({{"RANK", "2"}, {"WORLD_SIZE", "7"}});
  EXPECT_EQ(read("a:1").rank, 2);
  EXPECT_EQ(read("a:1").size, 7);
  set({{"RIDGELINE_RANK", "1"}, {"RIDGELINE_WORLD_SIZE", "9"}});
  EXPECT_EQ(read("a:1").rank, 1);
  EXPECT_EQ(read("a:1").size, 9);
  EXPECT_EQ(rank_in_environment(), 1);
}

TEST_F(RendezvousSetupTest, SaysWhatIsMissingOfRankAndSize) {
  EXPECT_THAT(error_of("a:1"), testing::HasSubstr("set RIDGELINE_RANK and RIDGELINE_WORLD_SIZE"));
  set({{"SLURM_PROCID", "0"}});  // of a batch script
  EXPECT_THAT(error_of("a:1"), testing::HasSubstr("set RIDGELINE_RANK and RIDGELINE_WORLD_SIZE"));
  for (const auto& [rank, size] : std::map<std::string, std::string>{{"1", ""}, {"4", "4"}, {"-1", "4"}, {"x", "4"}}) {
    set({{"RIDGELINE_RANK", rank}, {"RIDGELINE_WORLD_SIZE", size}});
    EXPECT_THAT(error_of("a:1"), testing::HasSubstr("RIDGELINE_RANK = '" + rank + "'")) << rank;
  }
}

TEST_F(RendezvousSetupTest, SlurmStepsMeetOnTheirFirstHost) {
  EXPECT_EQ(first_of_hosts("node7"), "node7");
  EXPECT_EQ(first_of_hosts("node7,node8"), "node7");
  EXPECT_EQ(first_of_hosts("node[007-009,12],other"), "node007");
  EXPECT_EQ(first_of_hosts("node[3,5]"), "node3");
  EXPECT_EQ(first_of_hosts("a1,node[3,5]"), "a1");
  EXPECT_EQ(first_of_hosts("rack[1-2]-net,b"), "rack1-net");
  EXPECT_EQ(first_of_hosts(""), "");
  EXPECT_EQ(first_of_hosts("node[3"), "");
  EXPECT_THAT(error_of("slurm"), testing::HasSubstr("srun did not start this process"));
  set({{"SLURM_PROCID", "1"},
       {"SLURM_STEP_NUM_TASKS", "2"},
       {"SLURM_STEP_NODELIST", "node[2-3]"},
       {"SLURM_JOB_ID", "123"},
       {"SLURM_STEP_ID", "0"}});
  const RendezvousSetup first = read("slurm");
  EXPECT_EQ(first.host, "node2");
  EXPECT_TRUE(first.port >= 20'000 && first.port < 32'000) << first.port;
  set({{"SLURM_STEP_ID", "1"}});
  EXPECT_NE(read("slurm").port, first.port);
}

TEST_F(RendezvousSetupTest, ARendezvousMakesAProcessARank) {
  EXPECT_FALSE(launched());
  EXPECT_FALSE(may_have_company());
  EXPECT_EQ(rank_in_environment(), -1);
  EXPECT_TRUE(launched("a:1"));
  set({{"RIDGELINE_RENDEZVOUS", "b:2"}});
  EXPECT_TRUE(launched() && may_have_company());
  EXPECT_EQ(chosen_rendezvous(""), "b:2");
  EXPECT_EQ(chosen_rendezvous("a:1"), "a:1");
  environment_.unset("RIDGELINE_RENDEZVOUS");
  set({{"RANK", "0"}, {"WORLD_SIZE", "2"}});
  EXPECT_FALSE(launched());
  EXPECT_TRUE(may_have_company());
}

}  // namespace
}  // namespace ridgeline::comm::detail
