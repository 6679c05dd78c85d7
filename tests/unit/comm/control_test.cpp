// The watchers' state machine, many of them in one process: a network of queues with a delay, a clock that is a number.
#include "ridgeline/comm/control.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>

#include "../many_cases.h"

namespace ridgeline::comm::detail {
namespace {

using testing::HasSubstr;

constexpr int64_t kMillisecond = 1'000'000;
constexpr int64_t kDelay = kMillisecond;  // of a message

std::vector<ControlName> names_of(int hosts) {
  std::vector<ControlName> names;
  for (int host = 0; host < hosts; ++host) {
    names.push_back({"node" + std::to_string(host), ranks_text({2 * host, 2 * host + 1}), -1});
  }
  return names;
}

struct Simulated {
  std::unique_ptr<Control> control;
  std::vector<Suspect> suspects;  // what it sees when it is asked to look
  std::vector<Failure> recorded;  // in order
  int announced = 0;
  bool settled = false, left = false;
  bool running = true;  // it looks at what arrives
  bool alive = true;    // its machine is there
  bool cut = false;     // nothing comes from it or reaches it
};

// All hosts of a job. A host that does not run keeps its messages; one that is not alive loses them.
class Cluster {
 public:
  explicit Cluster(int count, ControlTimes times = {}) : hosts(static_cast<size_t>(count)) {
    for (int host = 0; host < count; ++host) {
      hosts[static_cast<size_t>(host)].control = std::make_unique<Control>(host, names_of(count), times, now);
    }
    run(50 * kMillisecond);
  }

  Simulated& at(int host) { return hosts[static_cast<size_t>(host)]; }
  Control& control(int host) { return *at(host).control; }

  void fail(int host, bool death, int64_t wall) {
    Failure failure{
        .rank = 2 * host, .host = "node" + std::to_string(host), .operation = {}, .what = "it fails", .next = {}};
    failure.death = death;
    at(host).recorded.push_back(failure);
    control(host).failed_here(failure, now, wall);
    act(host);
  }
  void lose(int host, int peer) {
    control(host).lost(peer, now);
    act(host);
  }
  void stall(int host) {
    Stall stall{};
    put_text(stall.operation, "barrier 'end'");
    put_text(stall.what, "barrier 'end': rank 7 did not arrive within 5 ms");
    control(host).stalled_here(stall, now);
    act(host);
  }
  // The machine is gone: nobody is told. Or its watcher: the system closes its connections_.
  void kill(int host, bool connections_close) {
    at(host).alive = false;
    if (!connections_close) return;
    for (const auto& [ends, open] : connections_) {
      if (ends.first == host && open) events_.emplace(now + kDelay, Event{host, ends.second, Kind::closed, {}});
      if (ends.second == host && open) events_.emplace(now + kDelay, Event{host, ends.first, Kind::closed, {}});
    }
  }
  void run(int64_t duration) {
    for (const int64_t end = now + duration; now < end; now += kMillisecond) {
      for (auto it = unread_.begin(); it != unread_.end();) {
        if (at(it->first).running) {
          deliver(it->second);
          it = unread_.erase(it);
        } else {
          ++it;
        }
      }
      while (!events_.empty() && events_.begin()->first <= now) {
        const Event event = events_.begin()->second;
        events_.erase(events_.begin());
        deliver(event);
      }
      for (int host = 0; host < static_cast<int>(hosts.size()); ++host) {
        if (!at(host).alive || !at(host).running) continue;
        control(host).tick(now);
        act(host);
      }
    }
  }
  int announced() const {
    int count = 0;
    for (const Simulated& host : hosts) count += host.announced;
    return count;
  }
  // Whether every host that lives has recorded `what` first, or as its own failure another.
  void expect_everybody_knows(const std::string& what) {
    for (size_t host = 0; host < hosts.size(); ++host) {
      if (!hosts[host].alive) continue;
      ASSERT_FALSE(hosts[host].recorded.empty()) << "host " << host;
      EXPECT_THAT(hosts[host].recorded.back().what, HasSubstr(what)) << "host " << host;
      EXPECT_TRUE(hosts[host].settled) << "host " << host;
    }
  }

