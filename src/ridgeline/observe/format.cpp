#include "ridgeline/observe/format.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "ridgeline/base/error.h"

namespace ridgeline::observe {
namespace {

// Three significant digits, whole numbers from 100 on.
std::string three_digits(double value) {
  const double size = std::abs(value);
  return fmt::format("{:.{}f}", value, size < 9.995 ? 2 : size < 99.95 ? 1 : 0);
}

}  // namespace

std::string format_bytes(double bytes) {
  if (!std::isfinite(bytes)) return "?";
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  size_t unit = 0;
  // 1023.5 of one unit would print as 1024: it is shown as 1.00 of the next.
  while (std::abs(bytes) >= 1023.5 && unit + 1 < std::size(kUnits)) {
    bytes /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{} {}", three_digits(bytes), kUnits[unit]);
}

std::string format_count(double value) {
  if (!std::isfinite(value)) return "?";
  constexpr const char* kUnits[] = {"", " k", " M", " B", " T"};
  size_t unit = 0;
  while (std::abs(value) >= 999.5 && unit + 1 < std::size(kUnits)) {
    value /= 1000;
    ++unit;
  }
  if (unit == 0 && value == std::round(value)) return fmt::format("{:.0f}", value);
  return three_digits(value) + kUnits[unit];
}

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "?";
  if (seconds < 999.5e-9) return fmt::format("{:.0f} ns", seconds * 1e9);
  if (seconds < 999.5e-6) return three_digits(seconds * 1e6) + " us";
  if (seconds < 999.5e-3) return three_digits(seconds * 1e3) + " ms";
  if (seconds < 59.95) return three_digits(seconds) + " s";
  if (seconds > 1e15) return "?";
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  const int64_t minutes = (whole + 30) / 60;
  if (minutes < 24 * 60) return fmt::format("{} h {:02} min", minutes / 60, minutes % 60);
  const int64_t hours = (whole + 1800) / 3600;
  return fmt::format("{} d {:02} h", hours / 24, hours % 24);
}

std::string format_clock(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 3.6e9) return "?:??";
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

int display_width(std::string_view text) {
  return static_cast<int>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
}

Table::Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

void Table::row(std::vector<std::string> cells) {
  RL_CHECK(cells.size(), ==, columns_.size());
  rows_.push_back(std::move(cells));
}

void Table::rule() {
  rows_.emplace_back();
}

std::string Table::text() const {
  std::vector<int> widths;
  int total = 0;
  for (size_t i = 0; i < columns_.size(); ++i) {
    int width = display_width(columns_[i].title);
    for (const auto& row : rows_) {
      if (!row.empty()) width = std::max(width, display_width(row[i]));
    }
    widths.push_back(width);
    total += width + (i == 0 ? 0 : 2);
  }
  std::string text;
  const auto add_line = [&](auto cell) {
    std::string line;
    for (size_t i = 0; i < columns_.size(); ++i) {
      if (i != 0) line += "  ";
      const std::string& content = cell(i);
      const std::string gap(static_cast<size_t>(widths[i] - display_width(content)), ' ');
      line += columns_[i].align == left ? content + gap : gap + content;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + '\n';
  };
  const std::string rule_line = std::string(static_cast<size_t>(total), '-') + '\n';
  add_line([&](size_t i) -> const std::string& { return columns_[i].title; });
  text += rule_line;
  for (const auto& row : rows_) {
    if (row.empty()) {
      text += rule_line;
    } else {
      add_line([&](size_t i) -> const std::string& { return row[i]; });
    }
  }
  return text;
}

}  // namespace ridgeline::observe
