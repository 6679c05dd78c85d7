#include "ridgeline/plan/memory_report.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "ridgeline/base/error.h"
#include "ridgeline/device/arena.h"

namespace ridgeline::plan {
namespace {

using parallel::Buffer;
using parallel::Category;

std::string_view space_name(parallel::Space space) {
  return space == parallel::Space::host ? "host" : "peer visible";
}

std::string gib(int64_t bytes) {
  return fmt::format("{:.2f} GiB", static_cast<double>(bytes) / (1 << 30));
}

// memory.max of this process's cgroup (version 2) minus what is used, or the largest number.
int64_t cgroup_headroom() {
  std::ifstream self("/proc/self/cgroup");
  std::string line, path;
  while (std::getline(self, line)) {
    if (line.rfind("0::", 0) == 0) path = "/sys/fs/cgroup" + line.substr(3);
  }
  std::ifstream limit_file(path + "/memory.max"), used_file(path + "/memory.current");
  int64_t limit = 0, used = 0;
  if (path.empty() || !(limit_file >> limit) || !(used_file >> used)) return std::numeric_limits<int64_t>::max();
  return std::max<int64_t>(limit - used, 0);
}

}  // namespace

MemoryReport memory_report(const parallel::Inventory& inventory, const std::vector<parallel::Program>& programs) {
  MemoryReport report;
  report.total = inventory.total_bytes();
  report.peer_visible = inventory.peer_visible_bytes;
  std::array<int64_t, kCategories> persistent{};
  for (const Buffer& buffer : inventory.buffers) {
    if (buffer.program < 0) persistent[static_cast<size_t>(buffer.category)] += buffer.bytes;
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
                       const std::vector<parallel::Program>& programs, int ranks) {
  nlohmann::json json;
  json["ranks"] = ranks;
  json["bytes_per_rank"] = report.total;
  json["peer_visible_bytes"] = report.peer_visible;
  json["fullest_operation"] = report.fullest;
  for (size_t c = 0; c < kCategories; ++c)
    json["categories"][std::string(parallel::name_of(static_cast<Category>(c)))] = report.by_category[c];
  json["categories"]["unused"] = report.unused;
  for (const Buffer& buffer : inventory.buffers) {
    nlohmann::json entry = {{"name", buffer.name},
                            {"bytes", buffer.bytes},
                            {"category", parallel::name_of(buffer.category)},
                            {"space", space_name(buffer.space)},
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

int64_t available_memory() {
  int64_t available = std::numeric_limits<int64_t>::max();
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    long long kib = 0;
    if (std::sscanf(line.c_str(), "MemAvailable: %lld", &kib) == 1) available = kib * 1024;
  }
  available = std::min(available, cgroup_headroom());
  struct rlimit limit {};
  if (::getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    available = std::min(available, static_cast<int64_t>(limit.rlim_cur) - device::resident_memory().now);
  }
  return available;
}

void require_fits(const MemoryReport& report, int ranks_on_host, int64_t available) {
  const int64_t needed = report.total * ranks_on_host;
  if (needed <= available) return;
  throw Error(fmt::format("{} rank{} on this host need {} ({} each), but only {} are free", ranks_on_host,
                          ranks_on_host == 1 ? "" : "s", gib(needed), gib(report.total), gib(available)),
              "Lower train.micro_batch, train.sequence or train.head_chunk, use train.precision = \"bf16\", or fewer "
              "ranks per host; "
              "`ridgeline plan` shows where the memory goes.");
}

}  // namespace ridgeline::plan
