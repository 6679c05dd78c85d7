#include "bench/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "ridgeline/observe/format.h"

namespace ridgeline::bench {

Statistics statistics(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  const double median = n % 2 == 1 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
  return {median, (values.back() - values.front()) / median};
}

nlohmann::json to_json(const Row& row) {
  const auto optional = [](const std::optional<double>& value) {
    return value ? nlohmann::json(*value) : nlohmann::json();
  };
  nlohmann::json json = {{"name", row.name}, {"value", row.value}, {"unit", row.unit}};
  json["floor"] = optional(row.floor);
  json["fraction"] = optional(row.fraction);
  json["spread"] = optional(row.spread);
  json["peer"] = row.peer.empty() ? nlohmann::json() : nlohmann::json(row.peer);
  json["ratio"] = optional(row.ratio);
  return json;
}

std::string to_table(std::span<const Row> rows) {
  using observe::Table;
  Table table({{"name", Table::left},
               {"value", Table::right},
               {"unit", Table::left},
               {"floor", Table::right},
               {"of floor", Table::right},
               {"spread", Table::right},
               {"ratio", Table::right},
               {"to", Table::left}});
  const auto number = [](const std::optional<double>& value) {
    return value ? fmt::format("{:.4g}", *value) : std::string();
  };
  const auto percent = [](const std::optional<double>& value) {
    return value ? fmt::format("{:.1f} %", 100 * *value) : std::string();
  };
  for (const Row& row : rows) {
    table.row({row.name, fmt::format("{:.4g}", row.value), row.unit, number(row.floor), percent(row.fraction),
               percent(row.spread), row.ratio ? fmt::format("{:.3f}", *row.ratio) : "", row.peer});
  }
  return table.text();
}

}  // namespace ridgeline::bench
