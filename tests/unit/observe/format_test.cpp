#include "ridgeline/observe/format.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace ridgeline::observe {
namespace {

TEST(Format, BytesHaveThreeDigitsAndNeverShow1024) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1023.9), "1.00 KiB");
  EXPECT_EQ(format_bytes(1024), "1.00 KiB");
  EXPECT_EQ(format_bytes(1536), "1.50 KiB");
  EXPECT_EQ(format_bytes(12.34 * 1048576), "12.3 MiB");
  EXPECT_EQ(format_bytes(498.4 * 1048576), "498 MiB");
  EXPECT_EQ(format_bytes(1023.6 * 1048576), "1.00 GiB");
  EXPECT_EQ(format_bytes(-2048), "-2.00 KiB");
  EXPECT_EQ(format_bytes(std::nan("")), "?");
}

TEST(Format, CountsAndIntegers) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(950), "950");
  EXPECT_EQ(format_count(3.25), "3.25");
  EXPECT_EQ(format_count(999.6), "1.00 k");
  EXPECT_EQ(format_count(12'400), "12.4 k");
  EXPECT_EQ(format_count(124'439'808), "124 M");
  EXPECT_EQ(format_count(1.56e9), "1.56 B");
  EXPECT_EQ(format_integer(0), "0");
  EXPECT_EQ(format_integer(-123), "-123");
  EXPECT_EQ(format_integer(-123456), "-123,456");
  EXPECT_EQ(format_integer(1234567), "1,234,567");
  EXPECT_EQ(format_integer(std::numeric_limits<int64_t>::min()), "-9,223,372,036,854,775,808");
}

TEST(Format, Durations) {
  EXPECT_EQ(format_duration(0), "0 ns");
  EXPECT_EQ(format_duration(850e-6), "850 us");
  EXPECT_EQ(format_duration(12.34e-3), "12.3 ms");
  EXPECT_EQ(format_duration(4.211), "4.21 s");
  EXPECT_EQ(format_duration(59.99), "1 min 00 s");
  EXPECT_EQ(format_duration(185), "3 min 05 s");
  EXPECT_EQ(format_duration(3599.6), "1 h 00 min");
  EXPECT_EQ(format_duration(7620), "2 h 07 min");
  EXPECT_EQ(format_duration(86399), "1 d 00 h");
  EXPECT_EQ(format_duration(3 * 86400 + 4 * 3600), "3 d 04 h");
  EXPECT_EQ(format_duration(-1), "?");
  EXPECT_EQ(format_duration(INFINITY), "?");
  EXPECT_EQ(format_counted(0, "rank"), "0 ranks");
  EXPECT_EQ(format_counted(1, "rank"), "1 rank");
  EXPECT_EQ(format_counted(12345, "rank"), "12,345 ranks");
  EXPECT_EQ(format_counted(-1, "rank"), "-1 ranks");
  EXPECT_EQ(format_counted(1, "line was", "lines were"), "1 line was");
  EXPECT_EQ(format_counted(1234, "line was", "lines were"), "1,234 lines were");
  EXPECT_EQ(format_clock(7), "0:07");
  EXPECT_EQ(format_clock(754), "12:34");
  EXPECT_EQ(format_clock(3723), "1:02:03");
  EXPECT_EQ(format_clock(std::nan("")), "?:??");
}

TEST(Format, TablesAlignUtf8AndLeaveNoTrailingSpaces) {
  Table table({{"name", Table::left}, {"bytes", Table::right}, {"", Table::left}});
  table.row({"parameters", "475 MiB", ""});
  table.rule();
  table.row({"größe", "1 B", "note"});
  EXPECT_EQ(table.text(),
            "name          bytes\n"
            "-------------------------\n"
            "parameters  475 MiB\n"
            "-------------------------\n"
            "größe           1 B  note\n");
  EXPECT_EQ(display_width("größe"), 5);
}

}  // namespace
}  // namespace ridgeline::observe