  std::vector<Simulated> hosts;
  int64_t now = 1000 * kSecond;
  int64_t messages = 0;

 private:
  enum class Kind { reach, greet, message, closed };
  struct Event {
    int from, to;
    Kind kind;
    ControlMessage message;
  };

  void deliver(const Event& event) {
    Simulated& to = at(event.to);
    if (to.cut || at(event.from).cut) {
      if (event.kind == Kind::reach) {
        events_.emplace(now + kSecond, Event{event.to, event.from, Kind::closed, {}});
        return;
      }
      if (event.kind != Kind::closed || connections_[{event.from, event.to}]) return;
    }
    if (!to.alive) {
      // Nobody accepts a connection there.
      if (event.kind == Kind::reach) events_.emplace(now + kDelay, Event{event.to, event.from, Kind::closed, {}});
      return;
    }
    if (!to.running) {
      unread_.emplace(event.to, event);
      return;
    }
    switch (event.kind) {
      case Kind::reach:
        connections_[{event.from, event.to}] = true;
        events_.emplace(now + kDelay, Event{event.to, event.from, Kind::greet, {}});
        to.control->connected(event.from, now);
        break;
      case Kind::greet:
        to.control->connected(event.from, now);
        break;
      case Kind::message: {
        // As it would come over the wire.
        ControlReader reader;
        reader.add(encode(event.message));
        const auto message = reader.next(static_cast<int>(hosts.size()));
        ASSERT_TRUE(message.has_value());
        to.control->received(event.from, *message, now);
        break;
      }
      case Kind::closed:
        to.control->lost(event.from, now);
        break;
    }
    act(event.to);
  }

  void act(int host) {
    Simulated& here = at(host);
    for (;;) {
      const Control::Actions actions = here.control->take();
      if (actions.record) here.recorded.push_back(*actions.record);
      if (actions.announce) ++here.announced;
      here.settled = here.settled || actions.settled;
      here.left = here.left || actions.leave;
      for (const auto& [peer, message] : actions.send) {
        ++messages;
        events_.emplace(now + kDelay, Event{host, peer, Kind::message, message});
      }
      if (actions.reach >= 0) events_.emplace(now + kDelay, Event{host, actions.reach, Kind::reach, {}});
      if (!actions.look) return;
      here.control->looked(*actions.look, here.suspects, now);
    }
  }

