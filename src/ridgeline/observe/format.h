// Numbers for people: sizes, times, counts, and aligned tables.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "ridgeline/base/count.h"

namespace ridgeline::observe {

// Binary units, three significant digits: "0 B", "512 B", "1.50 KiB", "12.3 MiB", "498 MiB", "1.62 GiB".
std::string format_bytes(double bytes);

// Decimal units of a rate or count: "950", "12.4 k", "124 M", "1.56 B" (10^9), "3.2 T".
std::string format_count(double value);

using ridgeline::format_counted;
using ridgeline::format_integer;

// Seconds: "850 us", "12.3 ms", "4.21 s", "3 min 05 s", "2 h 07 min", "3 d 04 h". Negative or not finite: "?".
std::string format_duration(double seconds);

// A clock for progress lines: "0:07", "12:34", "1:02:03", "?:??" when unknown.
std::string format_clock(double seconds);

// Columns that terminal shows for UTF-8 text, counting one per code point (combining marks and wide scripts are not
// told apart).
int display_width(std::string_view text);

// A text table: a header line, a rule, rows; columns two spaces apart, no trailing spaces, newline after each line.
//   Table table({{"name", Table::left}, {"bytes", Table::right}});
//   table.row({"parameters", "475 MiB"});
class Table {
 public:
  enum Align { left, right };
  struct Column {
    std::string title;
    Align align = left;
  };
  explicit Table(std::vector<Column> columns);

  // As many cells as columns.
  void row(std::vector<std::string> cells);
  // A horizontal line before the next row.
  void rule();
  std::string text() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;  // empty: a rule
};

}  // namespace ridgeline::observe
