#include "ridgeline/plan/memory_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "ridgeline/base/error.h"

namespace ridgeline::plan {
namespace {

using parallel::Buffer;
using parallel::Category;

// Of all ranks together it may be more than 64 bits count.
std::string gib(double bytes) {
  return fmt::format("{:.2f} GiB", bytes / (1 << 30));
}
std::string gib(int64_t bytes) {
  return gib(static_cast<double>(bytes));
}

}  // namespace

MemoryReport memory_report(const parallel::Inventory& inventory, const std::vector<parallel::Program>& programs) {
  MemoryReport report;
  report.total = inventory.total_bytes();
  report.peer_visible = inventory.peer_visible_bytes;
  report.file = inventory.file_bytes;
  std::array<int64_t, kCategories> persistent{};
  for (const Buffer& buffer : inventory.buffers) {
    if (buffer.program < 0 && buffer.space != parallel::Space::file)
      persistent[static_cast<size_t>(buffer.category)] += buffer.bytes;
  }
  std::array<int64_t, kCategories> most{};
  int64_t most_sum = -1;
  for (size_t p = 0; p < programs.size(); ++p) {
    const size_t operations = programs[p].ops.size();
    // Differences at interval ends, summed up along the program: linear in buffers and operations.
    std::vector<std::array<int64_t, kCategories>> change(operations + 1);
    for (const Buffer& buffer : inventory.buffers) {
      if (buffer.program != static_cast<int>(p)) continue;
      change[static_cast<size_t>(buffer.first)][static_cast<size_t>(buffer.category)] += buffer.bytes;
      change[static_cast<size_t>(buffer.last) + 1][static_cast<size_t>(buffer.category)] -= buffer.bytes;
    }
    std::array<int64_t, kCategories> alive{};
    for (size_t i = 0; i < operations; ++i) {
      int64_t sum = 0;
      for (size_t c = 0; c < kCategories; ++c) sum += alive[c] += change[i][c];
      if (sum > most_sum) {
        most_sum = sum;
        most = alive;
        report.fullest = programs[p].ops[i].name();
      }
    }
  }
  report.unused = report.total;
  for (size_t c = 0; c < kCategories; ++c) {
    report.by_category[c] = persistent[c] + most[c];
    report.unused -= report.by_category[c];
  }
  return report;
}

nlohmann::json to_json(const parallel::Inventory& inventory, const MemoryReport& report,
                       const std::vector<parallel::Program>& programs, const comm::Mesh& mesh) {
  nlohmann::json json;
  json["ranks"] = mesh.world_size();
  json["bytes_per_rank"] = report.total;
  json["peer_visible_bytes"] = report.peer_visible;
  json["file_bytes_per_rank"] = report.file;
  json["update_reads_file_bytes"] = report.file;
  json["update_writes_file_bytes"] = report.file;
  json["fullest_operation"] = report.fullest;
  for (size_t c = 0; c < kCategories; ++c)
    json["categories"][std::string(parallel::name_of(static_cast<Category>(c)))] = report.by_category[c];
  json["categories"]["unused"] = report.unused;
  for (const Buffer& buffer : inventory.buffers) {
    nlohmann::json entry = {{"name", buffer.name},
                            {"bytes", buffer.bytes},
                            {"category", parallel::name_of(buffer.category)},
                            {"space", parallel::name_of(buffer.space)},
                            {"offset", buffer.offset}};
    if (buffer.program >= 0) {
      entry["program"] = programs[static_cast<size_t>(buffer.program)].name;
      entry["micro_batch"] = buffer.micro;
      entry["first"] = buffer.first;
      entry["last"] = buffer.last;
    }
    json["buffers"].push_back(std::move(entry));
  }
  return json;
}

Limit host_limit(const device::Machine& machine, int ranks) {
  return {machine.memory, ranks, "host"};
}

Limit cgroup_limit(const device::Machine& machine, int ranks) {
  return {machine.cgroup_memory, ranks, "cgroup"};
}

Limit address_limit(const device::Machine& machine, int ranks) {
  return {machine.addresses, ranks, "process"};
}

bool fits(const MemoryReport& report, const Limit& limit) {
  return report.total <= limit.per_rank();
}

parallel::Category largest_category(const MemoryReport& report) {
  const auto largest = std::max_element(report.by_category.begin(), report.by_category.end());
  return static_cast<parallel::Category>(largest - report.by_category.begin());
}

void require_fits(const MemoryReport& report, const Limit& limit, const std::function<std::string()>& next_step,
                  std::string_view most_of_it) {
  if (fits(report, limit)) return;
  const std::string needed = limit.ranks == 1
                                 ? fmt::format("a rank needs {}", gib(report.total))
                                 : fmt::format("{} ranks on a {} need {} ({} each)", limit.ranks, limit.of,
                                               gib(static_cast<double>(report.total) * limit.ranks), gib(report.total));
  const std::string beside =
      limit.beside == 0 ? "" : fmt::format(" beside {} for the order of samples", gib(limit.beside));
  throw Error(fmt::format("{}{}, but only {} of the {}'s memory are free{}{}", needed, beside, gib(limit.bytes),
                          limit.of, most_of_it.empty() ? "" : "; ", most_of_it),
              next_step());
}

}  // namespace ridgeline::plan
