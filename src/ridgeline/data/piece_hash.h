// The hash of a short string, for tables of words. Internal to the room; never stored.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

namespace ridgeline::data {

inline uint64_t hash_piece(std::string_view piece) {
  uint64_t hash = piece.size() * 0x9E3779B97F4A7C15U;
  const char* p = piece.data();
  size_t left = piece.size();
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
