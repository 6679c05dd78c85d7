// Messages over TCP between ranks of one thread: order, lengths, and everything that peers and strangers may do wrong.
#include "ridgeline/comm/tcp_channel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <memory>
#include <numeric>
#include <random>

#include "ridgeline/base/error.h"
#include "ridgeline/comm/board.h"
#include "ridgeline/comm/control.h"
#include "ridgeline/comm/tcp_wire.h"

namespace ridgeline::comm::detail {
namespace {

constexpr ControlSecret kSecret = {11, 12};
constexpr uint64_t kKey = 77;

// A channel, and one batch of all its messages.
class Ends {
 public:
  struct Progress {
    bool done, moved;
  };
  Ends(TcpPeers& peers, std::span<const int> ranks, uint64_t key) : channel_(peers, ranks, key) {}
  void send(const void* data, int64_t bytes, int member, int tag) { channel_.send(data, bytes, member, tag, batch_); }
  void receive(void* data, int64_t bytes, int member, int tag) { channel_.receive(data, bytes, member, tag, batch_); }
  Progress progress() {
    const bool moved = channel_.progress();
    return {.done = batch_.open == 0, .moved = moved};
  }
  int missing(std::span<int> members) const {
    EXPECT_EQ(channel_.missing(Batch(), members), 0);
    return channel_.missing(batch_, members);
  }
  void withdraw() {
    channel_.withdraw();
    batch_ = {};
  }

 private:
  TcpChannel channel_;
  Batch batch_;
};

class TcpChannelTest : public testing::Test {
 protected:
  explicit TcpChannelTest(int ranks = 3) {
    for (int rank = 0; rank < ranks; ++rank) {
      listeners_.push_back(std::make_unique<ControlListener>("", true));
      cards_.push_back({{.family = AF_INET, .bytes = {127, 0, 0, 1}}, listeners_.back()->card().port});
      all_.push_back(rank);
    }
    for (int rank = 0; rank < ranks; ++rank) {
      peers_.push_back(
          std::make_unique<TcpPeers>(rank, cards_, kSecret, listeners_[static_cast<size_t>(rank)]->file()));
    }
  }
  std::unique_ptr<Ends> channel(int rank, uint64_t key = kKey) {
    return std::make_unique<Ends>(*peers_[static_cast<size_t>(rank)], all_, key);
  }
  // A connection to `rank` from somebody else.
  Socket stranger(int rank) const {
    sockaddr_storage address{};
    const TcpCard& card = cards_[static_cast<size_t>(rank)];
    const socklen_t length = socket_address(card.address, card.port, address);
    return Socket::connecting(reinterpret_cast<const sockaddr*>(&address), length);
  }
  // Rank 1's connection to rank 0, in the hands of the test.
  Socket impostor() const {
    Socket socket = stranger(0);
    const TcpGreeting greeting = peers_[1]->greeting(0, kKey, 1);
    EXPECT_TRUE(socket.send(&greeting, sizeof(greeting), steady_nanoseconds() + kSecond));
    return socket;
  }
  static bool done(std::initializer_list<Ends*> channels) {
    for (int turn = 0; turn < 20'000; ++turn) {
      bool all = true;
      for (Ends* one : channels) all = one->progress().done && all;
      if (all) return true;
      if (turn > 1000) ::usleep(100);
    }
    return false;
  }
  static std::vector<uint8_t> bytes_of(size_t count, uint64_t seed) {
    std::mt19937_64 random(seed);
    std::vector<uint8_t> bytes(count);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    return bytes;
  }
  static std::string error_of(const std::function<void()>& work) {
    try {
      work();
    } catch (const Undeliverable& error) {
      return error.message();
    }
    return "nothing was thrown";
  }

