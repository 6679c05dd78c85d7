#include "ridgeline/observe/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <initializer_list>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "ridgeline/observe/format.h"

namespace ridgeline::observe {
namespace {

using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

// A FILE in memory and a clock set by hand.
class ProgressTest : public testing::Test {
 protected:
  ProgressTest() : output_(::open_memstream(&text_, &size_)) {}
  ~ProgressTest() override {
    std::fclose(output_);
    std::free(text_);
  }
  ProgressOptions options(ProgressOptions::Style style) {
    ProgressOptions result;
    result.label = "train";
    result.unit = "steps";
    result.output = output_;
    result.style = style;
    result.clock = [this] { return time_; };
    return result;
  }
  std::string text() {
    std::fflush(output_);
    return {text_, size_};
  }
  std::vector<std::string> lines() {
    std::vector<std::string> result;
    const std::string all = text();
    for (size_t at = 0; at < all.size();) {
      const size_t end = std::min(all.find('\n', at), all.size());
      result.push_back(all.substr(at, end - at));
      at = end + 1;
    }
    return result;
  }
  double time_ = 100;

 private:
  char* text_ = nullptr;
  size_t size_ = 0;
  std::FILE* output_;
};
using Style = ProgressOptions::Style;

TEST_F(ProgressTest, PlainLinesComeEverySoOftenAndSayWhatIsLeft) {
  auto given = options(Style::lines);
  given.total = 1000;
  Progress progress(given);
  for (int64_t step = 1; step <= 300; ++step) {
    time_ += 0.25;
    progress.update(step);
  }
  progress.note("loss 3.21");
  for (int64_t step = 301; step <= 1000; ++step) {
    time_ += 0.25;
    progress.update(step);
  }
  progress.finish();
  progress.finish();
  const auto all = lines();
  ASSERT_EQ(all.size(), 21U);  // at 5 %, 10 %, ... 100 % of the total (12.5 s apart), and the summary
  EXPECT_EQ(all[0], "train: 5% 50/1,000 steps, 4 steps/s, 3:58 left");
  EXPECT_EQ(all[18], "train: 95% 950/1,000 steps, 4 steps/s, 0:13 left, loss 3.21");
  EXPECT_EQ(all[20], "train: 1,000 steps in 4 min 10 s (4 steps/s), loss 3.21");
}

TEST_F(ProgressTest, SlowWorkStillShowsALineNowAndThen) {
  auto given = options(Style::lines);
  given.total = 1'000'000;
  Progress progress(given);
  for (int64_t step = 1; step <= 200; ++step) {
    time_ += 1;
    progress.update(step);
  }
  EXPECT_EQ(lines().size(), 3U);  // one a minute
}

TEST_F(ProgressTest, UnknownTotalShowsCountRateAndTime) {
  auto given = options(Style::lines);
  given.unit = "bytes";
  given.label = "prepare";
  Progress progress(given);
  time_ += 20;
  progress.update(1'500'000'000);
  time_ += 5;
  progress.finish();
  EXPECT_THAT(lines(), ElementsAre("prepare: 1,500 MB, 75.0 MB/s, 0:20", "prepare: 1,500 MB in 25.0 s (60.0 MB/s)"));
}

TEST_F(ProgressTest, AJobThatWentOnSaysHowMuchWasDoneNow) {
  auto given = options(Style::lines);
  given.total = 1000;
  given.start = 600;
  Progress progress(given);
  time_ += 100;
  progress.update(1000);
  progress.finish();
  EXPECT_EQ(lines().back(), "train: 1,000 steps, 400 of them in 1 min 40 s (4 steps/s)");
}

TEST_F(ProgressTest, FewBytesAreNotNoMegabytes) {
  for (const auto& [bytes, said] : std::initializer_list<std::pair<int64_t, const char*>>{
           {10, "0 MB"}, {2000, "0.002 MB"}, {260'000, "0.26 MB"}, {9'940'000, "9.9 MB"}, {9'960'000, "10 MB"}}) {
    auto given = options(Style::lines);
    given.unit = "bytes";
    given.label = "export";
    Progress progress(given);
    time_ += 1;
    progress.update(bytes);
    progress.finish();
    EXPECT_THAT(lines().back(), StartsWith(std::string("export: ") + said + " in")) << bytes;
  }
}

TEST_F(ProgressTest, TheBarIsRedrawnInPlaceAndFitsTheTerminal) {
  auto given = options(Style::bar);
  given.total = 200;
  given.label = "größe";
  Progress progress(given);
  for (int64_t step = 1; step <= 100; ++step) {
    time_ += 0.05;
    progress.update(step);
  }
  progress.note(std::string(300, 'x'));
  time_ += 1;
  progress.update(101);
  const std::string drawn = text();
  EXPECT_THAT(drawn, Not(HasSubstr("\n")));
  int drawings = 0;
  for (size_t at = 0; (at = drawn.find('\r', at)) != std::string::npos; ++at) {
    const std::string line = drawn.substr(at + 1, drawn.find("\x1b[K", at) - at - 1);
    EXPECT_LE(display_width(line), 79) << line;
    EXPECT_THAT(line, StartsWith("größe  "));
    ++drawings;
  }
  EXPECT_GE(drawings, 30);  // at most ten a second over 6 seconds
  EXPECT_LE(drawings, 61);
  EXPECT_THAT(drawn, HasSubstr("|==="));
  EXPECT_THAT(drawn, EndsWith(", 0:06 left\x1b[K")) << "a part that does not fit is left out";
  progress.note("loss 5.4827, 11123 tokens/s, 12345.6 % MFU");
  progress.print_line("saved");
  EXPECT_THAT(text(), HasSubstr("\r\x1b[Ksaved\n\r"));
  EXPECT_THAT(text(), EndsWith(", loss 5.4827, 11123 tokens/s\x1b[K")) << "and no number is cut";
  progress.note(std::string(300, 'x'));
  progress.finish();
  const std::string line = std::string(95, 'x').append("\n");
  EXPECT_THAT(text(), EndsWith(line));
  EXPECT_THAT(text(), HasSubstr("\r\x1b[Kgröße: 101 of 200 steps in"));
  const size_t size = text().size();
  progress.update(150);
  time_ += 10;
  progress.update(160);
  EXPECT_EQ(text().size(), size) << "nothing is drawn after the end";
}

TEST_F(ProgressTest, ABarThatIsDrawnAtOnceClaimsNoRate) {
  auto given = options(Style::bar);
  given.total = 100;
  Progress progress(given);
  time_ += 1e-5;
  progress.update(3);
  EXPECT_THAT(text(), HasSubstr("3/100 steps, 0 steps/s, ?:?? left"));
}

TEST_F(ProgressTest, TheShareDoneBeforeAResumeIsNotInTheRate) {
  auto given = options(Style::lines);
  given.total = 1000;
  given.start = 900;
  Progress progress(given);
  time_ += 10;
  progress.update(950);
  EXPECT_THAT(lines(), ElementsAre("train: 95% 950/1,000 steps, 5 steps/s, 0:10 left"));
}

TEST_F(ProgressTest, ThreadsMayReportAtOnce) {
  auto given = options(Style::bar);
  given.clock = {};
  Progress progress(given);
  {
    std::vector<std::jthread> team;
    for (int i = 0; i < 4; ++i) {
      team.emplace_back([&] {
        for (int k = 1; k <= 8000; ++k) progress.update(k);
        progress.note("done");
      });
    }
  }
  progress.finish();
  EXPECT_THAT(text(), HasSubstr("train: 8,000 steps in"));
}

TEST(Progress, WithoutOutputIsSilent) {
  Progress progress({});
  progress.update(5);
  progress.print_line("x");
  progress.finish();
}

}  // namespace
}  // namespace ridgeline::observe
