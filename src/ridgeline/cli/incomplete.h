// Ends of commands that did what they could, and not all.
#pragma once

#include <exception>

#include "ridgeline/base/error.h"

namespace ridgeline::cli {

// Thrown at the end of a command whose result is whole and in place, but lacks records that it had to skip: printed as
// an error, exit code 3, so that no script takes it for all of its input.
class Incomplete final : public Error {
 public:
  using Error::Error;
};

// Thrown at the end of a run that stopped and saved because it was asked to or its time was over: nothing is printed,
// exit code 75, so that a batch script knows to queue it again.
constexpr int kUnfinished = 75;
class Unfinished final : public std::exception {};

}  // namespace ridgeline::cli
