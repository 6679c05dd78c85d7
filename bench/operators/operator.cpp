#include "bench/operators/operator.h"

#include "ridgeline/base/error.h"

namespace ridgeline::operators {
namespace {

using AddFamily = void (*)(std::vector<Operator>&);
// Optimizers last: their operands are the largest, and may take the place of others' (Measurement).
constexpr AddFamily kFamilies[] = {
    add_matmul, add_attention, add_norm,          add_activation, add_elementwise,
    add_rotary, add_embedding, add_cross_entropy, add_adam,
};

}  // namespace

std::vector<Operator> all_operators() {
  std::vector<Operator> list;
  for (const AddFamily add : kFamilies) add(list);
  for (const Operator& op : list)
    RL_REQUIRE(op.check && op.measure, "operator {} lacks a check or a measurement", op.name);
  return list;
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const Operator& op : all_operators()) {
    Checks checks(op.name, cases);
    const size_t before = cases.size();
    op.check(checks);
    RL_REQUIRE(cases.size() > before, "operator {} is not checked", op.name);
  }
  return cases;
}

void add_all(Measurement& measurement) {
  for (const Operator& op : all_operators()) {
    const size_t before = measurement.calls().size();
    op.measure(measurement);
    RL_REQUIRE(measurement.calls().size() > before, "operator {} is not measured", op.name);
  }
}

}  // namespace ridgeline::operators
