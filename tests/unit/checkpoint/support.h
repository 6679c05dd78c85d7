// What the tests of this room share.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "../temporary_folder.h"
#include "ridgeline/base/error.h"

namespace ridgeline::checkpoint {

inline const std::filesystem::path kReference = std::filesystem::path(RIDGELINE_TEST_DATA) / "reference";

inline Error error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error;
  }
  return Error("no error");
}

}  // namespace ridgeline::checkpoint
