// Where a rank's memory goes: the inventory that training allocates, summed for people and listed for programs.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "ridgeline/parallel/inventory.h"

namespace ridgeline::plan {

constexpr int kCategories = 7;

struct MemoryReport {
  // Bytes by parallel::Category: persistent buffers, and the transient ones alive at the fullest operation.
  std::array<int64_t, kCategories> by_category{};
  int64_t unused = 0;        // total minus the categories: holes between buffers at the fullest operation
  int64_t total = 0;         // what a rank allocates
  int64_t peer_visible = 0;  // part of it that other ranks of the host can read
  std::string fullest;       // name of the fullest operation
};

MemoryReport memory_report(const parallel::Inventory& inventory, const std::vector<parallel::Program>& programs);

// {"ranks", "bytes_per_rank", "peer_visible_bytes", "fullest_operation", "categories": {...}, "buffers": [{name, bytes,
// category, space, offset, program, first, last}]}
nlohmann::json to_json(const parallel::Inventory& inventory, const MemoryReport& report,
                       const std::vector<parallel::Program>& programs, int ranks);

// Memory that new allocations of this process can take now: the least of MemAvailable, the cgroup's limit and
// RLIMIT_AS.
int64_t available_memory();

// Error when `ranks_on_host` ranks of this plan do not fit in `available` bytes; it says by how much and what helps.
void require_fits(const MemoryReport& report, int ranks_on_host, int64_t available);

}  // namespace ridgeline::plan
