#include "ridgeline/plan/program_listing.h"

#include <fmt/format.h>

#include "ridgeline/observe/format.h"

namespace ridgeline::plan {

std::string program_listing(const parallel::Program& program, const parallel::Dataflow& dataflow) {
  using observe::Table;
  Table table({{"", Table::right},
               {"stream", Table::left},
               {"operation", Table::left},
               {"waits for", Table::left},
               {"writes", Table::left},
               {"adds to", Table::left},
               {"reads", Table::left}});
  for (size_t i = 0; i < program.ops.size(); ++i) {
    const parallel::Op& op = program.ops[i];
    const auto values = [&](parallel::Access access) {
      std::string text;
      for (const parallel::Use& use : dataflow.of(static_cast<int>(i))) {
        if (use.access == access) text += (text.empty() ? "" : "; ") + use.value.name();
      }
      return text;
    };
    table.row({std::to_string(i), std::string(parallel::name_of(op.stream())), op.name(),
               fmt::format("{}", fmt::join(op.after, ", ")), values(parallel::Access::write),
               values(parallel::Access::add), values(parallel::Access::read)});
  }
  return table.text();
}

}  // namespace ridgeline::plan
