// EXPECT that a piece of code throws an Error whose text (with its next step) contains all fragments.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <initializer_list>
#include <string>

#include "ridgeline/base/error.h"

namespace ridgeline {

template <typename Body>
void expect_error(Body body, std::initializer_list<std::string> fragments) {
  try {
    body();
  } catch (const Error& error) {
    for (const std::string& fragment : fragments) EXPECT_THAT(std::string(error.what()), testing::HasSubstr(fragment));
    return;
  }
  ADD_FAILURE() << "accepted; expected an error with: " << *fragments.begin();
}

}  // namespace ridgeline
