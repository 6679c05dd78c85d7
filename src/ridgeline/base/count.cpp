#include "ridgeline/base/count.h"

#include <fmt/format.h>

namespace ridgeline {

std::string format_integer(int64_t value) {
  const std::string digits = fmt::format("{}", value);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0 && digits[i - 1] != '-') text += ',';
    text += digits[i];
  }
  return text;
}

std::string format_counted(int64_t number, std::string_view one, std::string_view many) {
  const bool with_s = number != 1 && many.empty();
  return fmt::format("{} {}{}", format_integer(number), number == 1 || with_s ? one : many, with_s ? "s" : "");
}

}  // namespace ridgeline
