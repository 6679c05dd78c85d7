// A process that srun started beside others must not take itself for the only rank.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <string>

#include "ridgeline/base/error.h"
#include "ridgeline/comm/communicator.h"

namespace ridgeline::comm {
namespace {

class RequireCompany : public testing::Test {
 protected:
  static constexpr const char* kNames[] = {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "HYDI_CONTROL_FD",
                                           "OMPI_COMM_WORLD_SIZE"};
  void SetUp() override {
    for (const char* name : kNames) {
      if (const char* value = std::getenv(name)) before_[name] = value;
      ::unsetenv(name);
    }
  }
  void TearDown() override {
    for (const char* name : kNames) ::unsetenv(name);
    for (const auto& [name, value] : before_) ::setenv(name.c_str(), value.c_str(), 1);
  }
  static void step(const char* tasks) {
    ::setenv("SLURM_STEP_NUM_TASKS", tasks, 1);
    ::setenv("SLURM_PROCID", "0", 1);
  }

 private:
  std::map<std::string, std::string> before_;
};

TEST_F(RequireCompany, IsContentOutsideOfSlurmAndInAStepOfOneTask) {
  EXPECT_NO_THROW(require_company());
  step("1");
  EXPECT_NO_THROW(require_company());
}

TEST_F(RequireCompany, IsContentInABatchScript) {
  ::setenv("SLURM_PROCID", "0", 1);
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
    ::setenv(name, "1", 1);
    EXPECT_NO_THROW(require_company()) << name;
    ::unsetenv(name);
  }
}

}  // namespace
}  // namespace ridgeline::comm
