// Watchers' connections over loopback: who belongs to the job gets in, and nobody else.
#include "ridgeline/comm/control_links.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <random>

#include "ridgeline/base/error.h"
#include "ridgeline/comm/board.h"

namespace ridgeline::comm::detail {
namespace {

// One host: a Control with its sockets.
struct Wired {
  Wired(ControlSetup given, int64_t now)
      : setup(std::move(given)),
        queue(::epoll_create1(EPOLL_CLOEXEC)),
        control(setup.host, setup.names, setup.times, now),
        links(setup, queue) {}
  ~Wired() { ::close(queue); }

  void turn() {
    epoll_event events[16];
    const int count = ::epoll_wait(queue, events, 16, 1);
    const int64_t now = steady_nanoseconds();
    for (int i = 0; i < count; ++i) links.handle(events[i].data.u64, now, control);
    links.tick(now, control);
    const Control::Actions actions = control.take();
    if (actions.record) recorded = actions.record;
    announced = announced || actions.announce;
    for (const auto& [peer, message] : actions.send) links.send(peer, message);
    if (actions.reach >= 0) links.reach(actions.reach, now + 20 * kSecond, now);
  }

  ControlSetup setup;
  int queue;
  Control control;
  ControlLinks links;
  std::optional<Failure> recorded;
  bool announced = false;
};

class ControlLinksTest : public testing::Test {
 protected:
  ControlSetup setup_of(int host) const {
    ControlSetup setup;
    setup.host = host;
    setup.names = {{"a", "rank 0", 0}, {"b", "rank 1", 1}};
    setup.cards = {first_.card(), second_.card()};
    setup.secret = {3, 4};
    setup.listener = host == 0 ? first_.file() : second_.file();
    return setup;
  }
  template <typename Done>
  static bool turn_until(std::initializer_list<Wired*> hosts, const Done& done) {
    for (int i = 0; i < 2000 && !done(); ++i) {
      for (Wired* host : hosts) host->turn();
    }
    return done();
  }

  ControlListener first_{"", true}, second_{"", true};
};

TEST_F(ControlLinksTest, AFailureArrives) {
  Wired root(setup_of(0), steady_nanoseconds()), child(setup_of(1), steady_nanoseconds());
  ASSERT_TRUE(turn_until({&root, &child}, [&] { return root.links.knows(1) && child.links.knows(0); }));
  child.control.failed_here({.rank = 1, .host = "b", .operation = {}, .what = "it fails", .next = {}},
                            steady_nanoseconds(), 0);
  EXPECT_TRUE(turn_until({&root, &child}, [&] { return root.recorded && child.announced; }));
  EXPECT_EQ(root.recorded.value_or(Failure{}).what, "it fails");
  EXPECT_FALSE(root.announced);
  root.links.finish();
  child.links.finish();
  EXPECT_TRUE(turn_until({&root, &child}, [&] { return root.links.finished() && child.links.finished(); }));
}

TEST_F(ControlLinksTest, WhoDoesNotKnowTheSecretStaysOutside) {
  ControlSetup stranger_setup = setup_of(1);
  stranger_setup.secret = {3, 5};
  Wired root(setup_of(0), steady_nanoseconds()), stranger(stranger_setup, steady_nanoseconds());
  turn_until({&root, &stranger}, [&] { return !stranger.links.tried().empty(); });
  EXPECT_FALSE(stranger.links.tried().empty());
  EXPECT_FALSE(root.links.knows(1) || stranger.links.knows(0));
  EXPECT_FALSE(root.recorded.has_value());
}

TEST_F(ControlLinksTest, NoiseIsDroppedAndDoesNoHarm) {
  Wired root(setup_of(0), steady_nanoseconds()), child(setup_of(1), steady_nanoseconds());
  ASSERT_TRUE(turn_until({&root, &child}, [&] { return root.links.knows(1) && child.links.knows(0); }));
  std::mt19937_64 random(5);
  for (int round = 0; round < 100; ++round) {
    sockaddr_storage address{};
    const ControlCard& card = first_.card();
    const socklen_t length = socket_address(card.addresses[0], card.port, address);
    const int file = ::socket(card.addresses[0].family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ASSERT_EQ(::connect(file, reinterpret_cast<const sockaddr*>(&address), length), 0);
    std::vector<uint8_t> noise(random() % 5000);
    for (uint8_t& one : noise) one = static_cast<uint8_t>(random());
    EXPECT_GE(::send(file, noise.data(), noise.size(), MSG_NOSIGNAL), 0);
    for (int i = 0; i < 3; ++i) root.turn();
    ::close(file);
  }
  child.control.failed_here({.rank = 1, .host = "b", .operation = {}, .what = "it fails", .next = {}},
                            steady_nanoseconds(), 0);
  EXPECT_TRUE(turn_until({&root, &child}, [&] { return root.recorded && child.announced; }));
}

TEST(ControlListener, AnUnknownInterfaceIsAnErrorThatListsWhatThereIs) {
  try {
    const ControlListener listener("ib7", false);
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_THAT(error.message(), testing::HasSubstr("no interface 'ib7'"));
    EXPECT_THAT(error.next_step(), testing::HasSubstr("lo"));
  }
}

}  // namespace
}  // namespace ridgeline::comm::detail
