// What a piece of code throws.
#pragma once

#include <string>
#include <utility>

#include "ridgeline/base/error.h"

namespace ridgeline {

// The text, with its next step, of the Error that `work` throws; "" when it throws none.
template <typename Work>
std::string error_of(Work&& work) {
  try {
    std::forward<Work>(work)();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace ridgeline
