#include "ridgeline/comm/mpi_hosts.h"

#include <fmt/format.h>
#include <mpi.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <map>

namespace ridgeline::comm::detail {
namespace {

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
  int32_t pretended_host;
  int32_t process;
  ProcessorSet processors;
};

Introduction introduce(int rank, const std::vector<int>& processors) {
  Introduction self{};
  for (const int processor : processors) self.processors.add(processor);
  ::gethostname(self.host, sizeof(self.host) - 1);
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

MpiHosts find_hosts(int rank, int size, const std::vector<int>& processors) {
  std::vector<Introduction> everyone(static_cast<size_t>(size));
  const Introduction self = introduce(rank, processors);
  MPI_Allgather(&self, sizeof(self), MPI_BYTE, everyone.data(), sizeof(self), MPI_BYTE, MPI_COMM_WORLD);
  MpiHosts hosts;
  hosts.name = self.host;
  hosts.pretended = self.pretended_host > 0;
  std::map<std::pair<std::string, int32_t>, size_t> numbers;
  for (int other = 0; other < size; ++other) {
    const Introduction& one = everyone[static_cast<size_t>(other)];
    const auto [found, is_new] = numbers.try_emplace({one.host, one.pretended_host}, hosts.ranks.size());
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

int first_with_problem(bool problem, int size) {
  std::vector<char> everyone(static_cast<size_t>(size));
  const char mine = problem ? 1 : 0;
  MPI_Allgather(&mine, 1, MPI_CHAR, everyone.data(), 1, MPI_CHAR, MPI_COMM_WORLD);
  for (int rank = 0; rank < size; ++rank) {
    if (everyone[static_cast<size_t>(rank)] != 0) return rank;
  }
  return -1;
}

void agree(const Host& host, const MpiHosts& hosts, const std::optional<Error>& problem, int rank, int size) {
  const int culprit = first_with_problem(problem.has_value(), size);
  if (culprit < 0) return;
  Problem text{};
  if (culprit == rank) {
    put_text(text.what, problem->message());
    put_text(text.next, problem->next_step());
  }
  MPI_Bcast(&text, sizeof(text), MPI_BYTE, culprit, MPI_COMM_WORLD);
  host.fail(
      {.rank = culprit, .host = hosts.name, .operation = {}, .what = text.what, .next = text.next, .refusal = true});
  if (host.local_rank(culprit) >= 0) {
    host.announce();
  } else {
    host.keep_quiet();
  }
  host.throw_failure();
}

ControlSetup control_setup(const MpiHosts& hosts, const WorldOptions& options, const ControlListener* listener,
                           int rank) {
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
  MPI_Comm firsts = MPI_COMM_NULL;
  MPI_Comm_split(MPI_COMM_WORLD, listener != nullptr ? 0 : MPI_UNDEFINED, rank, &firsts);
  if (listener == nullptr) return setup;
  setup.listener = listener->file();
  setup.cards.resize(hosts.ranks.size());
  MPI_Allgather(&listener->card(), sizeof(ControlCard), MPI_BYTE, setup.cards.data(), sizeof(ControlCard), MPI_BYTE,
                firsts);
  if (hosts.own == 0) setup.secret = new_secret();
  MPI_Bcast(setup.secret.data(), sizeof(setup.secret), MPI_BYTE, 0, firsts);
  MPI_Comm_free(&firsts);
  return setup;
}

}  // namespace ridgeline::comm::detail
