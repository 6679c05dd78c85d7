// The end of a command that did what it could, but not with all of its input.
#pragma once

#include "ridgeline/base/error.h"

namespace ridgeline::cli {

// Thrown at the end of a command whose result is whole and in place, but lacks records that it had to skip: printed as
// an error, exit code 3, so that no script takes it for all of its input.
class Incomplete final : public Error {
 public:
  using Error::Error;
};

}  // namespace ridgeline::cli
