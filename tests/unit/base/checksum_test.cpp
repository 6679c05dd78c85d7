#include "ridgeline/base/checksum.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "ridgeline/base/file.h"
#include "ridgeline/base/random.h"

namespace ridgeline {
namespace {

std::vector<std::byte> noise(size_t size, uint64_t seed) {
  std::vector<std::byte> bytes(size);
  for (size_t i = 0; i < size; ++i)
    bytes[i] = static_cast<std::byte>(philox(seed, {static_cast<uint32_t>(i), 0, 0, 0})[0]);
  return bytes;
}

// One bit at a time: the definition.
uint32_t reference(std::span<const std::byte> bytes) {
  uint32_t crc = ~0U;
  for (const std::byte byte : bytes) {
    crc ^= static_cast<uint32_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1U) != 0 ? 0x82F63B78U : 0U);
  }
  return ~crc;
}

TEST(Crc32c, GivesTheCheckValueAndTheVectorsOfRfc3720) {
  EXPECT_EQ(crc32c(bytes_of(std::string_view("123456789"))), 0xE3069283U);
  EXPECT_EQ(crc32c({}), 0U);
  EXPECT_EQ(crc32c(std::vector<std::byte>(32, std::byte{0x00})), 0x8A9136AAU);
  EXPECT_EQ(crc32c(std::vector<std::byte>(32, std::byte{0xFF})), 0x62A8AB43U);
}

TEST(Crc32c, FollowsTheDefinitionAtEveryLengthAndAlignment) {
  const std::vector<std::byte> bytes = noise(3 * 4096 * 2 + 77, 1);
  const std::span<const std::byte> all(bytes);
  for (const size_t first : {0U, 1U, 3U, 7U}) {
    for (const size_t size : {0U, 1U, 7U, 8U, 9U, 63U, 1000U, 12287U, 12288U, 12289U, 24600U}) {
      ASSERT_EQ(crc32c(all.subspan(first, size)), reference(all.subspan(first, size))) << first << " " << size;
    }
  }
}

TEST(Crc32c, ContinuesFromWhatStoodBefore) {
  const std::vector<std::byte> bytes = noise(20000, 2);
  const std::span<const std::byte> all(bytes);
  for (const size_t cut : {0U, 1U, 4096U, 13000U, 20000U}) {
    EXPECT_EQ(crc32c(all.subspan(cut), crc32c(all.first(cut))), crc32c(all));
  }
}

TEST(Crc32c, CombinesTheChecksumsOfRanges) {
  const std::vector<std::byte> bytes = noise(30000, 3);
  const std::span<const std::byte> all(bytes);
  for (const size_t cut : {0U, 1U, 17U, 4096U, 29999U, 30000U}) {
    EXPECT_EQ(crc32c_combine(crc32c(all.first(cut)), crc32c(all.subspan(cut)), 30000 - cut), crc32c(all)) << cut;
  }
  // Three ranges, associatively.
  const uint32_t a = crc32c(all.first(100)), b = crc32c(all.subspan(100, 200)), c = crc32c(all.subspan(300));
  EXPECT_EQ(crc32c_combine(crc32c_combine(a, b, 200), c, 29700), crc32c_combine(a, crc32c_combine(b, c, 29700), 29900));
}

TEST(Crc32c, ShowsOneFlippedBit) {
  std::vector<std::byte> bytes = noise(50000, 4);
  const uint32_t before = crc32c(bytes);
  bytes[31234] ^= std::byte{0x10};
  EXPECT_NE(crc32c(bytes), before);
}

}  // namespace
}  // namespace ridgeline
