#include "ridgeline/plan/memory_report.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "ridgeline/base/error.h"

namespace ridgeline::plan {
namespace {

using parallel::Buffer;
using parallel::Category;

std::string gib(int64_t bytes) {
  return fmt::format("{:.2f} GiB", static_cast<double>(bytes) / (1 << 30));
}

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

// The number that a file of a cgroup holds; nothing for "max" and where there is no file.
std::optional<int64_t> number_in(const std::filesystem::path& file) {
  std::ifstream stream(file);
  int64_t value = 0;
  if (!(stream >> value)) return std::nullopt;
  return value;
}

// Bytes of files that the kernel drops when memory is asked for, but counts as used until then.
int64_t reclaimable(const std::filesystem::path& folder) {
  std::ifstream stream(folder / "memory.stat");
  std::string name;
  int64_t value = 0, own = 0, total = 0;
  while (stream >> name >> value) {
    if (name == "inactive_file") own = value;
    if (name == "total_inactive_file") total = value;  // version 1: with the groups below
  }
  return std::max(own, total);
}

// What the limits of `folder` and of the folders above it, up to `root`, leave.
int64_t headroom_of(const std::filesystem::path& root, std::string_view folder, const char* limit, const char* used) {
  int64_t left = kUnlimited;
  for (std::filesystem::path path = std::filesystem::path(folder).relative_path();; path = path.parent_path()) {
    const std::optional<int64_t> most = number_in(root / path / limit), now = number_in(root / path / used);
    if (most && now)
      left = std::min(left, std::max<int64_t>(*most - std::max<int64_t>(*now - reclaimable(root / path), 0), 0));
    if (path.empty()) return left;
  }
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
                       const std::vector<parallel::Program>& programs, int ranks) {
  nlohmann::json json;
  json["ranks"] = ranks;
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

int64_t cgroup_headroom(const std::filesystem::path& root, std::string_view membership) {
  int64_t left = kUnlimited;
  std::istringstream lines{std::string(membership)};
  for (std::string line; std::getline(lines, line);) {
    // "4:memory,hugetlb:/jobs/7" (version 1), "0::/jobs/7" (version 2)
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string folder = line.substr(second + 1);
    if (controllers == ",,") left = std::min(left, headroom_of(root, folder, "memory.max", "memory.current"));
    if (controllers.find(",memory,") == std::string::npos) continue;
    left = std::min(left, headroom_of(root / "memory", folder, "memory.limit_in_bytes", "memory.usage_in_bytes"));
  }
  return left;
}

Limit host_limit(int ranks) {
  int64_t available = kUnlimited;
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    long long kib = 0;
    if (std::sscanf(line.c_str(), "MemAvailable: %lld", &kib) == 1) available = kib * 1024;
  }
  return {available, ranks, "host"};
}

Limit cgroup_limit(int ranks) {
  std::ifstream membership("/proc/self/cgroup");
  const std::string text{std::istreambuf_iterator<char>(membership), {}};
  return {cgroup_headroom("/sys/fs/cgroup", text), ranks, "cgroup"};
}

Limit address_limit(int ranks) {
  struct rlimit limit {};
  if (::getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return {kUnlimited, ranks, "process"};
  std::ifstream file("/proc/self/statm");
  int64_t pages = 0;
  file >> pages;
  return {std::max<int64_t>(static_cast<int64_t>(limit.rlim_cur) - pages * ::sysconf(_SC_PAGESIZE), 0), ranks,
          "process"};
}

bool fits(const MemoryReport& report, const Limit& limit) {
  return report.total <= limit.per_rank();
}

void require_fits(const MemoryReport& report, const Limit& limit, const std::function<std::string()>& next_step) {
  if (fits(report, limit)) return;
  const std::string needed = limit.ranks == 1 ? fmt::format("a rank needs {}", gib(report.total))
                                              : fmt::format("{} ranks on a {} need {} ({} each)", limit.ranks, limit.of,
                                                            gib(report.total * limit.ranks), gib(report.total));
  throw Error(fmt::format("{}, but only {} of the {}'s memory are free", needed, gib(limit.bytes), limit.of),
              next_step());
}

}  // namespace ridgeline::plan
