#include "ridgeline/comm/link_check.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <iterator>
#include <memory>
#include <type_traits>

namespace ridgeline::comm {
namespace {

constexpr Label kLinkTest{"test of links"};
constexpr int64_t kWords = (128 << 10) / sizeof(int64_t);  // of a message by which the rate is measured
constexpr int kPings = 8;

struct LinkEffort {
  int most_messages;
  double seconds;  // of one link, after which no more of them are begun
};

int64_t nanoseconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::nanoseconds(std::chrono::steady_clock::now() - begin).count();
}

// One end of every link of a host.
class LinkProbe {
 public:
  LinkProbe(Communicator& hosts, LinkEffort effort) : hosts_(hosts), effort_(effort), out_(kWords), in_(kWords) {}

  // Both hosts call it, and get the same.
  LinkSpeed measure(int partner) {
    pass(partner, 1);  // both are there
    int64_t latency = INT64_MAX;
    for (int ping = 0; ping < kPings; ++ping) {
      const auto begin = std::chrono::steady_clock::now();
      pass(partner, 1);
      latency = std::min(latency, nanoseconds_since(begin));
    }
    // Each message says how long its sender has been at it, so that both stop after the same one.
    const auto limit = static_cast<int64_t>(effort_.seconds * 1e9);
    const auto begin = std::chrono::steady_clock::now();
    int messages = 0;
    do {
      out_[0] = nanoseconds_since(begin);
      pass(partner, kWords);
      ++messages;
    } while (messages < effort_.most_messages && std::max(out_[0], in_[0]) < limit);
    out_[0] = nanoseconds_since(begin);
    out_[1] = latency;
    pass(partner, 2);
    const int64_t taken = std::max<int64_t>({out_[0], in_[0], 1});
    return {
        .first = std::min(hosts_.rank(), partner),
        .second = std::max(hosts_.rank(), partner),
        .bytes_per_second = static_cast<double>(messages * kWords) * sizeof(int64_t) * 1e9 / static_cast<double>(taken),
        .latency = static_cast<double>(std::max(out_[1], in_[1])) * 1e-9};
  }

 private:
  void pass(int partner, int64_t words) {
    const Send send{partner, ConstRef(out_.data()), words};
    const Receive receive{partner, Ref(in_.data()), words};
    hosts_.wait(hosts_.exchange({&send, 1}, {&receive, 1}, kLinkTest));
  }

