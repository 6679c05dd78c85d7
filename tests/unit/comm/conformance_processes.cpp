// The conformance cases as one program of processes, started by an MPI launcher or with a rendezvous: without an
// argument all that succeed, "order N" those with mixed buffers and sum groups of N, "traffic N" what hosts send then,
// "links" which of their links is slow, "die HOW" one of the ways to die, else the failure case of that name. A failure
// case went well when its output says so: the launcher's exit status depends on which rank leaves first.
#include <fmt/format.h>
#include <signal.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "conformance.h"
#include "ridgeline/base/error.h"
#include "ridgeline/comm/failure.h"
#include "ridgeline/comm/link_check.h"

using namespace ridgeline;
using namespace ridgeline::comm;

namespace {

void say(const std::string& text) {
  if (::write(2, text.data(), text.size()) < 0) std::abort();
}

// A rank that leaves without MPI_Finalize has the others killed, so none leaves before all have checked. Nothing of the
// run is to be used any more: they meet in a folder named after the launcher's process, the parent of all.
void leave_together(int rank, int size) {
  namespace fs = std::filesystem;
  const fs::path folder = fs::temp_directory_path() / fmt::format("comm_conformance_{}", ::getppid());
  fs::create_directories(folder);
  std::ofstream(folder / std::to_string(rank)).put('x');
  const auto met = [&] { return std::distance(fs::directory_iterator(folder), fs::directory_iterator()) >= size; };
  for (int naps = 0; naps < 2000 && !met(); ++naps) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  if (rank == 0 && met()) say(fmt::format("conformance: all {} ranks failed as they should\n", size));
  // The others must see it too before it goes.
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  std::error_code ignored;
  if (rank == 0) fs::remove_all(folder, ignored);
}

int rank_by_launcher() {
  for (const char* name : {"RIDGELINE_RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK"}) {
    if (const char* rank = std::getenv(name)) return std::atoi(rank);
  }
  return 0;
}

// Even ranks are given two processors, odd ones two others.
std::vector<int> processors_of_this() {
  return rank_by_launcher() % 2 == 0 ? std::vector{0, 1} : std::vector{2, 70};
}
void require_neighbours(const World& world) {
  const char* per_host = std::getenv("RIDGELINE_RANKS_PER_HOST");
  if (per_host == nullptr) per_host = std::getenv("COMM_TEST_RANKS_PER_HOST");  // real hosts
  const int most = per_host == nullptr ? world.size() : std::atoi(per_host);
  const int first = world.rank() / most * most, last = std::min(first + most, world.size());
  int alike = 0;
  for (int rank = first; rank < last; ++rank) alike += rank % 2 == world.rank() % 2 ? 1 : 0;
  RL_CHECK(world.ranks_of_host(), ==, last - first);
  RL_CHECK(world.ranks_on_processors(), ==, alike);
}

int run_cases(WorldOptions options, std::string_view which) {
  options.processors = processors_of_this();
  options.timeout = std::chrono::seconds(60);
  run_launched(options, {}, [&](World& world) {
    require_neighbours(world);
    int run = 0;
    for (const auto& item : conformance::cases()) {
      if (!item.name.ends_with(which)) continue;
      ++run;
      try {
        item.run(world);
      } catch (const RankFailure&) {
        throw;
      } catch (const std::exception& error) {
        throw Error(fmt::format("{}: {}", item.name, error.what()));
      }
    }
    if (world.rank() == 0) say(fmt::format("conformance: {} cases on {} ranks passed\n", run, world.size()));
  });
  return 0;
}

// Ranks of one pretended host, and what it sends of each: rank 0 … per_host - 1 are on the first, and so on.
struct Hosts {
  int ranks, per_host, sum_group;

