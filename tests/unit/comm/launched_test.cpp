// A process that srun started beside others must not take itself for the only rank.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "../environment.h"
#include "ridgeline/base/error.h"
#include "ridgeline/comm/communicator.h"

namespace ridgeline::comm {
namespace {

class RequireCompany : public testing::Test {
 protected:
  void step(const char* tasks) { environment_.set({{"SLURM_STEP_NUM_TASKS", tasks}, {"SLURM_PROCID", "0"}}); }

  Environment environment_{"SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "HYDI_CONTROL_FD", "OMPI_COMM_WORLD_SIZE"};
};

TEST_F(RequireCompany, IsContentOutsideOfSlurmAndInAStepOfOneTask) {
  EXPECT_NO_THROW(require_company());
  step("1");
  EXPECT_NO_THROW(require_company());
}

TEST_F(RequireCompany, IsContentInABatchScript) {
  environment_.set("SLURM_PROCID", "0");
  EXPECT_NO_THROW(require_company());
}

TEST_F(RequireCompany, OneOfSeveralTasksIsToldWhatToStart) {
  step("4");
  try {
    require_company();
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_THAT(error.message(), testing::HasSubstr("4 tasks"));
    const std::string flag = slurm_mpi_flag();
    EXPECT_THAT(error.next_step(), testing::HasSubstr(flag.empty() ? "built without MPI" : "srun --mpi=" + flag + "`"));
  }
}

TEST_F(RequireCompany, AnotherLauncherBetweenKnowsBetter) {
  for (const char* name : {"HYDI_CONTROL_FD", "OMPI_COMM_WORLD_SIZE"}) {
    step("4");
    environment_.set(name, "1");
    EXPECT_NO_THROW(require_company()) << name;
    environment_.unset(name);
  }
}

}  // namespace
}  // namespace ridgeline::comm
