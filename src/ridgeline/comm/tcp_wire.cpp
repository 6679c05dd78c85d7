#include "ridgeline/comm/tcp_wire.h"

#include <sys/resource.h>

#include <algorithm>
#include <iterator>
#include <thread>
#include <utility>

#include "ridgeline/comm/hosts.h"
#include "ridgeline/comm/process.h"
#include "ridgeline/comm/start_word.h"

namespace ridgeline::comm {
namespace detail {
namespace {

bool is_loopback(const ControlAddress& address) {
  constexpr uint8_t kSix[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  if (address.family == AF_INET) return address.bytes[0] == 127;
  return std::equal(std::begin(kSix), std::end(kSix), std::begin(address.bytes));
}

struct ListeningProblem {
  char what[1024], next[512];
};

// A connection is a file, and there may be one per peer and communicator.
void allow_many_connections() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

std::vector<TcpCard> cards_of(const std::vector<TcpIntroduction>& everyone) {
  ControlAddress root{};
  for (const TcpIntroduction& one : everyone) {
    if (one.root.family != 0 && (root.family == 0 || is_loopback(root))) root = one.root;
  }
  std::vector<TcpCard> cards;
  for (const TcpIntroduction& one : everyone) {
    const bool of_root = one.card.address.family == 0 || is_loopback(one.card.address);
    cards.push_back({of_root && root.family != 0 ? root : one.card.address, one.card.port});
  }
  return cards;
}

TcpWire::TcpWire(const RendezvousSetup& setup, Rendezvous::Tell tell)
    : rank_(setup.rank), size_(setup.size), rendezvous_(setup, std::move(tell)) {
  TcpIntroduction own{};
  own.root = rendezvous_.root_address();
  ListeningProblem problem{};
  try {
    const std::string interface = chosen_interface();
    listener_ = std::make_unique<ControlListener>(interface, true);
    own.card.port = listener_->card().port;
    own.card.address = interface.empty() ? rendezvous_.own_address() : listener_->card().addresses[0];
  } catch (const Error& error) {
    put_text(problem.what, error.message());
    put_text(problem.next, error.next_step());
  }
  const std::vector<TcpIntroduction> everyone = detail::all_gather(*this, own);
  for (int rank = 0; rank < size_; ++rank) {
    if (everyone[static_cast<size_t>(rank)].card.port != 0) continue;
    rendezvous_.broadcast(&problem, sizeof(problem), rank);
    rendezvous_.give_up(
        {.rank = rank, .host = {}, .operation = "the start", .what = problem.what, .next = problem.next});
  }
  peers_ = std::make_unique<TcpPeers>(rank_, cards_of(everyone), rendezvous_.secret(), listener_->file());
}

std::unique_ptr<Channel> TcpWire::channel(std::span<const int> ranks, uint64_t key) {
  return std::make_unique<TcpChannel>(*peers_, ranks, key);
}

}  // namespace detail

void run_rendezvous(const WorldOptions& options, std::string_view rendezvous, const std::function<void(World&)>& body) {
  detail::allow_many_connections();
  // Ranks that may be apart for long while they work still start together.
  constexpr std::chrono::milliseconds kLongestStart = std::chrono::hours(1);
  const detail::RendezvousSetup setup = detail::rendezvous_setup(rendezvous, std::min(options.timeout, kLongestStart));
  const detail::StartWord word(options, setup.rank);
  detail::TcpWire wire(setup, [&](const Failure& failure) {
    std::this_thread::sleep_for(word.turn(setup.timeout));
    return word.tell(failure);
  });
  detail::run_process(wire, options, body);
}

}  // namespace ridgeline::comm
