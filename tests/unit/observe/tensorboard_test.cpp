#include "ridgeline/observe/tensorboard.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "../temporary_folder.h"

namespace ridgeline::observe {
namespace {

namespace fs = std::filesystem;

std::string hex(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) text += fmt::format("{:02x}", static_cast<unsigned char>(c));
  return text;
}

// Computed independently from the format's definition.
TEST(TensorBoard, RecordsHaveTheBytesOfTheFormat) {
  std::string event, record;
  events::version(event, 1700000000.0);
  events::frame(record, event);
  EXPECT_EQ(hex(record), "1800000000000000a37f4b220900000040fc54d9411a0d627261696e2e4576656e743a32eced8f9d");
  event.clear();
  record.clear();
  events::scalar(event, 1700000001.5, 10, "loss", 2.5F);
  events::frame(record, event);
  EXPECT_EQ(hex(record), "1a00000000000000129bd82d0900006040fc54d941100a2a0d0a0b0a046c6f737315000020404558d687");
}

TEST(TensorBoard, LongTagsAndTextsKeepTheirLengths) {
  const std::string tag(200, 't');
  std::string event;
  events::scalar(event, 1.0, 300, tag, 1.0F);
  // time 9, step 3, summary key 1 + length 2, value key 1 + length 2, tag 1 + 2 + 200, number 5
  EXPECT_EQ(event.size(), 9U + 3 + 3 + 3 + 203 + 5);
  EXPECT_EQ(hex(event.substr(9, 9)),
            "10ac02"
            "2ad301"
            "0ad001");
  event.clear();
  events::text(event, 0.0, 1, "note", "**hi**");
  EXPECT_EQ(hex(event),
            "090000000000000000"
            "1001"
            "2a24"
            "0a22"
            "0a046e6f7465"
            "4210"
            "0807"
            "120412020801"
            "42062a2a68692a2a"
            "4a08"
            "0a06"
            "0a0474657874")
      << "value{tag, tensor{string, shape [1]}, metadata{plugin text}}";
}

class TensorBoardFile : public testing::Test {
 protected:
  // The events' payloads; fails when frames and file disagree.
  static std::vector<std::string> payloads(const fs::path& path) {
    const std::string text = read_text(path);
    std::vector<std::string> result;
    for (size_t at = 0; at < text.size();) {
      uint64_t length = 0;
      std::memcpy(&length, text.data() + at, 8);
      std::string record;
      result.push_back(text.substr(at + 12, length));
      events::frame(record, result.back());
      EXPECT_EQ(text.substr(at, record.size()), record);
      at += record.size();
    }
    return result;
  }
  const TemporaryFolder folder_;
};

TEST_F(TensorBoardFile, EveryRunOpensItsOwnFile) {
  fs::path first, second;
  {
    TensorBoardLog log(folder_ / "tensorboard");
    first = log.path();
    for (int step = 0; step < 5000; ++step) log.scalar("train/loss", step, 1.0 / (step + 1));
    log.text("config", 0, "    x = 1");
  }
  {
    TensorBoardLog log(folder_ / "tensorboard", 2500);
    second = log.path();
    log.scalar("train/loss", 2501, 0.5);
    log.flush();
    EXPECT_EQ(payloads(second).size(), 3U);
  }
  EXPECT_NE(first, second);
  EXPECT_THAT(first.filename().string(), testing::MatchesRegex("events\\.out\\.tfevents\\.[0-9]{10}\\..+"));
  const auto events = payloads(first);
  ASSERT_EQ(events.size(), 5002U);
  EXPECT_THAT(events[0], testing::EndsWith("brain.Event:2"));
  EXPECT_THAT(events[17], testing::HasSubstr("train/loss"));
  EXPECT_THAT(events[5001], testing::HasSubstr("x = 1"));
  // On resume the second event tells readers from which step on the earlier file is void: 2501.
  EXPECT_EQ(hex(payloads(second)[1].substr(9)),
            "10c513"
            "3a020801");
}

}  // namespace
}  // namespace ridgeline::observe