  std::multimap<int64_t, Event> events_;
  std::multimap<int, Event> unread_;  // of hosts that do not run, in order
  std::map<std::pair<int, int>, bool> connections_;
};

Suspect suspect_of(int rank, Standing standing, int64_t idle_milliseconds) {
  Suspect suspect{};
  suspect.standing = standing;
  suspect.rank = rank;
  suspect.host = rank / 2;
  suspect.process = 4711;
  suspect.idle_milliseconds = idle_milliseconds;
  put_text(suspect.position, "all_reduce 'gradient'");
  return suspect;
}

TEST(Control, ATreeOfEight) {
  EXPECT_EQ(parent_of(0), -1);
  EXPECT_EQ(parent_of(1), 0);
  EXPECT_EQ(parent_of(8), 0);
  EXPECT_EQ(parent_of(9), 1);
  EXPECT_EQ(parent_of(72), 8);
  EXPECT_EQ(parent_of(73), 9);
}

TEST(Control, NamesRanks) {
  EXPECT_EQ(ranks_text({3}), "rank 3");
  EXPECT_EQ(ranks_text({4, 5, 6}), "ranks 4-6");
  EXPECT_EQ(ranks_text({0, 2, 5}), "ranks 0, 2, 5");
}

TEST(Control, AFailureOfAnyHostReachesAllAndIsAnnouncedOnceThere) {
  ManyCases cases(3);
  for (int count = 1; count <= 50; ++count) {
    for (const bool death : {false, true}) {
      if (cases.skips()) continue;
      const int host = count * 7 % count == 0 ? count / 2 : count * 7 % count;
      Cluster cluster(count);
      cluster.fail(host, death, 5);
      cluster.run(100 * kMillisecond);
      SCOPED_TRACE(testing::Message() << count << " hosts, host " << host);
      cluster.expect_everybody_knows("it fails");
      EXPECT_EQ(cluster.announced(), 1);
      EXPECT_EQ(cluster.at(host).announced, 1);
      // What the watchers do when they leave means nothing.
      for (int other = 0; other < count; other += 2) cluster.kill(other, true);
      cluster.run(20 * kSecond);
      EXPECT_EQ(cluster.announced(), 1);
    }
  }
}

TEST(Control, EveryHostOfFiftyMayFail) {
  for (int host = 0; host < 50; ++host) {
    Cluster cluster(50);
    cluster.fail(host, false, 5);
    cluster.run(20 * kMillisecond);
    cluster.expect_everybody_knows("it fails");
    EXPECT_EQ(cluster.at(host).announced, 1);
  }
}

TEST(Control, OfTwoFailuresAtOnceOneIsAnnounced) {
  for (int first = 0; first < 20; ++first) {
    for (int second = 0; second < 20; second += 3) {
      if (first == second) continue;
      Cluster cluster(20);
      cluster.fail(first, false, 5);
      cluster.fail(second, false, 5);
      cluster.run(kSecond);
      EXPECT_EQ(cluster.announced(), 1) << first << " and " << second;
    }
  }
}

// A launcher answers a death by killing the rest, and the root may see its own rank die first.
TEST(Control, OfTwoDeathsTheEarlierCounts) {
  for (int culprit = 1; culprit < 30; ++culprit) {
    Cluster cluster(30);
    for (const int victim : {0, 1, 9, 29}) {
      if (victim != culprit) cluster.fail(victim, true, 1000);
    }
    cluster.run(3 * kMillisecond);
    cluster.fail(culprit, true, 10);
    cluster.run(kSecond);
    EXPECT_EQ(cluster.at(culprit).announced, 1) << culprit;
    EXPECT_EQ(cluster.announced(), 1) << culprit;
  }
}

TEST(Control, WithoutAVerdictAHostAnnouncesItsOwnFailure) {
  Cluster cluster(12);
  cluster.at(0).running = false;
  cluster.fail(3, false, 5);
  cluster.run(ControlTimes().patience - 50 * kMillisecond);
  EXPECT_EQ(cluster.announced(), 0);
  cluster.run(100 * kMillisecond);
  EXPECT_EQ(cluster.at(3).announced, 1);
  cluster.at(0).running = true;
  cluster.run(kSecond);
  cluster.expect_everybody_knows("it fails");
  EXPECT_EQ(cluster.announced(), 1);
}

TEST(Control, ALostWatcherIsNamedOnceWithItsRanks) {
  ManyCases cases(5);
  for (const int count : {2, 3, 5, 9, 10, 20, 50}) {
    for (int host = 0; host < count; ++host) {
      for (const bool closes : {true, false}) {
        if ((!closes && host % 7 != 0) || cases.skips()) continue;
        SCOPED_TRACE(testing::Message() << count << " hosts, host " << host << (closes ? " closes" : " is silent"));
        Cluster cluster(count);
        cluster.kill(host, closes);
        cluster.run(closes ? kSecond : 13 * kSecond);
        cluster.expect_everybody_knows("host node" + std::to_string(host) + " (ranks " + std::to_string(2 * host));
        EXPECT_EQ(cluster.announced(), 1);
      }
    }
  }
}

// The root is gone, and its children find out one after the other: host 1 decides for all of them.
TEST(Control, OrphansOfTheRootAgreeAtHostOne) {
  Cluster cluster(9);
  cluster.kill(0, false);
  for (const int orphan : {2, 5, 3}) {
    cluster.lose(orphan, 0);
    cluster.run(300 * kMillisecond);
    EXPECT_EQ(cluster.announced(), 1);
    EXPECT_EQ(cluster.at(2).announced, 1);
  }
  cluster.run(15 * kSecond);
  cluster.expect_everybody_knows("host node0 (ranks 0-1) does not answer");
  EXPECT_EQ(cluster.announced(), 1);
}

// One that was stopped and wakes up finds the verdict about itself before its connections' ends.
TEST(Control, AHostThatIsCutOffIsNamedByTheOthersAlone) {
  for (const int count : {3, 4, 9, 30}) {
    for (const int host : {0, 1, 2, count - 1}) {
      Cluster cluster(count);
      cluster.at(host).cut = true;
      cluster.run(16 * kSecond);
      EXPECT_EQ(cluster.announced(), 1) << host << " of " << count;
      EXPECT_EQ(cluster.at(host).announced, 0) << host << " of " << count;
      for (int other = 0; other < count; ++other) {
        Simulated& seen = cluster.at(other);
        ASSERT_FALSE(seen.recorded.empty()) << host << " of " << count << ", host " << other;
        EXPECT_TRUE(seen.settled) << host << " of " << count << ", host " << other;
        if (other == host) continue;
        EXPECT_THAT(seen.recorded.back().what, HasSubstr("host node" + std::to_string(host) + " "));
      }
    }
  }
  // Of two, either may be the last that is there.
  Cluster pair(2);
  pair.at(1).cut = true;
  pair.run(16 * kSecond);
  EXPECT_EQ(pair.announced(), 2);
}

TEST(Control, AWatcherThatWasGivenUpAndWakesUpHasNothingToAdd) {
  for (const int host : {0, 1, 2, 9, 19}) {
    Cluster cluster(20);
    cluster.at(host).running = false;
    cluster.run(13 * kSecond);
    EXPECT_EQ(cluster.announced(), 1) << host;
    for (int other = 0; other < 20; ++other) {
      if (other != host) cluster.kill(other, true);
    }
    cluster.run(10 * kMillisecond);
    cluster.at(host).running = true;
    cluster.run(kSecond);
    EXPECT_EQ(cluster.at(host).announced, 0) << host;
    EXPECT_TRUE(cluster.at(host).settled) << host;
  }
}

TEST(Control, AWatcherThatEndsAfterItsRanksHaveDepartedIsNotMissed) {
  Cluster cluster(10);
  cluster.control(7).departed_here(cluster.now);
  cluster.run(10 * kMillisecond);
  cluster.kill(7, true);
  cluster.run(20 * kSecond);
  EXPECT_EQ(cluster.announced(), 0);
  for (int host = 0; host < 10; ++host) {
    if (host != 7) cluster.control(host).departed_here(cluster.now);
  }
  cluster.run(10 * kMillisecond);
  EXPECT_TRUE(cluster.at(0).left && cluster.at(9).left);
}

// A launcher that answers a death by ending whole hosts, watchers and all.
TEST(Control, ADeathWhoseHostIsEndedIsAnnouncedByTheRoot) {
  Cluster cluster(9);
  cluster.fail(5, true, 7);
  cluster.run(5 * kMillisecond);
  cluster.kill(5, true);
  cluster.run(kSecond);
  EXPECT_EQ(cluster.at(0).announced, 1);
  EXPECT_EQ(cluster.announced(), 1);
  EXPECT_EQ(cluster.at(3).recorded.back().rank, 10);
}

TEST(Control, AWatcherThatDidNotRunBlamesNobody) {
  Cluster cluster(10);
  cluster.at(1).running = false;
  cluster.run(9 * kSecond);
  cluster.at(1).running = true;
  cluster.run(30 * kSecond);
  EXPECT_EQ(cluster.announced(), 0);
  // And when nobody ran, as on a machine that slept.
  cluster.now += 1000 * kSecond;
  cluster.run(30 * kSecond);
  EXPECT_EQ(cluster.announced(), 0);
}

TEST(Control, SignsOfLifeAreWhatNeighboursNeed) {
  Cluster cluster(50);
  cluster.messages = 0;
  cluster.run(60 * kSecond);
  EXPECT_EQ(cluster.announced(), 0);
  EXPECT_NEAR(static_cast<double>(cluster.messages), 60 * 2 * 49, 2 * 49);
}

TEST(Control, AStallIsBlamedOnTheStoppedRankOfAnyHost) {
  for (const int count : {1, 2, 9, 10, 50}) {
    for (int host = 0; host < count; ++host) {
      Cluster cluster(count);
      for (int other = 0; other < count; ++other) {
        if (other % 3 == 0) cluster.at(other).suspects = {suspect_of(2 * other, Standing::busy, 100)};
      }
      cluster.at(host).suspects.push_back(suspect_of(2 * host + 1, Standing::stopped, 5000));
      // Several notice.
      cluster.stall(count - 1);
      cluster.stall(count / 2);
      cluster.run(200 * kMillisecond);
      SCOPED_TRACE(testing::Message() << count << " hosts, host " << host);
      cluster.expect_everybody_knows("rank " + std::to_string(2 * host + 1) + " on host node" + std::to_string(host) +
                                     " does not run");
      EXPECT_THAT(cluster.at(0).recorded.back().what, HasSubstr("rank 7 did not arrive within 5 ms"));
      EXPECT_EQ(cluster.at(0).recorded.back().rank, 2 * host + 1);
      EXPECT_EQ(cluster.at(0).recorded.back().operation, "all_reduce 'gradient'");
      EXPECT_EQ(cluster.announced(), 1);
    }
  }
}

TEST(Control, OfManyBusyRanksTheOneThatIsAwayForLongestIsBlamed) {
  Cluster cluster(50);
  for (int host = 0; host < 50; ++host) {
    cluster.at(host).suspects = {suspect_of(2 * host, Standing::busy, 10 + host),
                                 suspect_of(2 * host + 1, Standing::ended, 9000)};
  }
  cluster.at(33).suspects[0].idle_milliseconds = 700;
  cluster.stall(4);
  cluster.run(200 * kMillisecond);
  cluster.expect_everybody_knows("rank 66 on host node33 is still busy elsewhere, last seen in all_reduce 'gradient'");
}

TEST(Control, WhenEverybodyWaitsTheyDisagree) {
  Cluster cluster(11);
  cluster.stall(10);
  cluster.run(200 * kMillisecond);
  cluster.expect_everybody_knows("every rank waits for another");
  EXPECT_EQ(cluster.at(3).recorded.back().rank, -1);
}

TEST(Control, AHostThatDoesNotAnswerAnInquiryIsTheCulprit) {
  for (const int silent : {1, 5, 9, 49}) {
    Cluster cluster(50);
    cluster.at(silent).running = false;
    cluster.at(20).suspects = {suspect_of(40, Standing::busy, 100'000)};
    cluster.stall(3);
    cluster.run(1200 * kMillisecond);
    EXPECT_EQ(cluster.announced(), 0);
    cluster.run(900 * kMillisecond);
    EXPECT_EQ(cluster.announced(), 1);
    EXPECT_THAT(cluster.at(3).recorded.back().what, HasSubstr("host node" + std::to_string(silent) + " (ranks"));
  }
}

TEST(Control, AllLeaveWhenAllHaveDeparted) {
  for (const int count : {1, 2, 9, 50}) {
    Cluster cluster(count);
    for (int host = 0; host < count; ++host) {
      for (const Simulated& one : cluster.hosts) EXPECT_FALSE(one.left);
      cluster.control(host).departed_here(cluster.now);
      cluster.run(10 * kMillisecond);
    }
    for (const Simulated& one : cluster.hosts) EXPECT_TRUE(one.left);
    for (int host = 0; host < count; ++host) cluster.kill(host, true);
    cluster.run(kSecond);
    EXPECT_EQ(cluster.announced(), 0);
  }
}

TEST(Control, ADepartureDoesNotHideALaterFailure) {
  Cluster cluster(10);
  for (int host = 1; host < 10; ++host) cluster.control(host).departed_here(cluster.now);
  cluster.run(kSecond);
  cluster.fail(0, false, 1);
  cluster.run(kSecond);
  cluster.expect_everybody_knows("it fails");
  EXPECT_EQ(cluster.announced(), 1);
}

TEST(ControlMessages, ComeOutAsTheyWentInHoweverTheyAreCut) {
  std::vector<std::byte> stream;
  const auto put = [&](const ControlMessage& message) {
    const auto bytes = encode(message);
    stream.insert(stream.end(), bytes.begin(), bytes.end());
  };
  put(Hello{{1, 2}, 3});
  put(notice_of({.rank = 5, .host = "node1", .operation = "o", .what = std::string(5000, 'x'), .next = "n"}, 2, 77));
  put(Leave{});
  for (size_t piece = 1; piece < 700; piece += 13) {
    ControlReader reader;
    std::vector<ControlMessage> got;
    for (size_t at = 0; at < stream.size(); at += piece) {
      reader.add(std::span(stream).subspan(at, std::min(piece, stream.size() - at)));
      while (auto message = reader.next(4)) got.push_back(*message);
    }
    ASSERT_EQ(got.size(), 3u);
    EXPECT_EQ(std::get<Hello>(got[0]).secret, (ControlSecret{1, 2}));
    const Failure failure = failure_of(std::get<FailureNotice>(got[1]));
    EXPECT_EQ(failure.rank, 5);
    EXPECT_EQ(failure.what, std::string(1023, 'x'));
    EXPECT_TRUE(std::holds_alternative<Leave>(got[2]));
    EXPECT_FALSE(reader.broken());
  }
}

TEST(ControlMessages, WhatNoWatcherSendsIsRefused) {
  const auto refused = [](const ControlMessage& message, int hosts) {
    ControlReader reader;
    reader.add(encode(message));
    return !reader.next(hosts).has_value() && reader.broken();
  };
  EXPECT_FALSE(refused(Hello{{}, 3}, 4));
  EXPECT_TRUE(refused(Hello{{}, 3}, 3));
  EXPECT_TRUE(refused(Hello{{}, -1}, 3));
  Answer answer{};
  answer.count = kSuspects;
  EXPECT_FALSE(refused(answer, 1));
  answer.count = kSuspects + 1;
  EXPECT_TRUE(refused(answer, 1));
  answer.count = 1;
  std::memset(answer.suspects[0].position, 'x', sizeof(answer.suspects[0].position));
  EXPECT_TRUE(refused(answer, 1));
  Verdict verdict{};
  EXPECT_FALSE(refused(verdict, 1));
  verdict.failure.source = 1;
  EXPECT_TRUE(refused(verdict, 1));
  verdict.failure.source = 0;
  std::memset(verdict.failure.what, 'x', sizeof(verdict.failure.what));
  EXPECT_TRUE(refused(verdict, 1));
}

// Random bytes, and messages with random changes, never do harm: they are refused, or they are messages.
TEST(ControlMessages, BytesFromOutsideAreNeverTrusted) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 20'000; ++round) {
    std::vector<std::byte> bytes;
    if (round % 4 == 0) {
      bytes.resize(random() % 3000);
      for (std::byte& one : bytes) one = static_cast<std::byte>(random());
    } else {
      const ControlMessage message = round % 4 == 1   ? ControlMessage(Hello{{1, 2}, 3})
                                     : round % 4 == 2 ? ControlMessage(Answer{})
                                                      : ControlMessage(FailureNotice{});
      bytes = encode(message);
      for (int change = 0; change < 3; ++change) {
        // The header more often than the rest.
        const size_t at = random() % (change == 0 ? 16 : bytes.size());
        bytes[at] = static_cast<std::byte>(random());
      }
      if (random() % 3 == 0) bytes.resize(random() % bytes.size());
    }
    ControlReader reader;
    Control control(0, names_of(4), {}, 0);
    control.connected(1, 0);
    for (size_t at = 0; at < bytes.size();) {
      const size_t piece = std::min<size_t>(1 + random() % 1000, bytes.size() - at);
      reader.add(std::span(bytes).subspan(at, piece));
      at += piece;
      while (const auto message = reader.next(4)) control.received(1, *message, 1);
    }
    control.tick(kSecond);
    control.take();
  }
}

}  // namespace
}  // namespace ridgeline::comm::detail
