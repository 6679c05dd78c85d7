#include "ridgeline/cli/link_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "ridgeline/observe/format.h"

namespace ridgeline::cli {
namespace {

std::string megabytes(const comm::LinkSpeed& speed) {
  return fmt::format("{:.3g}", speed.bytes_per_second / 1e6);
}

std::string microseconds(const comm::LinkSpeed& speed) {
  return fmt::format("{:.0f}", speed.latency * 1e6);
}

// Hosts of a job have names of their own, but for a test on one machine.
std::string name_of(const comm::LinkReport& report, int host) {
  const comm::HostLinks& links = report.hosts[static_cast<size_t>(host)];
  return fmt::format("{} (rank {})", links.name, links.first_rank);
}

}  // namespace

std::string slow_links_text(const comm::LinkReport& report) {
  if (report.slow_pairs == 0) return {};
  std::string text =
      fmt::format("slow links between hosts: {} of the {} measured (usual: {} MB/s each way, {} us)\n",
                  report.slow_pairs, report.pairs, megabytes(report.median), microseconds(report.median));
  observe::Table table({{"host"}, {"host"}, {"MB/s", observe::Table::right}, {"us", observe::Table::right}});
  for (const comm::LinkSpeed& link : report.slowest)
    table.row({name_of(report, link.first), name_of(report, link.second), megabytes(link), microseconds(link)});
  text += table.text();
  const int64_t more = report.slow_pairs - static_cast<int64_t>(report.slowest.size());
  if (more > 0) text += fmt::format("and {} more\n", more);
  return text;
}

std::string links_text(const comm::LinkReport& report) {
  std::string text =
      fmt::format("{} hosts, {} measured: {} MB/s each way, {} us (medians)\n", report.hosts.size(),
                  observe::format_counted(report.pairs, "link"), megabytes(report.median), microseconds(report.median));
  observe::Table table({{"host"},
                        {"MB/s", observe::Table::right},
                        {"us", observe::Table::right},
                        {"slowest to"},
                        {"MB/s", observe::Table::right}});
  std::vector<int> order(report.hosts.size());
  for (size_t host = 0; host < order.size(); ++host) order[host] = static_cast<int>(host);
  const auto links = [&](int host) -> const comm::HostLinks& { return report.hosts[static_cast<size_t>(host)]; };
  std::stable_sort(order.begin(), order.end(), [&](int one, int other) {
    return links(one).median.bytes_per_second < links(other).median.bytes_per_second;
  });
  const size_t shown = std::min<size_t>(order.size(), kHostsShown);
  for (size_t i = 0; i < shown; ++i) {
    const int host = order[i];
    const comm::LinkSpeed& slowest = links(host).slowest;
    table.row({name_of(report, host), megabytes(links(host).median), microseconds(links(host).median),
               name_of(report, slowest.first == host ? slowest.second : slowest.first), megabytes(slowest)});
  }
  text += table.text();
  if (shown < order.size()) text += fmt::format("and {} faster hosts\n", order.size() - shown);
  return text + slow_links_text(report);
}

}  // namespace ridgeline::cli