  Communicator& hosts_;
  LinkEffort effort_;
  std::vector<int64_t> out_, in_;
};

// Of an even number of values the better one: a host of two links of which one is slow is not slow itself.
LinkSpeed median_of(const std::vector<LinkSpeed>& links) {
  std::vector<double> rates, latencies;
  for (const LinkSpeed& link : links) {
    rates.push_back(link.bytes_per_second);
    latencies.push_back(link.latency);
  }
  std::sort(rates.begin(), rates.end());
  std::sort(latencies.begin(), latencies.end());
  return {.bytes_per_second = rates[rates.size() / 2], .latency = latencies[(latencies.size() - 1) / 2]};
}

bool slower(const LinkSpeed& one, const LinkSpeed& other) {
  return one.bytes_per_second < other.bytes_per_second;
}

// Plain data, as it travels.
struct HostSummary {
  std::array<char, 64> name;
  int64_t first_rank;
  LinkSpeed median, slowest;
  std::array<LinkSpeed, kSlowOfHost> slow;  // those with later hosts
};
static_assert(std::is_trivially_copyable_v<HostSummary>);

template <typename T>
std::vector<T> gather(Communicator& hosts, const T& mine) {
  std::vector<T> all(static_cast<size_t>(hosts.size()));
  all[static_cast<size_t>(hosts.rank())] = mine;
  hosts.wait(hosts.all_gather(Ref(all.data(), DType::u8), sizeof(T), kLinkTest));
  return all;
}

// The slow links are measured again, and the better figures count: something else may have been in the way.
void measure_again(LinkProbe& probe, std::vector<LinkSpeed>& links, int host, const LinkSpeed& usual) {
  for (LinkSpeed& link : links) {
    if (!link.slower_than(usual)) continue;
    const LinkSpeed again = probe.measure(link.first == host ? link.second : link.first);
    link.bytes_per_second = std::max(link.bytes_per_second, again.bytes_per_second);
    link.latency = std::min(link.latency, again.latency);
  }
}

LinkReport report_links(Communicator& hosts, const std::vector<LinkSpeed>& links, const LinkSpeed& usual,
                        int first_rank) {
  HostSummary mine{.name = {}, .first_rank = first_rank, .median = median_of(links), .slowest = {}, .slow = {}};
  ::gethostname(mine.name.data(), mine.name.size() - 1);
  mine.slowest = *std::min_element(links.begin(), links.end(), slower);
  std::vector<LinkSpeed> slow;
  std::copy_if(links.begin(), links.end(), std::back_inserter(slow),
               [&](const LinkSpeed& link) { return link.first == hosts.rank() && link.slower_than(usual); });
  std::sort(slow.begin(), slow.end(), slower);
  std::copy_n(slow.begin(), std::min<size_t>(slow.size(), kSlowOfHost), mine.slow.begin());
  std::array<int64_t, 2> counts = {static_cast<int64_t>(links.size()), 2 * static_cast<int64_t>(slow.size())};
  hosts.wait(hosts.all_reduce(Ref(counts.data()), 2, ReduceOp::sum, kLinkTest));
  LinkReport report;
  report.median = usual;
  report.pairs = counts[0] / 2;
  report.slow_pairs = counts[1] / 2;
  for (const HostSummary& one : gather(hosts, mine)) {
    report.hosts.push_back({one.name.data(), static_cast<int>(one.first_rank), one.median, one.slowest});
    std::copy_if(one.slow.begin(), one.slow.end(), std::back_inserter(report.slowest),
                 [](const LinkSpeed& link) { return link.first >= 0; });
  }
  std::stable_sort(report.slowest.begin(), report.slowest.end(), slower);
  if (report.slowest.size() > kSlowShown) report.slowest.resize(kSlowShown);
  return report;
}

}  // namespace

std::vector<int> partners_of(int host, int hosts, LinkCheck how) {
  std::vector<int> partners;
  const auto end = static_cast<int>(std::bit_ceil(static_cast<unsigned>(hosts)));
  for (int x = 1; x < end; x = how == LinkCheck::quick ? 2 * x : x + 1)
    partners.push_back((host ^ x) < hosts ? host ^ x : -1);
  return partners;
}

bool LinkSpeed::slower_than(const LinkSpeed& usual) const {
  return 4 * bytes_per_second < usual.bytes_per_second || (latency > 4 * usual.latency && latency > 1e-3);
}

LinkReport check_links(World& world, LinkCheck how) {
  std::vector<int> firsts(static_cast<size_t>(world.hosts()), -1);
  for (int rank = world.size() - 1; rank >= 0; --rank) firsts[static_cast<size_t>(world.host_of(rank))] = rank;
  const int host = world.host_of(world.rank());
  if (firsts[static_cast<size_t>(host)] != world.rank()) return {};
  const std::unique_ptr<Communicator> hosts = world.communicator(firsts, "first ranks of hosts");
  const std::vector<int> partners = partners_of(host, world.hosts(), how);
  LinkProbe probe(*hosts, how == LinkCheck::quick ? LinkEffort{16, 0.3 / static_cast<double>(partners.size())}
                                                  : LinkEffort{128, 1});
  std::vector<LinkSpeed> links;
  for (const int partner : partners) {
    if (partner >= 0) links.push_back(probe.measure(partner));
  }
  const LinkSpeed usual = median_of(gather(*hosts, median_of(links)));
  measure_again(probe, links, host, usual);
  return report_links(*hosts, links, usual, world.rank());
}

}  // namespace ridgeline::comm
