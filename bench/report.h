// A measured figure beside what bounds it: the floor of its work on this machine, a named peer, or both. Never a bare
// time.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace ridgeline::bench {

struct Row {
  std::string name;
  double value = 0;
  std::string unit;
  std::optional<double> floor;     // the best that this machine allows, in `unit`
  std::optional<double> fraction;  // of the floor reached: 1 is perfect
  std::optional<double> spread;    // (highest - lowest) / median of the rounds
  std::string peer;                // who `ratio` compares with
  std::optional<double> ratio;     // speed: ours over theirs; memory (unit GB): our bytes over theirs
};

struct Statistics {
  double median = 0, spread = 0;
};
Statistics statistics(std::vector<double> values);

nlohmann::json to_json(const Row& row);
std::string to_table(std::span<const Row> rows);

}  // namespace ridgeline::bench
