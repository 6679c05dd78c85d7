#include "ridgeline/base/error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

namespace ridgeline {
namespace {

using testing::HasSubstr;

TEST(Error, SaysWhatHappenedAndWhatToDoNext) {
  const Error error("data.train: no file matches 'x*.bin'", "Check the pattern.");
  EXPECT_STREQ(error.what(), "data.train: no file matches 'x*.bin'\n  Check the pattern.");
  EXPECT_EQ(error.next_step(), "Check the pattern.");
  EXPECT_STREQ(Error("alone").what(), "alone");
}

TEST(SystemError, NamesTheCauseAndANextStep) {
  const Error error = system_error("cannot write 'x'", ENOSPC);
  EXPECT_THAT(error.what(), HasSubstr("cannot write 'x': No space left on device"));
  EXPECT_THAT(error.next_step(), HasSubstr("Free some space"));
}

TEST(Nearest, FindsTypingMistakesOnly) {
  const std::vector<std::string> keys = {"learning_rate", "min_learning_rate", "warmup_steps", "beta1", "beta2"};
  EXPECT_EQ(nearest("learning_rat", keys), "learning_rate");
  EXPECT_EQ(nearest("laerning_rate", keys), "learning_rate");
  EXPECT_EQ(nearest("warmup", keys), "");
  EXPECT_EQ(nearest("beta", keys), "beta1");
  EXPECT_EQ(nearest("colour", keys), "");
  EXPECT_EQ(nearest("x", {}), "");
}

TEST(CheckDeathTest, PrintsBothOperandsAndAborts) {
  const int layers = 3;
  EXPECT_DEATH(RL_CHECK(layers, ==, 4), "layers == 4(.|\n)*3 against 4");
  EXPECT_DEATH(RL_REQUIRE(layers > 5, "{} layers", layers), "layers > 5(.|\n)*3 layers");
  RL_CHECK(layers, <, 4);
  RL_REQUIRE(layers == 3, "never");
}

}  // namespace
}  // namespace ridgeline
