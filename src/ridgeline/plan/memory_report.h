// Where a rank's memory goes: the inventory that training allocates, summed for people and listed for programs.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "ridgeline/comm/mesh.h"
#include "ridgeline/device/machine.h"
#include "ridgeline/parallel/inventory.h"

namespace ridgeline::plan {

constexpr int kCategories = 7;

struct MemoryReport {
  // Bytes by parallel::Category: persistent buffers, and the transient ones alive at the fullest operation.
  std::array<int64_t, kCategories> by_category{};
  int64_t unused = 0;        // total minus the categories: holes between buffers at the fullest operation
  int64_t total = 0;         // what a rank allocates
  int64_t peer_visible = 0;  // part of it that other ranks of the host can read
  int64_t file = 0;          // beside it, in the rank's file: an update reads all of it once and writes it once
  std::string fullest;       // name of the fullest operation
};

MemoryReport memory_report(const parallel::Inventory& inventory, const std::vector<parallel::Program>& programs);

// {"ranks", "bytes_per_rank", "peer_visible_bytes", "file_bytes_per_rank", "update_reads_file_bytes",
// "update_writes_file_bytes", "fullest_operation", "categories": {...}, "buffers": [{name, bytes, category, space,
// offset, program, first, last}]}. What lies in the file counts in no category.
nlohmann::json to_json(const parallel::Inventory& inventory, const MemoryReport& report,
                       const std::vector<parallel::Program>& programs, const comm::Mesh& mesh);

// What ranks must fit into.
struct Limit {
  int64_t bytes = 0;
  int ranks = 1;                 // that share it
  std::string_view of = "host";  // whose memory it is, in errors: "host", "cgroup", "device", "process"
  int64_t beside = 0;            // part of the bytes that processes take beside their ranks: the order of samples

  int64_t per_rank() const { return (bytes - beside) / ranks; }
};

// Memory of this host that was free when `machine` was read, for `ranks` ranks.
Limit host_limit(const device::Machine& machine, int ranks);
// What the memory limits of this process's cgroup and of those above it left, for `ranks` ranks in it. The largest
// number where there is no limit.
Limit cgroup_limit(const device::Machine& machine, int ranks);
// Addresses that this process could still map, for `ranks` ranks in it: code, libraries, and shared memory of peers
// count, too. The largest number where there is no limit.
Limit address_limit(const device::Machine& machine, int ranks);

bool fits(const MemoryReport& report, const Limit& limit);
// Error when the plan does not fit; it says by how much, and what most of it is (`most_of_it`, where given).
// `next_step` says what helps, and is asked only then.
void require_fits(const MemoryReport& report, const Limit& limit, const std::function<std::string()>& next_step,
                  std::string_view most_of_it = {});
// The category with the most bytes.
parallel::Category largest_category(const MemoryReport& report);

}  // namespace ridgeline::plan