  std::vector<std::unique_ptr<ControlListener>> listeners_;
  std::vector<TcpCard> cards_;
  std::vector<std::unique_ptr<TcpPeers>> peers_;
  std::vector<int> all_;
};

constexpr size_t kSizes[] = {0, 1, 88, 4096, 100'001, 5'000'000, 3};

TEST_F(TcpChannelTest, MessagesArriveInTheirOrderWhicheverEndIsFirst) {
  const auto first = channel(0), second = channel(1);
  std::vector<std::vector<uint8_t>> sent, back, got, got_back;
  for (const size_t size : kSizes) {
    sent.push_back(bytes_of(size, size));
    back.push_back(bytes_of(size, size + 1));
    got.emplace_back(size + 8, uint8_t{9});
    got_back.emplace_back(size + 8, uint8_t{9});
  }
  for (size_t i = 0; i < sent.size(); ++i) {
    const int tag = i % 2 == 0 ? 1 : 3;
    first->send(sent[i].data(), std::ssize(sent[i]), 1, tag);
    if (i == 3) first->progress();
    second->send(back[i].data(), std::ssize(back[i]), 0, tag);
  }
  for (size_t i = 0; i < sent.size(); ++i) {
    const int tag = i % 2 == 0 ? 1 : 3;
    second->receive(got[i].data(), std::ssize(sent[i]), 0, tag);
    first->receive(got_back[i].data(), std::ssize(back[i]), 1, tag);
  }
  ASSERT_TRUE(done({first.get(), second.get()}));
  for (size_t i = 0; i < sent.size(); ++i) {
    for (std::vector<uint8_t>* end : {&sent[i], &back[i]}) end->insert(end->end(), 8, uint8_t{9});
    EXPECT_TRUE(got[i] == sent[i] && got_back[i] == back[i]) << i;
  }
}

TEST_F(TcpChannelTest, AChannelDoesNotWaitForAnother) {
  const auto first = channel(0), second = channel(1);
  const auto first_other = channel(0, 5), second_other = channel(1, 5);
  const std::vector<uint8_t> large = bytes_of(30'000'000, 1), small = bytes_of(10, 2);
  std::vector<uint8_t> got(small.size()), got_large(large.size());
  first->send(large.data(), std::ssize(large), 1, 1);  // nobody receives it yet
  first->progress();
  first_other->send(small.data(), std::ssize(small), 1, 1);
  second_other->receive(got.data(), std::ssize(got), 0, 1);
  EXPECT_TRUE(done({first_other.get(), second_other.get()}));
  EXPECT_EQ(got, small);
  EXPECT_FALSE(first->progress().done) << "more is sent ahead than a system holds";
  int missing[4] = {};
  EXPECT_EQ(first->missing(missing), 1);
  EXPECT_EQ(missing[0], 1);
  second->receive(got_large.data(), std::ssize(got_large), 0, 1);
  EXPECT_TRUE(done({first.get(), second.get()}));
  EXPECT_TRUE(got_large == large);
}

TEST_F(TcpChannelTest, ATagDoesNotWaitForAnother) {
  const auto first = channel(0), second = channel(1);
  const std::vector<uint8_t> large = bytes_of(30'000'000, 1), small = bytes_of(10, 2);
  std::vector<uint8_t> got(small.size()), got_large(large.size());
  first->send(large.data(), std::ssize(large), 1, 1);  // nobody receives it yet
  first->send(small.data(), std::ssize(small), 1, 2);
  second->receive(got.data(), std::ssize(got), 0, 2);
  for (int turn = 0; turn < 20'000 && !second->progress().done; ++turn) first->progress();
  EXPECT_EQ(got, small);
  EXPECT_FALSE(first->progress().done);
  second->receive(got_large.data(), std::ssize(got_large), 0, 1);
  EXPECT_TRUE(done({first.get(), second.get()}));
  EXPECT_TRUE(got_large == large);
}

TEST_F(TcpChannelTest, ARankMaySendToItself) {
  const auto one = channel(1);
  const std::vector<uint8_t> sent = bytes_of(1000, 1), more = bytes_of(3, 2);
  std::vector<uint8_t> got(1000), got_more(3);
  one->receive(got.data(), 1000, 1, 1);
  EXPECT_FALSE(one->progress().done);
  one->send(sent.data(), 1000, 1, 1);
  one->send(more.data(), 3, 1, 1);
  EXPECT_FALSE(one->progress().done);
  one->receive(got_more.data(), 3, 1, 1);
  EXPECT_TRUE(done({one.get()}));
  EXPECT_TRUE(got == sent && got_more == more);
}

TEST_F(TcpChannelTest, AnotherLengthIsAnErrorAndNothingIsWrittenBeyond) {
  for (const int length : {99, 101, 5'000'000}) {
    const auto key = static_cast<uint64_t>(length);
    const auto first = channel(0, key), second = channel(1, key);
    const std::vector<uint8_t> sent(static_cast<size_t>(length), uint8_t{5});
    std::vector<uint8_t> got(100 + 50, uint8_t{9});
    first->receive(got.data(), 100, 1, 1);
    second->send(sent.data(), length, 0, 1);
    const std::string error = error_of([&] { done({first.get(), second.get()}); });
    EXPECT_EQ(error, fmt::format("rank 1 sends {} bytes of kind 1 where 100 of kind 1 are expected", length));
    EXPECT_TRUE(std::all_of(got.begin() + 100, got.end(), [](uint8_t byte) { return byte == 9; }));
  }
}

TEST_F(TcpChannelTest, AConnectionThatEndsIsAnErrorThatNamesThePeer) {
  const auto first = channel(0);
  std::vector<uint8_t> got(1000);
  first->receive(got.data(), 1000, 1, 1);
  {
    const auto second = channel(1);
    const std::vector<uint8_t> sent(10);
    second->send(sent.data(), 10, 2, 1);  // to somebody else
    second->receive(got.data(), 10, 0, 1);
    EXPECT_FALSE(second->progress().done);
    EXPECT_FALSE(first->progress().done);
  }
  EXPECT_THAT(error_of([&] { done({first.get()}); }), testing::StartsWith("the connection to rank 1 is broken"));
}

TEST_F(TcpChannelTest, APeerThatDoesNotListenAnyMoreIsAnErrorThatNamesIt) {
  listeners_[0].reset();
  const auto second = channel(1);
  std::vector<uint8_t> got(10);
  EXPECT_THAT(error_of([&] {
                second->receive(got.data(), 10, 0, 1);
                done({second.get()});
              }),
              testing::AnyOf(testing::StartsWith("the connection to rank 0 is broken"),
                             testing::StartsWith("cannot connect to rank 0 at 127.0.0.1")));
}

TEST_F(TcpChannelTest, WhatIsWithdrawnIsNotTouchedAnyMore) {
  const auto first = channel(0), second = channel(1);
  const std::vector<uint8_t> sent(1000, uint8_t{5});
  std::vector<uint8_t> got(1000, uint8_t{9});
  first->receive(got.data(), 1000, 1, 1);
  first->withdraw();
  second->send(sent.data(), 1000, 0, 1);
  for (int turn = 0; turn < 100; ++turn) EXPECT_TRUE(first->progress().done);
  EXPECT_TRUE(std::all_of(got.begin(), got.end(), [](uint8_t byte) { return byte == 9; }));
}

TEST_F(TcpChannelTest, StrangersAreDroppedAndCountedWhileARunGoesOn) {
  const auto first = channel(0), second = channel(1);
  std::mt19937_64 random(4);
  constexpr int kStrangers = 60;
  std::vector<Socket> kept;
  for (int i = 0; i < kStrangers; ++i) {
    Socket socket = stranger(0);
    std::vector<uint8_t> bytes = bytes_of(sizeof(TcpGreeting) + random() % 2000, random());
    // Some nearly belong: another secret, another receiver, another protocol.
    TcpGreeting greeting = peers_[1]->greeting(0, kKey, 1);
    if (i % 4 == 0) greeting.secret[1] ^= 1;
    if (i % 4 == 1) greeting.to = 2;
    if (i % 4 == 2) greeting.protocol[7] = '9';
    if (i % 4 != 3) std::memcpy(bytes.data(), &greeting, sizeof(greeting));
    EXPECT_TRUE(socket.send(bytes.data(), bytes.size(), steady_nanoseconds() + kSecond));
    kept.push_back(std::move(socket));
  }
  kept.push_back(stranger(0));  // one that says nothing
  const std::vector<uint8_t> sent = bytes_of(100'000, 3);
  std::vector<uint8_t> got(sent.size());
  second->send(sent.data(), std::ssize(sent), 0, 1);
  first->receive(got.data(), std::ssize(got), 1, 1);
  ASSERT_TRUE(done({first.get(), second.get()}));
  EXPECT_TRUE(got == sent);
  EXPECT_EQ(peers_[0]->strangers(), kStrangers);
}

// A peer that knows the secret and then sends anything: the receive fails, or waits, and no byte lies beyond it.
TEST_F(TcpChannelTest, BrokenFramesDoNoHarm) {
  // A good message, as it lies on the wire.
  std::vector<uint8_t> good(16 + 64);
  {
    const auto second = channel(1);
    const std::vector<uint8_t> sent = bytes_of(64, 7);
    second->send(sent.data(), 64, 0, 1);
    Socket taken;
    for (int turn = 0; turn < 1000 && !(second->progress().done && taken.open()); ++turn) {
      if (!taken.open()) taken = peers_[0]->take(1, kKey, 1);
    }
    ASSERT_TRUE(taken.open());
    ASSERT_TRUE(taken.receive(good.data(), good.size(), steady_nanoseconds() + kSecond));
    EXPECT_TRUE(std::equal(sent.begin(), sent.end(), good.begin() + 16));
  }
  std::mt19937_64 random(9);
  int errors = 0, waits = 0;
  for (int round = 0; round < 300; ++round) {
    const auto first = channel(0);
    const Socket peer = impostor();
    std::vector<uint8_t> bytes = good;
    bytes.resize(random() % (good.size() + 1));
    for (uint64_t change = random() % 4; change > 0 && !bytes.empty(); --change) {
      bytes[random() % bytes.size()] ^= static_cast<uint8_t>(1U << random() % 8);
    }
    if (round % 5 == 0) bytes = bytes_of(random() % 3000, random());
    EXPECT_TRUE(peer.send(bytes.data(), bytes.size(), steady_nanoseconds() + kSecond));
    std::vector<uint8_t> got(64 + 64, uint8_t{9});
    first->receive(got.data(), 64, 1, 1);
    bool finished = false;
    const std::string error = error_of([&] {
      for (int turn = 0; turn < 50 && !finished; ++turn) finished = first->progress().done;
    });
    if (error != "nothing was thrown") {
      ++errors;
    } else {
      ++waits;
    }
    EXPECT_TRUE(std::all_of(got.begin() + 64, got.end(), [](uint8_t byte) { return byte == 9; }));
    EXPECT_TRUE(!finished || std::equal(good.begin(), good.begin() + 16, bytes.begin()));
  }
  EXPECT_GT(errors, 50);
  EXPECT_GT(waits, 50);
}

ControlAddress four(uint8_t a, uint8_t d) {
  return {.family = AF_INET, .bytes = {a, 0, 0, d}};
}
TcpIntroduction introduction(ControlAddress own, ControlAddress root, int port) {
  TcpIntroduction one{};
  one.card = {own, port};
  one.root = root;
  return one;
}

TEST(TcpCards, RanksBesideRankZeroGetTheAddressThatOthersReachItBy) {
  // Ranks 0 and 1 are on a host that calls itself 127.0.1.1, rank 2 reaches it as 10.0.0.1.
  const std::vector<TcpCard> cards = cards_of({introduction({}, {}, 1), introduction(four(127, 1), four(127, 1), 2),
                                               introduction(four(10, 2), four(10, 1), 3)});
  const ControlAddress expected[] = {four(10, 1), four(10, 1), four(10, 2)};
  for (size_t rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(text_of(cards[rank].address), text_of(expected[rank])) << rank;
    EXPECT_EQ(cards[rank].port, static_cast<int>(rank) + 1);
  }
}

TEST(TcpCards, OnOneHostLoopbackDoes) {
  for (const TcpCard& card : cards_of({introduction({}, {}, 1), introduction(four(127, 1), four(127, 1), 2)})) {
    EXPECT_EQ(text_of(card.address), "127.0.0.1");
  }
}

}  // namespace
}  // namespace ridgeline::comm::detail
