#include "ridgeline/comm/hosts.h"

#include <fmt/format.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <map>
#include <thread>
#include <tuple>

namespace ridgeline::comm::detail {
namespace {

constexpr std::chrono::milliseconds kForOthersWords{300};

// Processors by their numbers; those beyond kMost count as one.
struct ProcessorSet {
  static constexpr int kMost = 4096;
  uint64_t words[kMost / 64];

  void add(int processor) {
    const int bit = std::clamp(processor, 0, kMost - 1);
    words[bit / 64] |= uint64_t{1} << (bit % 64);
  }
  void add(const ProcessorSet& other) {
    for (int i = 0; i < kMost / 64; ++i) words[i] |= other.words[i];
  }
  bool meets(const ProcessorSet& other) const {
    for (int i = 0; i < kMost / 64; ++i) {
      if ((words[i] & other.words[i]) != 0) return true;
    }
    return false;
  }
  int count() const {
    int all = 0;
    for (const uint64_t word : words) all += std::popcount(word);
    return all;
  }
};

// What every rank tells every other at start-up.
struct Introduction {
  char host[64];
  char boot[64];  // of its kernel: hosts may have one name
  int32_t pretended_host;
  int32_t process;
  ProcessorSet processors;
};

Introduction introduce(int rank, const std::vector<int>& processors) {
  Introduction self{};
  for (const int processor : processors) self.processors.add(processor);
  ::gethostname(self.host, sizeof(self.host) - 1);
  std::string boot;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot);
  put_text(self.boot, boot);
  self.process = ::getpid();
  if (const char* per_host = std::getenv("RIDGELINE_RANKS_PER_HOST")) {
    const int count = std::atoi(per_host);
    if (count > 0) self.pretended_host = 1 + rank / count;
  }
  return self;
}

struct Problem {
  char what[1024], next[512];
};

ControlSecret new_secret() {
  ControlSecret secret{};
  if (::getrandom(secret.data(), sizeof(secret), 0) != static_cast<ssize_t>(sizeof(secret))) {
    throw system_error("cannot get random bytes", errno);
  }
  return secret;
}

}  // namespace

Hosts find_hosts(Wire& wire, const std::vector<int>& processors) {
  const int rank = wire.rank(), size = wire.size();
  const Introduction self = introduce(rank, processors);
  const std::vector<Introduction> everyone = all_gather(wire, self);
  Hosts hosts;
  hosts.name = self.host;
  hosts.pretended = self.pretended_host > 0;
  std::map<std::tuple<std::string, std::string, int32_t>, size_t> numbers;
  for (int other = 0; other < size; ++other) {
    const Introduction& one = everyone[static_cast<size_t>(other)];
    const auto [found, is_new] = numbers.try_emplace({one.host, one.boot, one.pretended_host}, hosts.ranks.size());
    if (is_new) {
      hosts.ranks.emplace_back();
      hosts.names.emplace_back(one.host);
    }
    hosts.ranks[found->second].push_back(other);
    hosts.processes.push_back(one.process);
    if (other == rank) hosts.own = static_cast<int>(found->second);
  }
  ProcessorSet together{};
  for (const int other : hosts.ranks[static_cast<size_t>(hosts.own)]) {
    const ProcessorSet& theirs = everyone[static_cast<size_t>(other)].processors;
    together.add(theirs);
    if (other == rank || theirs.meets(self.processors)) ++hosts.ranks_on_processors;
  }
  hosts.processors = together.count();
  return hosts;
}

int first_with_problem(Wire& wire, bool problem) {
  const std::vector<char> everyone = all_gather<char>(wire, problem ? 1 : 0);
  const auto first = std::find(everyone.begin(), everyone.end(), 1);
  return first == everyone.end() ? -1 : static_cast<int>(first - everyone.begin());
}

void agree(Wire& wire, const Host& host, const Hosts& hosts, const std::optional<Error>& problem) {
  const int culprit = first_with_problem(wire, problem.has_value());
  if (culprit < 0) return;
  Problem text{};
  if (culprit == wire.rank()) {
    put_text(text.what, problem->message());
    put_text(text.next, problem->next_step());
  }
  wire.broadcast(&text, sizeof(text), culprit);
  host.fail(
      {.rank = culprit, .host = hosts.name, .operation = {}, .what = text.what, .next = text.next, .refusal = true});
  if (host.local_rank(culprit) >= 0) {
    host.announce();
  } else {
    host.keep_quiet();
  }
  // A launcher ends all ranks when one has left, some of them before their last words are through.
  if (culprit != wire.rank()) std::this_thread::sleep_for(kForOthersWords);
  host.throw_failure();
}

std::string chosen_interface() {
  const char* interface = std::getenv("RIDGELINE_INTERFACE");
  return interface == nullptr ? "" : interface;
}

ControlSetup control_setup(Wire& wire, const Hosts& hosts, const WorldOptions& options,
                           const ControlListener* listener) {
  ControlSetup setup;
  setup.host = hosts.own;
  constexpr int64_t kLeast = 2 * kSecond;  // of a few signs of life
  setup.times.silence =
      std::max(kLeast, int64_t{std::chrono::nanoseconds(std::min(options.timeout, options.silence)).count()});
  setup.times.beat = std::min(kSecond, setup.times.silence / 4);
  setup.connect_limit = setup.times.silence;
  for (size_t host = 0; host < hosts.ranks.size(); ++host) {
    const std::vector<int>& ranks = hosts.ranks[host];
    setup.names.push_back({hosts.names[host], ranks_text(ranks), ranks.size() == 1 ? ranks.front() : -1});
  }
  if (hosts.ranks.size() == 1) return setup;
  const std::vector<ControlCard> cards = all_gather(wire, listener == nullptr ? ControlCard{} : listener->card());
  for (const std::vector<int>& ranks : hosts.ranks) {
    setup.cards.push_back(cards[static_cast<size_t>(ranks.front())]);
  }
  if (wire.rank() == 0) setup.secret = new_secret();
  wire.broadcast(&setup.secret, sizeof(setup.secret), 0);
  if (listener != nullptr) setup.listener = listener->file();
  return setup;
}

}  // namespace ridgeline::comm::detail
