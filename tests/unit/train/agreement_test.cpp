#include "ridgeline/train/agreement.h"

#include <gmock/gmock.h>

#include <map>
#include <mutex>

#include "ridgeline/comm/failure.h"

namespace ridgeline::train {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

using StandingOf = std::function<Standing(int rank)>;

// What `ranks` ranks are told; "" when they agree. Everyone is told the same, once.
std::string told(int ranks, const StandingOf& standing) {
  std::vector<std::string> messages(static_cast<size_t>(ranks));
  std::mutex mutex;
  int said = 0;
  bool blamed = false;
  try {
    comm::run_threads(ranks,
                      {.timeout = std::chrono::seconds(20),
                       .on_failure =
                           [&](const comm::Failure& failure) {
                             ++said;
                             blamed = failure.rank >= 0 || !failure.refusal;
                           }},
                      [&](comm::World& world) {
                        const Standing mine = standing(world.rank());
                        try {
                          agree(world, mine);
                        } catch (const Error& error) {
                          const std::lock_guard guard(mutex);
                          messages[static_cast<size_t>(world.rank())] = error.what();
                          throw;
                        }
                      });
  } catch (const Error&) {
    EXPECT_EQ(said, 1);
    EXPECT_FALSE(blamed);
  }
  if (ranks <= 16) {  // a failure's record, which the others read, is bounded
    for (const std::string& message : messages) EXPECT_EQ(message, messages[0]);
  }
  return messages[0];
}

std::vector<Fact> usual() {
  return {{"train.seed", "1"}, {"optimizer.learning_rate", "0.001"}, {"data.train (content)", "7 documents"}};
}

// As `usual`, with another value on some ranks.
StandingOf with(const std::string& key, const std::map<int, std::string>& values) {
  return [=](int rank) {
    Standing standing{.facts = usual()};
    for (Fact& fact : standing.facts) {
      if (fact.key == key && values.contains(rank)) fact.value = values.at(rank);
    }
    return standing;
  };
}

TEST(Agreement, EqualRanksGoOn) {
  for (const int ranks : {1, 2, 3, 5}) EXPECT_EQ(told(ranks, with("", {})), "") << ranks;
}

TEST(Agreement, NamesTheKeyItsValuesAndTheirRanks) {
  EXPECT_THAT(told(5, with("optimizer.learning_rate", {{3, "0.002"}})),
              AllOf(HasSubstr("the ranks were not started alike:\n    optimizer.learning_rate: 0.001 on ranks 0-2, 4; "
                              "0.002 on rank 3 (host "),
                    Not(HasSubstr("train.seed")), Not(HasSubstr("data.train")), HasSubstr("Start every rank with")));
  EXPECT_THAT(told(2, with("train.seed", {{0, "2"}})), HasSubstr("train.seed: 2 on rank 0 (host "));
  EXPECT_THAT(told(6, with("train.seed", {{0, "2"}, {5, "2"}, {2, "3"}})),
              AllOf(HasSubstr("train.seed: 1 on ranks 1, 3, 4; 2 on ranks 0, 5; 3 on rank 2 (host ")));
}

TEST(Agreement, EveryKeyThatDiffersIsNamed) {
  const std::string message = told(3, [](int rank) {
    return Standing{.facts = {{"a", rank == 1 ? "x" : "y"}, {"b", "z"}, {"c", rank == 2 ? "x" : "y"}}};
  });
  EXPECT_THAT(message, AllOf(HasSubstr("    a: y on ranks 0, 2; x on rank 1 (host "),
                             HasSubstr("\n    c: y on ranks 0, 1; x on rank 2 (host "), Not(HasSubstr("    b:"))));
}

TEST(Agreement, KeysThatOnlySomeRanksKnowAreNamed) {
  EXPECT_THAT(told(3,
                   [](int rank) {
                     Standing standing{.facts = usual()};
                     if (rank == 1) standing.facts.push_back({"train.new", "5"});
                     return standing;
                   }),
              HasSubstr("keys that rank 0 does not know: none on ranks 0, 2; train.new = 5 on rank 1"));
  EXPECT_THAT(told(3,
                   [](int rank) {
                     Standing standing{.facts = usual()};
                     if (rank == 1) standing.facts.pop_back();
                     return standing;
                   }),
              HasSubstr("data.train (content): 7 documents on ranks 0, 2; (unknown there) on rank 1"));
}

TEST(Agreement, TheOrderOfFactsCounts) {
  // The same program lists them in one order: another one has other keys, or other code.
  EXPECT_THAT(told(2,
                   [](int rank) {
                     Standing standing{.facts = usual()};
                     if (rank == 1) std::swap(standing.facts[0], standing.facts[1]);
                     return standing;
                   }),
              HasSubstr("the ranks were not started alike"));
}

TEST(Agreement, WhatIsSaidIsBounded) {
  const std::string message = told(40, [](int rank) {
    Standing standing;
    for (int key = 0; key < 100; ++key)
      standing.facts.push_back({"key" + std::to_string(key), std::string(1000, static_cast<char>('a' + rank % 26))});
    return standing;
  });
  EXPECT_THAT(message, AllOf(HasSubstr("\n    key0: aaaa"), HasSubstr("aaa ... on ranks 0, 26; bbb"),
                             HasSubstr("; and 22 values more"), HasSubstr("and 88 more"), Not(HasSubstr("key12:"))));
  EXPECT_LT(message.size(), 12'000U);
}

TEST(Agreement, TroubleOfOneRankIsReportedWithItsNumber) {
  const auto standing = [](int rank) {
    return standing_of([rank] {
      if (rank >= 2) throw Error("no such file", "Look for it.");
      return usual();
    });
  };
  EXPECT_EQ(told(4, standing), "rank 2: no such file\n  Look for it.");
}

TEST(Agreement, TroubleOfAllIsNobodysOwn) {
  for (const int ranks : {1, 3}) {
    EXPECT_EQ(told(ranks, [](int) { return standing_of([]() -> std::vector<Fact> { throw Error("bad key"); }); }),
              "bad key");
  }
}

TEST(Agreement, ADifferenceIsNamedBeforeTheTroubleThatItMakes) {
  const auto standing = [](int rank) {
    Standing mine = with("train.seed", {{1, "2"}})(rank);
    if (rank == 1) mine.trouble = Error("too little memory");
    return mine;
  };
  EXPECT_THAT(told(3, standing), HasSubstr("train.seed: 1 on ranks 0, 2; 2 on rank 1"));
}

TEST(Agreement, WhatOneAsksForAllKnow) {
  for (const int asking : {-1, 0, 2}) {
    std::vector<int> asked(3, -1);
    comm::run_threads(3, {.timeout = std::chrono::seconds(20)}, [&](comm::World& world) {
      Standing mine{.facts = usual()};
      mine.asks = world.rank() == asking;
      asked[static_cast<size_t>(world.rank())] = agree(world, mine) ? 1 : 0;
    });
    EXPECT_EQ(asked, std::vector<int>(3, asking < 0 ? 0 : 1)) << asking;
  }
}

TEST(RanksText, ListsStretches) {
  EXPECT_EQ(ranks_text(std::vector<int>{5}), "5");
  EXPECT_EQ(ranks_text(std::vector<int>{0, 1}), "0, 1");
  EXPECT_EQ(ranks_text(std::vector<int>{0, 1, 2, 4, 6, 7, 8, 9}), "0-2, 4, 6-9");
  EXPECT_EQ(ranks_text(std::vector<int>{0, 2, 4, 6, 8}, 3), "0, 2, 4 and 2 more");
}

}  // namespace
}  // namespace ridgeline::train
