#include "ridgeline/observe/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "../temporary_folder.h"
#include "ridgeline/base/error.h"

namespace ridgeline::observe {
namespace {

namespace fs = std::filesystem;

class MetricsTest : public testing::Test {
 protected:
  fs::path path() const { return folder_ / "metrics.jsonl"; }

 private:
  const TemporaryFolder folder_;
};

TEST_F(MetricsTest, WritesKeysInOrderAndNumbersThatReadBack) {
  auto log = MetricsLog::create(path());
  log.write({{"step", 3}, {"loss", 0.1}, {"ok", true}, {"note", "a\"\\\n\x01ü"}, {"a", std::nan("")}});
  log.write({{"up", std::numeric_limits<float>::infinity()}, {"down", -INFINITY}, {"tiny", 5e-324}, {"big", 1e300}});
  EXPECT_EQ(read_text(path()),
            "{\"step\": 3, \"loss\": 0.1, \"ok\": true, \"note\": \"a\\\"\\\\\\u000a\\u0001ü\", \"a\": \"NaN\"}\n"
            "{\"up\": \"Infinity\", \"down\": \"-Infinity\", \"tiny\": 5e-324, \"big\": 1e+300}\n");
}

TEST_F(MetricsTest, ResumeDropsLaterStepsAndACutLine) {
  {
    auto log = MetricsLog::create(path());
    log.write({{"run", "first"}});
    for (int step = 1; step <= 5; ++step) log.write({{"step", step}, {"loss", 5.0 - step}});
    log.write({{"step", 4}, {"valid_loss", 1.5}});
  }
  const std::string whole = read_text(path());
  write_atomically(path(), whole + "{\"step\": 6, \"lo");
  {
    auto log = MetricsLog::resume(path(), 3);
    log.write({{"step", 4}, {"loss", 9}});
  }
  EXPECT_EQ(read_text(path()),
            "{\"run\": \"first\"}\n{\"step\": 1, \"loss\": 4}\n{\"step\": 2, \"loss\": 3}\n{\"step\": 3, \"loss\": 2}\n"
            "{\"step\": 4, \"loss\": 9}\n");
  // Nothing to drop: the file is continued as it is.
  MetricsLog::resume(path(), 4).write({{"step", 5}});
  EXPECT_TRUE(read_text(path()).ends_with("{\"step\": 4, \"loss\": 9}\n{\"step\": 5}\n"));
}

TEST_F(MetricsTest, ResumeWithoutAFileBeginsOneAndABrokenLineIsNamed) {
  MetricsLog::resume(path(), 7).write({{"step", 8}});
  EXPECT_EQ(read_text(path()), "{\"step\": 8}\n");
  write_atomically(path(), "{\"step\": 1}\nnonsense\n");
  try {
    MetricsLog::resume(path(), 7);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.message(), testing::AllOf(testing::HasSubstr("metrics.jsonl"), testing::HasSubstr("line 2")));
  }
}

TEST_F(MetricsTest, WhatStandsBehindTheRecordOfTheResumedStepIsRemovedWhateverItIs) {
  write_atomically(path(), std::string("{\"step\": 1}\n{\"step\": 2}\n\0\0\0\n{\"step\": 3}\n", 40));
  MetricsLog::resume(path(), 2).write({{"step", 3}});
  EXPECT_EQ(read_text(path()), "{\"step\": 1}\n{\"step\": 2}\n{\"step\": 3}\n");
}

TEST_F(MetricsTest, TheLastRecordIsAmendedOnce) {
  MetricsLog log = MetricsLog::create(path());
  log.write({{"step", 1}, {"loss", 2.5}});
  log.write({{"step", 2}, {"loss", 1.5}});
  const Field fields[] = {{"validation_loss", 1.25}};
  log.amend(1, fields);  // not the last
  log.amend(2, fields);
  log.amend(2, fields);
  log.write({{"step", 3}});
  EXPECT_EQ(read_text(path()),
            "{\"step\": 1, \"loss\": 2.5}\n{\"step\": 2, \"loss\": 1.5, \"validation_loss\": 1.25}\n{\"step\": 3}\n");
  MetricsLog::resume(path(), 3).amend(3, fields);
  EXPECT_THAT(read_text(path()), testing::EndsWith("{\"step\": 3, \"validation_loss\": 1.25}\n"));
}

}  // namespace
}  // namespace ridgeline::observe
