#include "case.h"

namespace ridgeline::op_check {
namespace {

using AddCases = void (*)(std::vector<Case>&);
constexpr AddCases kFamilies[] = {
    add_matmul_cases, add_attention_cases, add_norm_cases,          add_activation_cases, add_elementwise_cases,
    add_rotary_cases, add_embedding_cases, add_cross_entropy_cases, add_adam_cases,
};

}  // namespace

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const AddCases add : kFamilies) add(cases);
  return cases;
}

}  // namespace ridgeline::op_check
