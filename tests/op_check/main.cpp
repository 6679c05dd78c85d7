// op_check [--device cpu] [--op NAME] [--list]: runs the case list and prints a row per comparison; exit status 1 when
// one is out of tolerance.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <vector>

#include "bench/operators/operator.h"
#include "ridgeline/base/error.h"
#include "ridgeline/cli/command.h"
#include "ridgeline/device/cpu/features.h"
#include "ridgeline/device/cpu/worker_team.h"

namespace ridgeline::op_check {
namespace {

using operators::Case;
using operators::Report;
using operators::Row;

void print(const Case& c, const Row& row) {
  fmt::print("{:<18} {:<5} {:<34} {:<22} {:>9.2e} {:>9.1e}  {}\n", c.op, name_of(c.dtype), c.sizes, row.part, row.error,
             row.tolerance, row.ok() ? "ok" : "FAILED");
}

// Runs `c` on teams of 1, 2 and 3 threads; the rows of the first, and whether the others gave the same bits.
std::vector<Row> run(const Case& c) {
  std::vector<Row> rows;
  std::vector<std::byte> first;
  bool same = true, guards = true;
  for (const int size : {1, 2, 3}) {
    device::WorkerTeam team(size);
    device::Stream stream(team);
    Report report(size == 1);
    c.run(stream, report);
    guards = guards && report.guards_intact();
    if (size == 1) {
      rows = report.rows();
      first = report.outputs();
    } else {
      same = same && report.outputs() == first;
    }
  }
  rows.push_back({"team 1 = 2 = 3", same ? 0.0 : 1.0, 0.0});
  rows.push_back({"guards", guards ? 0.0 : 1.0, 0.0});
  return rows;
}

int check(const std::string& op, bool list) {
  std::vector<Case> cases = operators::all_cases();
  std::vector<std::string> names;
  for (const Case& c : cases) {
    if (names.empty() || names.back() != c.op) names.push_back(c.op);
  }
  if (!op.empty()) {
    std::erase_if(cases, [&](const Case& c) { return c.op != op; });
    if (cases.empty()) {
      const std::string near = nearest(op, names);
      throw Error(fmt::format("--op {}: no such op", op),
                  near.empty() ? fmt::format("Choose one of: {}.", fmt::join(names, ", "))
                               : fmt::format("Did you mean '{}'?", near));
    }
  }
  if (list) {
    for (const Case& c : cases) fmt::print("{:<18} {:<5} {}\n", c.op, name_of(c.dtype), c.sizes);
    return 0;
  }
  fmt::print("instruction set: {}\n", device::name_of(device::isa()));
  fmt::print("{:<18} {:<5} {:<34} {:<22} {:>9} {:>9}\n", "op", "dtype", "sizes", "part", "error", "tolerance");
  int64_t failed = 0, total = 0;
  for (const Case& c : cases) {
    for (const Row& row : run(c)) {
      print(c, row);
      failed += row.ok() ? 0 : 1;
      ++total;
    }
    std::fflush(stdout);
  }
  fmt::print("{} comparisons in {} cases, {} out of tolerance\n", total, cases.size(), failed);
  return failed == 0 ? 0 : 1;
}

}  // namespace
}  // namespace ridgeline::op_check

int main(int argc, char** argv) {
  namespace cli = ridgeline::cli;
  std::string device = "cpu", op;
  bool list = false;
  int status = 0;
  cli::CommandLine line(
      "op_check", "Compares every operator with a double-precision reference and with finite differences.", "", {});
  const cli::Command program = line.program();
  program.choice("--device", device, {"cpu"}, "Device to run on");
  program.option("--op", op, "Only this operator").no_default();
  program.flag("--list", list, "Print the cases without running them");
  program.action([&] { status = ridgeline::op_check::check(op, list); });
  try {
    line.run(argc, argv);
    return status;
  } catch (const std::exception& error) {
    fmt::print(stderr, "op_check: {}\n", error.what());
    return 2;
  }
}
