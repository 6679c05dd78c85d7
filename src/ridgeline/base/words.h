// Enumerations whose values people write as words: each has a function
//   std::span<const std::string_view> words_of(E);
// beside it, the words in the order of the enumerators, of which the argument only says the type. Words become values
// where configuration and files are read, and are compared nowhere else.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <string_view>

#include "ridgeline/base/error.h"

namespace ridgeline {

template <typename E>
std::string_view word_of(E value) {
  const std::span<const std::string_view> words = words_of(value);
  const auto number = static_cast<size_t>(value);
  RL_CHECK(number, <, words.size());
  return words[number];
}

// Nothing where it is none of the words.
template <typename E>
std::optional<E> of_word(std::string_view word) {
  const std::span<const std::string_view> words = words_of(E{});
  const auto found = std::find(words.begin(), words.end(), word);
  return found == words.end() ? std::nullopt : std::optional(static_cast<E>(found - words.begin()));
}

}  // namespace ridgeline
