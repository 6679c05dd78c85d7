// What stands in $(( )): whole numbers, variables, + - * / % and parentheses, as the shell computes them.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>

namespace ridgeline::migrate {

// The number of a variable, or nothing when it has none.
using NumberOf = std::function<std::optional<int64_t>(std::string_view name)>;

// Nothing for whatever else the shell could compute, for a division by zero and for numbers past 64 bits.
std::optional<int64_t> shell_arithmetic(std::string_view expression, const NumberOf& number_of);

}  // namespace ridgeline::migrate
