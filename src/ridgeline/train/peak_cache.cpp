#include "ridgeline/train/peak_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "ridgeline/base/cache_folder.h"
#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/base/json.h"
#include "ridgeline/device/cpu/features.h"
#include "ridgeline/device/cpu/worker_team.h"
#include "ridgeline/ops/cpu/peak.h"

namespace ridgeline::train {
namespace {

namespace fs = std::filesystem;

nlohmann::json read_cache(const fs::path& file) {
  std::error_code ignored;
  if (file.empty() || !fs::exists(file, ignored)) return nlohmann::json::object();
  try {
    nlohmann::json cache = parse_json(read_text(file));
    return cache.is_object() ? cache : nlohmann::json::object();
  } catch (const std::exception&) {
    return nlohmann::json::object();
  }
}

}  // namespace

double peak_flops_per_thread(DType dtype, const device::Machine& machine, bool again) {
  const int cpus = machine.count();
  const std::string key =
      fmt::format("{}, {} CPUs, {}, {}", machine.model_name, cpus, device::name_of(device::isa()), name_of(dtype));
  const fs::path folder = cache_folder(), file = folder.empty() ? fs::path() : folder / "peak.json";
  nlohmann::json cache = read_cache(file);
  const double known = cache.contains(key) && cache[key].is_number() ? cache[key].get<double>() : 0.0;
  if (known > 0 && !again) return known / cpus;
  device::WorkerTeam team(cpus, machine.place_of_rank(0, 1, cpus));
  const double peak = std::max(known, ops::peak_flops(dtype, team));
  cache[key] = peak;
  try {
    if (!file.empty()) {
      make_folder(file.parent_path());
      write_atomically(file, json_text(cache, 2) + "\n");
    }
  } catch (const Error&) {  // A cache is a convenience: without it the next run measures again.
  }
  return peak / cpus;
}

}  // namespace ridgeline::train
