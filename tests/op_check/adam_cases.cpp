#include "case.h"

namespace ridgeline::op_check {

void add_adam_cases(std::vector<Case>&) {}

}  // namespace ridgeline::op_check
