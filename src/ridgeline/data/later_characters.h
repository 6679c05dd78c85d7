// Characters that a library of an older Unicode version does not know. Internal to the room.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ridgeline::data {

namespace detail {
struct LaterCharacters {
  uint32_t first, last;
  uint32_t known;  // stands for each of them
};
// In order. Made by tools/make_later_characters.py.
extern const LaterCharacters kLaterCharacters[];
extern const size_t kLaterCharactersCount;
}  // namespace detail

// `code`, or for a character that came between Unicode 14 (that of Debian 12's PCRE2) and 16, or that PCRE2 sees
// otherwise than Unicode does, one that is known and has the same general category, length in UTF-8, and script (of
// those that patterns may name).
uint32_t known_character(uint32_t code);

}  // namespace ridgeline::data
