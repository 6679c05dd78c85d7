// Errors of two kinds.
//
// Error: a user's mistake or the outside world (configuration, files, network, peers). Thrown; says what happened,
// where, and what to do next. The program prints it once and exits non-zero.
//
// RL_CHECK: a broken invariant of Ridgeline itself. Prints both operands and aborts; never used for outside input.
#pragma once

#include <fmt/core.h>

#include <cstdint>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

namespace ridgeline {

class Error : public std::exception {
 public:
  // `what`: what is wrong and where ("data.train: no file matches 'x*.bin'"). `next`: what to do about it; may be
  // empty.
  explicit Error(std::string what, std::string next = {});

  // "what" and, on a second line, the next step.
  const char* what() const noexcept override { return text_.c_str(); }
  const std::string& message() const { return message_; }
  const std::string& next_step() const { return next_; }

 private:
  std::string message_, next_, text_;
};

// Error for a failed system call: appends strerror(errno) and, where known, a next step (no space, permissions, ...).
Error system_error(std::string_view what, int error_number);

// The entry of `candidates` nearest to `word` in edit distance, or "" when none is close enough to be a typing mistake.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

namespace detail {
[[noreturn]] void check_failed(const char* file, int line, const char* expression, const std::string& operands);
[[noreturn]] void no_case(const char* file, int line, const char* expression, int64_t number);
}  // namespace detail

// RL_CHECK(left, ==, right): aborts with both operands printed unless `left == right`.
#define RL_CHECK(left, op, right)                                                         \
  do {                                                                                    \
    const auto& rl_left = (left);                                                         \
    const auto& rl_right = (right);                                                       \
    if (!(rl_left op rl_right)) [[unlikely]]                                              \
      ::ridgeline::detail::check_failed(__FILE__, __LINE__, #left " " #op " " #right,     \
                                        fmt::format("{} against {}", rl_left, rl_right)); \
  } while (false)

// RL_REQUIRE(condition, "text {}", values...): aborts with the formatted text unless `condition`.
#define RL_REQUIRE(condition, ...)                                                                 \
  do {                                                                                             \
    if (!(condition)) [[unlikely]]                                                                 \
      ::ridgeline::detail::check_failed(__FILE__, __LINE__, #condition, fmt::format(__VA_ARGS__)); \
  } while (false)

// RL_NO_CASE(value): behind a switch over an enumeration. The switch has no default, so that an enumerator without a
// case does not compile; this aborts for a number that is no enumerator, instead of taking it for one.
#define RL_NO_CASE(value) ::ridgeline::detail::no_case(__FILE__, __LINE__, #value, static_cast<int64_t>(value))

}  // namespace ridgeline