  int count() const { return (ranks + per_host - 1) / per_host; }
  int of(int rank) const { return rank / per_host; }
  int64_t members(int host) const { return std::min(per_host, ranks - host * per_host); }
  // Sums and single values that stand for the host's ranks in a sum.
  int64_t summands(int host) const {
    int64_t number = 0;
    for (int rank = host * per_host; rank < host * per_host + members(host); ++rank) {
      const int first = rank / sum_group * sum_group;
      const bool together = of(first) == of(std::min(first + sum_group, ranks) - 1);
      if (!together || rank == first) ++number;
    }
    return number;
  }
};

// Bytes that a host must send in an operation on `bytes` of every rank, its ranks owning their share of it.
int64_t expected_traffic(const Hosts& hosts, RequestKind kind, DType dtype, int64_t bytes, int host) {
  const int64_t share = bytes * hosts.members(host) / hosts.ranks, others = hosts.count() - 1;
  int64_t most_sums = 0, most_members = 0;
  for (int other = 0; other < hosts.count(); ++other) {
    most_sums = std::max(most_sums, hosts.summands(other));
    most_members = std::max(most_members, hosts.members(other));
  }
  // Sums of 16-bit values are fp32; they do not travel where the values themselves are less.
  const int64_t widening = dtype == DType::bf16 ? 2 : 1;
  const int64_t copies = widening * most_sums <= most_members ? widening * hosts.summands(host) : hosts.members(host);
  switch (kind) {
    case RequestKind::all_reduce:
      return copies * (bytes - share) + others * share;
    case RequestKind::reduce_scatter:
      return copies * (bytes - share);
    case RequestKind::all_gather:
      return others * share;
    case RequestKind::broadcast:  // from rank 0
      return host == 0 ? bytes - share + others * share : (others - 1) * share;
    case RequestKind::all_to_all:
      return hosts.members(host) * (bytes - share);
    default:
      return 0;
  }
}

// What the hosts send is what they must.
int run_traffic(WorldOptions options) {
  const char* per_host = std::getenv("RIDGELINE_RANKS_PER_HOST");
  if (per_host == nullptr) throw Error("traffic: RIDGELINE_RANKS_PER_HOST is not set");
  options.timeout = std::chrono::seconds(60);
  run_launched(options, {}, [&](World& world) {
    const Hosts hosts{world.size(), std::atoi(per_host), world.options().sum_group};
    auto comm = world.communicator("traffic");
    auto figures = world.communicator("figures");
    const int64_t count = int64_t{world.size()} * 50'000;
    std::vector<double> data(static_cast<size_t>(count)), received(data.size());
    for (const DType dtype : {DType::f32, DType::bf16, DType::f64}) {
      for (const RequestKind kind : {RequestKind::all_reduce, RequestKind::reduce_scatter, RequestKind::all_gather,
                                     RequestKind::broadcast, RequestKind::all_to_all}) {
        std::vector<int64_t> sent(static_cast<size_t>(world.size()));
        const int64_t before = comm->sent_to_other_hosts();
        comm->wait(comm->request({.kind = kind,
                                  .buffer = Ref(data.data(), dtype),
                                  .received = Ref(received.data(), dtype),
                                  .count = by_parts(kind) ? count / world.size() : count,
                                  .label = {"traffic"}}));
        sent[static_cast<size_t>(world.rank())] = comm->sent_to_other_hosts() - before;
        figures->wait(figures->all_gather(sent.data(), 1, {"figures"}));
        std::vector<int64_t> of_host(static_cast<size_t>(hosts.count()));
        for (int rank = 0; rank < world.size(); ++rank)
          of_host[static_cast<size_t>(hosts.of(rank))] += sent[static_cast<size_t>(rank)];
        for (int host = 0; host < hosts.count(); ++host) {
          const int64_t must = expected_traffic(hosts, kind, dtype, count * size_of(dtype), host);
          if (of_host[static_cast<size_t>(host)] == must) continue;
          throw Error(fmt::format("operation {} of {}: host {} sends {} bytes, not {}", static_cast<int>(kind),
                                  name_of(dtype), host, of_host[static_cast<size_t>(host)], must));
        }
      }
    }
    if (world.rank() == 0) say(fmt::format("conformance: traffic of {} hosts is as it must be\n", hosts.count()));
  });
  return 0;
}

// Of several pretended hosts the one numbered 2 has a link of 1 MB/s, on this machine of pretended hosts far below any
// other.
int run_links(WorldOptions options) {
  const char* set = std::getenv("RIDGELINE_RANKS_PER_HOST");
  if (set == nullptr) throw Error("links: RIDGELINE_RANKS_PER_HOST is not set");
  const int per_host = std::atoi(set);
  if (rank_by_launcher() / per_host == 2) options.link.bytes_per_second = 1e6;
  options.timeout = std::chrono::seconds(60);
  run_launched(options, {}, [&](World& world) {
    const int hosts = world.hosts();
    RL_CHECK(hosts, ==, (world.size() + per_host - 1) / per_host);
    for (const LinkCheck how : {LinkCheck::quick, LinkCheck::thorough}) {
      const LinkReport report = check_links(world, how);
      const bool speaks = world.rank() == 0 || world.host_of(world.rank()) != world.host_of(world.rank() - 1);
      RL_CHECK(report.hosts.size(), ==, speaks ? static_cast<size_t>(hosts) : 0U);
      if (!speaks) continue;
      int64_t pairs = 0, slow = 0;
      for (int host = 0; host < hosts; ++host) {
        for (const int other : partners_of(host, hosts, how)) {
          if (other <= host) continue;
          ++pairs;
          slow += host == 2 || other == 2 ? 1 : 0;
        }
      }
      RL_CHECK(report.pairs, ==, pairs);
      RL_CHECK(report.slow_pairs, ==, slow);
      RL_CHECK(report.slowest.size(), ==, static_cast<size_t>(slow));
      for (const LinkSpeed& link : report.slowest) {
        RL_REQUIRE(link.first == 2 || link.second == 2, "hosts {} and {} are slow", link.first, link.second);
        RL_CHECK(link.bytes_per_second, <=, 1e6);
      }
      RL_CHECK(report.median.bytes_per_second, >, 4e6);
      for (int host = 0; host < hosts; ++host)
        RL_CHECK(world.host_of(report.hosts[static_cast<size_t>(host)].first_rank), ==, host);
    }
    if (world.rank() == 0) say("conformance: the links of host 2 are slow\n");
  });
  return 0;
}

int run_failure(WorldOptions options, const std::string& name) {
  for (const auto& item : conformance::failure_cases()) {
    if (item.name != name) continue;
    int rank = 0, size = 0;
    options.timeout = std::chrono::milliseconds(item.timeout_milliseconds);
    try {
      run_launched(options, {}, [&](World& world) {
        rank = world.rank();
        size = world.size();
        item.run(world);
      });
    } catch (const RankFailure& failure) {
      if (failure.report()) say(fmt::format("failure: {}\n", failure.what()));
      for (const std::string& piece : item.expected) {
        if (std::string(failure.what()).find(piece) == std::string::npos) {
          say(fmt::format("conformance: '{}' is missing in: {}\n", piece, failure.what()));
          std::_Exit(1);
        }
      }
      leave_together(rank, size);
      std::_Exit(0);
    }
    say("conformance: nothing was thrown\n");
    return 1;
  }
  say("conformance: no such case\n");
  return 2;
}

// Rank 1 has much memory, which takes a dying process long to give back. Rank 0 reads of it all the time, as MPI does
// to get messages, and ends when it cannot.
std::vector<char> read_by_neighbour(Communicator& comm) {
  std::vector<char> memory(comm.rank() == 1 ? 500'000'000 : 1);
  std::array<int64_t, 2> place = {::getpid(), reinterpret_cast<int64_t>(memory.data())};
  comm.wait(comm.broadcast(place.data(), 2, 1, {"memory to be read"}));
  if (comm.rank() != 0) return memory;
  std::thread([place] {
    char byte = 0;
    const iovec here{&byte, 1}, there{reinterpret_cast<void*>(place[1]), 1};
    while (::process_vm_readv(static_cast<pid_t>(place[0]), &here, 1, &there, 1, 0) == 1) ::usleep(100);
    std::_Exit(13);
  }).detach();
  return memory;
}

// Rank 1 dies or stops at step 50 of an endless loop; "absent": it does not come to make the communicator; "run":
// nobody does, and every rank then leaves its process number in a file of COMM_TEST_FOLDER.
int run_death(WorldOptions options, const std::string& how) {
  options.timeout = std::chrono::milliseconds(1500);
  if (std::getenv("COMM_TEST_NO_HOOK") == nullptr) {
    options.on_failure = [](const Failure& failure) {
      say(fmt::format("failure: rank {}: {}\n", failure.rank, failure.what));
    };
  }
  if (const char* file = std::getenv("COMM_TEST_FAILURE_FILE")) options.failure_file = file;
  if (const char* folder = std::getenv("COMM_TEST_LOG_FOLDER")) options.log_folder = folder;
  try {
    run_launched(options, {}, [&](World& world) {
      std::vector<float> x(10'000);
      if (how == "absent" && world.rank() == 1) std::this_thread::sleep_for(std::chrono::seconds(100));
      auto comm = world.communicator("data");
      const std::vector<char> memory = how == "read" ? read_by_neighbour(*comm) : std::vector<char>();
      for (int step = 0;; ++step) {
        const Ticket ticket = comm->all_reduce(x.data(), 10'000, ReduceOp::sum, {"gradient", 0, step});
        if (step == 50 && world.rank() == 1) {
          if (how == "kill" || how == "read") ::raise(SIGKILL);
          if (how == "stop") ::raise(SIGSTOP);
          if (how == "stall") std::this_thread::sleep_for(std::chrono::seconds(100));
          if (how == "exit") std::_Exit(7);
          if (how == "throw") throw Error("it throws");
        }
        if (step == 50 && how == "run") {
          const std::string file = fmt::format("{}/rank.{}", std::getenv("COMM_TEST_FOLDER"), world.rank());
          std::ofstream(file + ".new") << ::getpid() << "\n";
          std::filesystem::rename(file + ".new", file);
        }
        comm->wait(ticket);
        comm->wait(comm->barrier({"end of step", -1, step}));
      }
    });
  } catch (const RankFailure& failure) {
    if (failure.report()) say(fmt::format("failure: {}\n", failure.what()));
    return 1;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  try {
    if (what.empty()) return run_cases({.sum_group = 3}, "");
    if (what == "order") return run_cases({.sum_group = std::stoi(argv[2])}, "_mixed");
    if (what == "traffic") return run_traffic({.sum_group = std::stoi(argv[2])});
    if (what == "links") return run_links({});
    if (what == "die") return run_death({}, argv[2]);
    return run_failure({}, what);
  } catch (const RankFailure& failure) {
    if (failure.report()) say(fmt::format("failure: {}\n", failure.what()));
  } catch (const std::exception& error) {
    say(fmt::format("error: {}\n", error.what()));
  }
  return 1;
}
