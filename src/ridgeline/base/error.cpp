#include "ridgeline/base/error.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace ridgeline {

Error::Error(std::string what, std::string next)
    : message_(std::move(what)), next_(std::move(next)), text_(next_.empty() ? message_ : message_ + "\n  " + next_) {}

Error system_error(std::string_view what, int error_number) {
  std::string next;
  switch (error_number) {
    case ENOSPC:
    case EDQUOT:
      next = "Free some space (or raise the quota) there, or choose another folder; nothing written before was lost.";
      break;
    case EACCES:
    case EPERM:
    case EROFS:
      next = "Choose a folder that you may write to, or change its permissions.";
      break;
    case ENOENT:
      next = "Check the path; a relative one is taken from the current folder.";
      break;
    case EMFILE:
      next = "Raise the limit on open files (ulimit -n).";
      break;
    default:
      break;
  }
  return Error(fmt::format("{}: {}", what, std::strerror(error_number)), next);
}

std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, word.size() / 3) + 1;
  std::vector<size_t> row;
  for (const std::string& candidate : candidates) {
    row.resize(candidate.size() + 1);
    for (size_t j = 0; j <= candidate.size(); ++j) row[j] = j;
    for (size_t i = 1; i <= word.size(); ++i) {
      size_t diagonal = row[0];
      row[0] = i;
      for (size_t j = 1; j <= candidate.size(); ++j) {
        const size_t substituted = diagonal + (word[i - 1] == candidate[j - 1] ? 0 : 1);
        diagonal = row[j];
        row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
      }
    }
    if (row.back() < best_distance) {
      best_distance = row.back();
      best = candidate;
    }
  }
  return best;
}

void detail::check_failed(const char* file, int line, const char* expression, const std::string& operands) {
  std::fprintf(stderr, "%s:%d: broken invariant: %s\n  %s\n", file, line, expression, operands.c_str());
  std::fflush(stderr);
  std::abort();
}

void detail::no_case(const char* file, int line, const char* expression, int64_t number) {
  check_failed(file, line, expression, fmt::format("no case for number {}", number));
}

}  // namespace ridgeline
