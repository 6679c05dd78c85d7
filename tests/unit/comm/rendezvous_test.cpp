// Ranks, as threads, that meet at a rendezvous: who comes together, and who is told what when they do not.
#include "ridgeline/comm/rendezvous.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <random>
#include <set>
#include <thread>

#include "ridgeline/base/error.h"
#include "ridgeline/base/random.h"
#include "ridgeline/comm/board.h"
#include "ridgeline/comm/control.h"
#include "ridgeline/comm/failure.h"

namespace ridgeline::comm::detail {
namespace {

using testing::HasSubstr;

// As it lies on the wire.
struct GreetingBytes {
  char protocol[4] = {'R', 'L', 'r', '2'};
  uint32_t word = 0;
  uint64_t bytes = 24;
  int32_t rank = 1, size = 2;
  uint64_t secret[2] = {hash_name(""), hash_name("ridgeline")};
};

class RendezvousTest : public testing::Test {
 protected:
  RendezvousTest() { port_ = port_of(Socket(listening_socket(0)).file()); }
  RendezvousSetup setup(int rank, int size, int milliseconds = 20'000) const {
    RendezvousSetup one;
    one.host = "127.0.0.1";
    one.port = port_;
    one.rank = rank;
    one.size = size;
    one.timeout = std::chrono::milliseconds(milliseconds);
    return one;
  }
  // Of every process what it throws, "" for nothing.
  static std::vector<std::string> run(const std::vector<RendezvousSetup>& processes,
                                      const std::function<void(Rendezvous&, int)>& body = {}) {
    std::vector<std::string> errors(processes.size());
    std::vector<std::thread> threads;
    for (size_t i = 0; i < processes.size(); ++i) {
      threads.emplace_back([&, i] {
        try {
          Rendezvous rendezvous(processes[i]);
          if (body) body(rendezvous, processes[i].rank);
        } catch (const Error& error) {
          errors[i] = error.message();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    return errors;
  }
  // A connection to rank 0, once it listens.
  Socket connection() const {
    sockaddr_storage address{};
    const socklen_t length = socket_address({.family = AF_INET, .bytes = {127, 0, 0, 1}}, port_, address);
    for (;;) {
      Socket socket = Socket::connecting(reinterpret_cast<const sockaddr*>(&address), length);
      if (socket.open() && socket.send("", 0, 0)) {
        // Refused connections show at the first byte that is asked for.
        char byte = 0;
        if (!socket.receive(&byte, 1, steady_nanoseconds() + kSecond / 50) && errno == ETIMEDOUT) return socket;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  static void send(const Socket& socket, const void* data, size_t bytes) {
    socket.send(data, bytes, steady_nanoseconds() + kSecond);
  }
  static bool is_closed(const Socket& socket) {
    char bytes[4096];
    while (socket.receive(bytes, 1, steady_nanoseconds() + 10 * kSecond)) {
    }
    return errno != ETIMEDOUT;
  }

  int port_;
};

TEST_F(RendezvousTest, AllMeetAndShareWhatTheyHave) {
  constexpr int kRanks = 5;
  std::vector<RendezvousSetup> processes;
  for (int rank = kRanks - 1; rank >= 0; --rank) processes.push_back(setup(rank, kRanks));
  std::atomic<int> right{0};
  std::vector<ControlSecret> secrets(kRanks);
  const std::vector<std::string> errors = run(processes, [&](Rendezvous& rendezvous, int rank) {
    secrets[static_cast<size_t>(rank)] = rendezvous.secret();
    for (int round = 0; round < 20; ++round) {
      const int64_t own[3] = {rank, round, rank * round};
      int64_t all[3 * kRanks] = {}, root[3] = {rank == 3 ? 333 : 0, rank, 1};
      rendezvous.all_gather(own, all, sizeof(own));
      for (int other = 0; other < kRanks; ++other) {
        if (all[3 * other] == other && all[3 * other + 1] == round && all[3 * other + 2] == other * round) ++right;
      }
      for (const int from : {3, 0}) rendezvous.broadcast(root, sizeof(root), from);
      if (root[0] == 333 && root[1] == 3) ++right;
    }
    EXPECT_EQ(text_of(rendezvous.own_address()), rank == 0 ? "" : "127.0.0.1");
  });
  EXPECT_THAT(errors, testing::Each(""));
  EXPECT_EQ(right, 20 * kRanks * (kRanks + 1));
  EXPECT_THAT(secrets, testing::Each(secrets[0]));
  EXPECT_NE(secrets[0], ControlSecret{});
}

TEST_F(RendezvousTest, TwoProcessesOfOneRankAreAnErrorOnAll) {
  const auto errors = run({setup(0, 4), setup(2, 4), setup(1, 4), setup(2, 4)});
  // Who has not been let in by then only learns that it is over.
  EXPECT_THAT(errors, testing::Each(testing::AnyOf(HasSubstr("two processes are rank 2"),
                                                   HasSubstr("left the rendezvous"), HasSubstr("nobody answers"))));
  EXPECT_THAT(errors[0], HasSubstr("two processes are rank 2"));
}

TEST_F(RendezvousTest, OtherNumbersOfRanksAreAnErrorOnAll) {
  const auto errors = run({setup(0, 3), setup(1, 4)});
  EXPECT_THAT(errors, testing::Each(HasSubstr("rank 1 was started as one of 4 ranks, rank 0 as one of 3")));
}

TEST_F(RendezvousTest, WhoDoesNotComeIsNamedOnAll) {
  const auto errors = run({setup(0, 6, 700), setup(1, 6, 700), setup(4, 6, 700)});
  EXPECT_THAT(errors, testing::Each(HasSubstr("ranks 2, 3, 5 of 6 did not come")));
}

// What is told, by whom, and whether each is left to print what it throws.
TEST_F(RendezvousTest, RankZeroTellsAndTheOthersKnowIt) {
  for (const bool tells : {true, false}) {
    std::atomic<int> told{0}, culprit{-1}, reports{0}, thrown{0};
    std::vector<std::thread> threads;
    for (const int rank : {0, 1, 3}) {
      threads.emplace_back([&, rank] {
        try {
          Rendezvous rendezvous(setup(rank, 4, 500), [&, rank](const Failure& failure) {
            if (rank == 0) culprit = failure.rank;
            ++told;
            return tells;
          });
        } catch (const RankFailure& failure) {
          reports += failure.report() ? 1 : 0;
          EXPECT_THAT(failure.message(), HasSubstr("rank 2 of 4 did not come"));
          ++thrown;
        } catch (const Error& error) {
          ++reports;
          EXPECT_THAT(error.message(), HasSubstr("rank 2 of 4 did not come"));
          ++thrown;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(thrown, 3);
    EXPECT_EQ(told, 1);
    EXPECT_EQ(culprit, 2);
    EXPECT_EQ(reports, tells ? 0 : 3);
  }
}

TEST_F(RendezvousTest, WhoMissesRankZeroHasItsOwnWord) {
  std::string what;
  int culprit = -1;
  try {
    Rendezvous rendezvous(setup(1, 2, 200), [&](const Failure& failure) {
      what = failure.what;
      culprit = failure.rank;
      return true;
    });
    ADD_FAILURE() << "it met nobody";
  } catch (const RankFailure& failure) {
    EXPECT_FALSE(failure.report());
  }
  EXPECT_THAT(what, HasSubstr("rank 0 is missing"));
  EXPECT_EQ(culprit, 0);
}

// All know the same failure; it is told by one, whichever of them it is about.
TEST_F(RendezvousTest, WhatAllGiveUpForIsToldOnce) {
  std::atomic<int> told{0};
  std::vector<std::thread> threads;
  for (const int rank : {0, 1, 2}) {
    threads.emplace_back([&, rank] {
      Rendezvous rendezvous(setup(rank, 3), [&](const Failure&) { return ++told > 0; });
      EXPECT_THROW(rendezvous.give_up({.rank = 1, .host = {}, .operation = {}, .what = "no port", .next = {}}),
                   RankFailure);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(told, 1);
}

TEST_F(RendezvousTest, WhereNobodyAnswersThatIsSaidWithWhatWasTried) {
  const auto errors = run({setup(1, 2, 300)});
  EXPECT_THAT(errors[0], testing::AllOf(HasSubstr("rank 0 is missing: nobody answers at the rendezvous 127.0.0.1:"),
                                        HasSubstr("127.0.0.1 port"), HasSubstr("Connection refused")));
  RendezvousSetup nowhere = setup(1, 2, 300);
  nowhere.host = "no-such-host.invalid";
  EXPECT_THAT(run({nowhere})[0], HasSubstr("no-such-host.invalid ("));
}

TEST_F(RendezvousTest, APortThatIsTakenIsAnErrorOfRankZero) {
  const Socket other(listening_socket(port_));
  EXPECT_THAT(run({setup(0, 2)})[0], HasSubstr(fmt::format("cannot listen on port {}", port_)));
}

TEST_F(RendezvousTest, WhoHasAnotherSecretIsRefusedAndHoldsNobodyUp) {
  std::vector<RendezvousSetup> processes = {setup(0, 3), setup(1, 3), setup(2, 3)};
  for (RendezvousSetup& one : processes) one.secret = "open sesame";
  RendezvousSetup without = setup(2, 3);
  std::string refused;
  std::atomic<int> met{0}, strangers{0};
  std::thread first([&] {
    EXPECT_THAT(run({processes[0], processes[1]},
                    [&](Rendezvous& rendezvous, int rank) {
                      ++met;
                      if (rank == 0) strangers = rendezvous.strangers();
                    }),
                testing::Each(""));
  });
  refused = run({without})[0];
  EXPECT_THAT(refused, HasSubstr("rank 2: its RIDGELINE_RENDEZVOUS_SECRET is not that of rank 0"));
  EXPECT_EQ(met, 0);
  EXPECT_THAT(run({processes[2]}), testing::Each(""));
  first.join();
  EXPECT_EQ(met, 2);
  EXPECT_EQ(strangers, 1);
}

TEST_F(RendezvousTest, StrangersAreDroppedAndCounted) {
  std::atomic<int> strangers{-1};
  std::thread server(
      [&] { run({setup(0, 2)}, [&](Rendezvous& rendezvous, int) { strangers = rendezvous.strangers(); }); });
  const std::string page = "GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n";
  const Socket web = connection();
  send(web, page.data(), page.size());
  EXPECT_TRUE(is_closed(web));
  const GreetingBytes good;
  int dropped = 1;
  std::mt19937 random(3);
  for (int round = 0; round < 40; ++round) {
    // Noise, a greeting that is cut, and greetings of ranks that there are not.
    GreetingBytes greeting;
    if (round % 4 == 1) greeting.rank = round % 8 == 1 ? 0 : 7;
    if (round % 4 == 2) greeting.bytes = uint64_t{1} << 60;
    if (round % 4 == 3) greeting.word = 3;
    std::vector<uint8_t> bytes(sizeof(greeting));
    std::memcpy(bytes.data(), &greeting, sizeof(greeting));
    if (round % 4 == 0) {
      for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    }
    Socket socket = connection();
    send(socket, bytes.data(), bytes.size());
    EXPECT_TRUE(is_closed(socket));
    ++dropped;
  }
  {
    const Socket cut = connection();
    send(cut, &good, 20);
    ++dropped;
  }
  const Socket silent = connection();
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_THAT(run({setup(1, 2)}), testing::Each(""));
  server.join();
  EXPECT_EQ(strangers, dropped);
}

TEST_F(RendezvousTest, AnotherVersionIsToldSo) {
  std::thread server([&] { run({setup(0, 2)}); });
  {
    GreetingBytes old;
    old.protocol[3] = '0';
    const Socket socket = connection();
    send(socket, &old, sizeof(old));
    char answer[256] = {};
    EXPECT_TRUE(socket.receive(answer, 200, steady_nanoseconds() + 10 * kSecond));
    EXPECT_THAT(std::string(answer + 16), HasSubstr("another version of Ridgeline"));
  }
  run({setup(1, 2)});
  server.join();
}

TEST_F(RendezvousTest, AServerThatIsNoneIsRecognised) {
  const Socket listener(listening_socket(port_));
  std::string error;
  std::thread guest([&] { error = run({setup(1, 2)})[0]; });
  Socket socket;
  while (!socket.open()) socket = Socket::accepted(listener.file());
  send(socket, "220 mail.example.org ESMTP ready\r\n", 34);
  guest.join();
  EXPECT_THAT(error, HasSubstr("is no rendezvous of this version"));
}

TEST_F(RendezvousTest, WhoLeavesBeforeAllAreThereMayComeAgain) {
  std::vector<std::string> errors;
  std::thread server([&] { errors = run({setup(0, 3)}); });
  for (int round = 0; round < 3; ++round) {
    GreetingBytes greeting;
    greeting.size = 3;
    const Socket socket = connection();
    send(socket, &greeting, sizeof(greeting));
    std::this_thread::sleep_for(std::chrono::milliseconds(60));
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_THAT(run({setup(1, 3), setup(2, 3)}), testing::Each(""));
  server.join();
  EXPECT_THAT(errors, testing::Each(""));
}

TEST_F(RendezvousTest, WhoLeavesWhileTheRunBeginsIsNamedOnAll) {
  const auto errors = run({setup(0, 3), setup(1, 3), setup(2, 3)}, [](Rendezvous& rendezvous, int rank) {
    int all[3];
    rendezvous.all_gather(&rank, all, sizeof(rank));
    if (rank == 2) return;
    rendezvous.all_gather(&rank, all, sizeof(rank));
  });
  EXPECT_EQ(errors[2], "");
  EXPECT_THAT(errors[0], HasSubstr("rank 2 left while the run began"));
  EXPECT_THAT(errors[1], HasSubstr("rank 2 left while the run began"));
}

}  // namespace
}  // namespace ridgeline::comm::detail
