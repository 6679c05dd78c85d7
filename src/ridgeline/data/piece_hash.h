// The hash of a short string, for tables of words. Internal to the room; never stored.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace ridgeline::data {

inline uint64_t hash_piece(std::string_view piece) {
  uint64_t hash = piece.size() * 0x9E3779B97F4A7C15U;
  const char* p = piece.data();
  size_t left = piece.size();
  // Most of those that are looked up: without a branch on the length, in loads that may overlap.
  if (left >= 16 && left <= 32) {
    const auto two_words = [](const char* from) {
      uint64_t low = 0, high = 0;
      std::memcpy(&low, from, 8);
      std::memcpy(&high, from + 8, 8);
      return (low ^ std::rotl(high * 0x9E3779B97F4A7C15U, 32)) * 0xD6E8FEB86659FD93U;
    };
    hash = (hash ^ two_words(p) ^ std::rotl(two_words(p + left - 16), 29)) * 0x9E3779B97F4A7C15U;
    return hash ^ hash >> 32;
  }
  const auto mix = [&](uint64_t word) {
    hash = (hash ^ word) * 0xD6E8FEB86659FD93U;
    hash ^= hash >> 32;
  };
  for (; left >= 8; left -= 8, p += 8) {
    uint64_t word = 0;
    std::memcpy(&word, p, 8);
    mix(word);
  }
  // The rest in loads of a fixed size, which may overlap.
  uint64_t word = 0;
  if (left >= 4) {
    uint32_t first = 0, last = 0;
    std::memcpy(&first, p, 4);
    std::memcpy(&last, p + left - 4, 4);
    word = uint64_t{first} << 32 | last;
  } else if (left > 0) {
    word = static_cast<uint8_t>(p[0]) | static_cast<uint32_t>(static_cast<uint8_t>(p[left / 2])) << 8 |
           static_cast<uint32_t>(static_cast<uint8_t>(p[left - 1])) << 16;
  }
  mix(word);
  return hash;
}

}  // namespace ridgeline::data
