#include "ridgeline/data/split.h"

#include <gmock/gmock.h>

#include "support.h"

namespace ridgeline::data {
namespace {

using testing::ElementsAre;

// Documents of the three parts, which follow each other.
std::vector<int64_t> counts(std::string_view split, SplitRule rule, int64_t documents) {
  const auto parts = split_documents(split, rule, documents);
  EXPECT_EQ(parts[0].last, parts[1].first);
  EXPECT_EQ(parts[1].last, parts[2].first);
  std::vector<int64_t> result;
  for (const DocumentRange& part : parts) result.push_back(part.last - part.first);
  return result;
}

// The table was computed in Python, whose numbers and rounding both rules are written in.
TEST(Split, EqualsTheTableByBothRules) {
  const nlohmann::json table = test::json_fixture("data/splits.json");
  ASSERT_GT(table.size(), 1000U);
  int different = 0;
  for (const nlohmann::json& row : table) {
    const std::string split = row[0];
    const int64_t documents = row[1];
    EXPECT_EQ(counts(split, SplitRule::cumulative, documents), row[2].get<std::vector<int64_t>>()) << row;
    EXPECT_EQ(counts(split, SplitRule::per_share, documents), row[3].get<std::vector<int64_t>>()) << row;
    different += row[2] == row[3] ? 0 : 1;
  }
  EXPECT_GT(different, 100) << "a table that cannot tell the rules apart";
}

TEST(Split, RulesDifferWhereRoundingsAddUp) {
  EXPECT_THAT(counts("90,8,2", SplitRule::cumulative, 67), ElementsAre(60, 6, 1));
  EXPECT_THAT(counts("90,8,2", SplitRule::per_share, 67), ElementsAre(61, 5, 1));
  EXPECT_EQ(counts_text(split_documents("90,8,2", SplitRule::cumulative, 67)), "60, 6 and 1");
}

TEST(Split, ReadsBothSeparatorsAndMissingShares) {
  for (const SplitRule rule : {SplitRule::cumulative, SplitRule::per_share}) {
    EXPECT_THAT(counts("90/10", rule, 50), ElementsAre(45, 5, 0));
    EXPECT_THAT(counts("1", rule, 50), ElementsAre(50, 0, 0));
    EXPECT_THAT(counts(" 1, 1 ,2", rule, 8), ElementsAre(2, 2, 4));
    EXPECT_THAT(counts("98,2,0", rule, 0), ElementsAre(0, 0, 0));
    EXPECT_THAT(counts("0.5, .25, 25e-2", rule, 8), ElementsAre(4, 2, 2));
    EXPECT_THAT(counts("98 2 0", rule, 50), ElementsAre(49, 1, 0));
    EXPECT_THAT(counts(" 1  1 2 ", rule, 8), ElementsAre(2, 2, 4));
  }
}

TEST(Split, RefusesNonsense) {
  for (const char* split : {"", ",", "a,b", "1,2,3,4", "-1,2", "1 2 3 4", "1 2,3", "0,0,0", "nan", "inf,1", "98;2"}) {
    EXPECT_ERROR("data.split", split_documents(split, SplitRule::cumulative, 100));
  }
}

TEST(Split, RulesHaveNames) {
  for (const SplitRule rule : {SplitRule::cumulative, SplitRule::per_share})
    EXPECT_EQ(split_rule_of_name(words_of(rule)[static_cast<size_t>(rule)], "x"), rule);
  EXPECT_ERROR("--split-rule 'old'", split_rule_of_name("old", "--split-rule"));
}

}  // namespace
}  // namespace ridgeline::data
