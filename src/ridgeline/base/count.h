// Counts in words for people.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace ridgeline {

// "1,234,567".
std::string format_integer(int64_t value);

// "1 rank", "12,345 ranks": of one, `one`; of any other number `many`, or `one` with an s where that is empty. Verbs
// come along: ("line was", "lines were").
std::string format_counted(int64_t number, std::string_view one, std::string_view many = {});

}  // namespace ridgeline
