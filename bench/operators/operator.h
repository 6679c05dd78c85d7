// The one list of operators: what `op_check` compares with double precision and `ridgeline bench ops` measures. An
// entry has both, so an operator that is added is checked and measured.
//
// To add an operator:
//   1. write bench/operators/<family>.cpp with `void add_<family>(std::vector<Operator>& list)`, which appends
//      `{"name", check, measure}`: check.h and measure.h say what these do;
//   2. declare it at the end of this file, add it to kFamilies in operator.cpp and to the sources in CMakeLists.txt.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "bench/operators/check.h"
#include "bench/operators/measure.h"

namespace ridgeline::operators {

struct Operator {
  std::string name;                           // "layernorm"; what op_check --op selects
  std::function<void(Checks&)> check;         // appends cases: at least one
  std::function<void(Measurement&)> measure;  // appends calls: at least one
};

// In the order of the families. An operator that is not checked, or not measured, aborts.
std::vector<Operator> all_operators();

// All cases of all operators.
std::vector<Case> all_cases();

// All calls of all operators, in their dtypes.
void add_all(Measurement& measurement);

void add_matmul(std::vector<Operator>& list);
void add_attention(std::vector<Operator>& list);
void add_norm(std::vector<Operator>& list);
void add_activation(std::vector<Operator>& list);
void add_elementwise(std::vector<Operator>& list);
void add_rotary(std::vector<Operator>& list);
void add_embedding(std::vector<Operator>& list);
void add_cross_entropy(std::vector<Operator>& list);
void add_adam(std::vector<Operator>& list);

}  // namespace ridgeline::operators
