// The command line's own words for commands and options: what a value may be, and what is said about one that it may
// not.
#include "ridgeline/cli/command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

namespace ridgeline::cli {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

struct Values {
  bool flag = false, ran = false;
  std::string text = "before", kind = "fp32", may_be_empty = "before";
  std::filesystem::path path;
  int32_t threads = 0;
  int64_t count = 7, bytes = 0, given = -1;
  uint64_t seed = 0;
  double share = 0.5, time = 0;
  std::vector<std::string> set, rows = {"a", "b"};
  std::vector<int32_t> ids;
};

void run(Values& values, std::vector<const char*> words) {
  CommandLine line("tool", "A tool.", "Footer.", [] { return std::string("tool 1"); });
  const Command work = line.program().subcommand("work", "Works");
  work.flag("--flag", values.flag, "A flag");
  work.option("--text", values.text, "A text");
  work.option("--may-be-empty", values.may_be_empty, "A text or none").may_be_empty();
  work.option("--path", values.path, "A path").placeholder("DIR");
  work.option("--threads", values.threads, kThreads, "Threads");
  work.option("--count", values.count, Range{1}, "A count");
  work.option("--given", values.given, Range{0, 9}, "None by default").no_default();
  work.option("--seed", values.seed, "A seed");
  work.option("--share", values.share, RealRange{0, 1}, "A share");
  work.choice("--kind", values.kind, {"fp32", "bf16"}, "A kind");
  work.duration("--time", values.time, "A time");
  work.size("--bytes", values.bytes, Range{1, int64_t{1} << 50}, "A size");
  work.list("--set", values.set, "Settings");
  work.list("--rows", values.rows, "Rows").separated_by(',');
  work.list("ID", values.ids, Range{0, 100}, "Ids");
  work.action([&values] { values.ran = true; });
  line.program().subcommand("group", "Has more").needs_subcommand();
  words.insert(words.begin(), "tool");
  line.run(static_cast<int>(words.size()), words.data());
}

Values parse(std::vector<const char*> words) {
  Values values;
  words.insert(words.begin(), "work");
  run(values, std::move(words));
  EXPECT_TRUE(values.ran);
  return values;
}

std::string refusal(std::vector<const char*> words) {
  Values values;
  try {
    run(values, std::move(words));
  } catch (const UsageError& error) {
    EXPECT_FALSE(values.ran);
    return error.message() + " | " + error.next_step();
  }
  return "none";
}

TEST(Command, TakesEveryKindOfValue) {
  const Values values = parse({"--flag",    "--text", "a b",         "--path", "/a b",
                               "--threads", "4096",   "--count=+12", "--seed", "18446744073709551615",
                               "--share",   "1e-3",   "--kind",      "bf16",   "--bytes",
                               "1.5GiB",    "--set",  "a=1",         "b=2",    "--set",
                               "c=3",       "--rows", "x,y"});
  EXPECT_TRUE(values.flag);
  EXPECT_EQ(values.text, "a b");
  EXPECT_EQ(values.path, "/a b");
  EXPECT_EQ(values.threads, 4096);
  EXPECT_EQ(values.count, 12);
  EXPECT_EQ(values.seed, 18446744073709551615U);
  EXPECT_EQ(values.share, 1e-3);
  EXPECT_EQ(values.kind, "bf16");
  EXPECT_EQ(values.bytes, 3 * (int64_t{1} << 29));
  EXPECT_THAT(values.set, ElementsAre("a=1", "b=2", "c=3"));
  EXPECT_THAT(values.rows, ElementsAre("x", "y"));
  EXPECT_THAT(parse({"3", "5"}).ids, ElementsAre(3, 5));
}

TEST(Command, KeepsDefaultsOfWhatIsNotGiven) {
  const Values values = parse({});
  EXPECT_EQ(values.text, "before");
  EXPECT_EQ(values.count, 7);
  EXPECT_EQ(values.given, -1);
  EXPECT_EQ(values.share, 0.5);
  EXPECT_THAT(values.rows, ElementsAre("a", "b"));
}

TEST(Command, SizesHaveDecimalAndBinaryUnits) {
  EXPECT_EQ(parse({"--bytes", "4096"}).bytes, 4096);
  EXPECT_EQ(parse({"--bytes", "64 KB"}).bytes, 64000);
  EXPECT_EQ(parse({"--bytes", "64kib"}).bytes, 65536);
  EXPECT_EQ(parse({"--bytes", "2g"}).bytes, 2'000'000'000);
}

TEST(Command, DurationsHaveUnitsOrColons) {
  EXPECT_EQ(parse({"--time", "90s"}).time, 90);
  EXPECT_EQ(parse({"--time", "1.5m"}).time, 90);
  EXPECT_EQ(parse({"--time", "2h"}).time, 7200);
  EXPECT_EQ(parse({"--time", "30:00"}).time, 1800);
  EXPECT_EQ(parse({"--time", "11:59:59"}).time, 43199);
  for (const char* value : {"90", "s", "0s", "-5m", "1:60", "1:2:3:4", ":30", "1:", "1:-5", "nans", "1e30h"})
    EXPECT_THAT(refusal({"work", "--time", value}), HasSubstr("--time: '" + std::string(value) + "' is no time"))
        << value;
}

TEST(Command, NumbersOutOfRangeNameTheOptionAndItsRange) {
  for (const char* value : {"100000", "-1", "4097", "99999999999", "99999999999999999999999"}) {
    EXPECT_THAT(refusal({"work", "--threads", value}), AllOf(HasSubstr(std::string("--threads: ") + value),
                                                             HasSubstr("0 to 4096"), HasSubstr("tool work --help")));
  }
  for (const char* value : {"0", "9223372036854775808"})
    EXPECT_THAT(refusal({"work", "--count", value}), AllOf(HasSubstr("--count: "), HasSubstr("1 or more")));
  for (const char* value : {"-1", "18446744073709551616"})
    EXPECT_THAT(refusal({"work", "--seed", value}),
                AllOf(HasSubstr("--seed: "), HasSubstr("0 to 18446744073709551615")));
  for (const char* value : {"1.01", "-1e-9", "inf", "-inf", "1e999"})
    EXPECT_THAT(refusal({"work", "--share", value}), AllOf(HasSubstr("--share: "), HasSubstr("0 to 1")));
  for (const char* value : {"0", "2PB", "99999999TB", "9e99"})
    EXPECT_THAT(refusal({"work", "--bytes", value}), HasSubstr("--bytes: "));
  EXPECT_THAT(refusal({"work", "7", "101"}), AllOf(HasSubstr("ID: 101"), HasSubstr("0 to 100")));
}

TEST(Command, WhatIsNoNumberIsRefused) {
  for (const char* value : {"two", "1.5", "0x10", "1e3", "7 ", "+-7", "nan"})
    EXPECT_THAT(refusal({"work", "--threads", value}), HasSubstr("--threads: '" + std::string(value) + "' is no"))
        << value;
  for (const char* value : {"nan", "-nan", "NaN", "half"})
    EXPECT_THAT(refusal({"work", "--share", value}), HasSubstr("--share: '" + std::string(value) + "' is no number"));
  for (const char* value : {"GiB", "64XB", "1.2.3MB", "lots"})
    EXPECT_THAT(refusal({"work", "--bytes", value}), HasSubstr("--bytes: '" + std::string(value) + "' is no size"));
}

// A shell makes "" of a variable that is not set, within quotes.
TEST(Command, AnEmptyValueIsRefusedButWhereItMeansSomething) {
  for (const char* option :
       {"--text", "--path", "--threads", "--seed", "--share", "--kind", "--time", "--bytes", "--set", "--rows"})
    EXPECT_THAT(refusal({"work", option, ""}), AllOf(HasSubstr(std::string(option) + ": its value is empty"),
                                                     HasSubstr("not set"), HasSubstr("tool work --help")));
  EXPECT_THAT(refusal({"work", "--set", "a=1", ""}), HasSubstr("--set: its value is empty"));
  EXPECT_THAT(refusal({"work", "--rows", "x", "--", ""}), HasSubstr("ID: its value is empty"));
  EXPECT_EQ(parse({"--may-be-empty", ""}).may_be_empty, "");
  EXPECT_THAT(refusal({"group", ""}), HasSubstr("\"\": tool group does not take this"));
}

// The word behind it is not its value.
TEST(Command, NothingBehindTheEqualsSignIsAnEmptyValue) {
  EXPECT_THAT(refusal({"work", "--text=", "3"}), HasSubstr("--text: its value is empty"));
  EXPECT_THAT(refusal({"work", "3", "--path="}), HasSubstr("--path: its value is empty"));
  const Values values = parse({"--may-be-empty=", "3"});
  EXPECT_EQ(values.may_be_empty, "");
  EXPECT_THAT(values.ids, ElementsAre(3));
  EXPECT_THAT(parse({"--set", "a=", "b="}).set, ElementsAre("a=", "b="));
  EXPECT_THAT(refusal({"work", "--flag="}), HasSubstr("ID: its value is empty"));
}

TEST(Command, UsageErrorsNameTheNearest) {
  EXPECT_THAT(refusal({"work", "--thread", "2"}), AllOf(HasSubstr("--thread"), HasSubstr("Did you mean --threads?")));
  EXPECT_THAT(refusal({"work", "--kind", "fp64"}), HasSubstr("--kind: 'fp64' is none of fp32, bf16"));
  EXPECT_THAT(refusal({"work", "--seed"}), HasSubstr("--seed"));
}

TEST(Command, HelpShowsDefaultsRangesAndChoices) {
  Values values;
  testing::internal::CaptureStdout();
  run(values, {"work", "--help"});
  const std::string help = testing::internal::GetCapturedStdout();
  EXPECT_FALSE(values.ran);
  for (const char* part : {"--threads N", "0 to 4096", "--count N=7", "1 or more", "--kind fp32|bf16=fp32",
                           "--path DIR", "--rows TEXT=a,b"}) {
    EXPECT_THAT(help, HasSubstr(part));
  }
  EXPECT_THAT(help, testing::Not(HasSubstr("=-1")));
}

// The one of the program tells of the program.
TEST(Command, ACommandHasNoOthersFooter) {
  Values values;
  testing::internal::CaptureStdout();
  run(values, {"group", "--help"});
  EXPECT_THAT(testing::internal::GetCapturedStdout(), AllOf(HasSubstr("Has more"), testing::Not(HasSubstr("Footer."))));
}

TEST(Command, WordsBehindTheMarkAreNoOptionsAlsoAfterAList) {
  EXPECT_THAT(parse({"--count", "3", "--", "4", "5"}).ids, ElementsAre(4, 5));
  const Values values = parse({"--set", "a", "b", "--", "4"});
  EXPECT_THAT(values.set, ElementsAre("a", "b"));
  EXPECT_THAT(values.ids, ElementsAre(4));
  // Not taken for the option that it looks like.
  EXPECT_THAT(refusal({"work", "--set", "a", "--", "--flag"}), HasSubstr("'--flag' is no whole number"));
}

}  // namespace
}  // namespace ridgeline::cli
