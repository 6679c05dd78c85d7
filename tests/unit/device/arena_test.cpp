#include "ridgeline/device/arena.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "ridgeline/base/error.h"
#include "ridgeline/device/cpu/worker_team.h"

namespace ridgeline::device {
namespace {

bool all_zero(const Arena& arena) {
  return std::all_of(arena.data(), arena.data() + arena.size(), [](std::byte b) { return b == std::byte{0}; });
}

TEST(Arena, IsZeroedAndWholePages) {
  for (const int64_t bytes : {int64_t{1}, int64_t{4096}, int64_t{100001}, (int64_t{2} << 20) + 5}) {
    const Arena arena(bytes, nullptr);
    EXPECT_GE(arena.size(), bytes);
    EXPECT_LT(arena.size(), bytes + 4096);
    EXPECT_EQ(arena.size() % 4096, 0);
    EXPECT_TRUE(all_zero(arena));
    std::memset(arena.data(), 0xFF, static_cast<size_t>(arena.size()));
  }
}

TEST(Arena, LargeOnesStartAtHugePages) {
  WorkerTeam team(2);
  const Arena arena(int64_t{5} << 20, &team);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(arena.data()) % (2U << 20), 0U);
}

TEST(Arena, IsResidentBeforeItIsUsedAndUnmappedAfterwards) {
  constexpr int64_t kBytes = int64_t{64} << 20;
  constexpr int64_t kPages = kBytes / 4096;
  std::vector<unsigned char> resident(kPages);
  std::byte* data = nullptr;
  {
    WorkerTeam team(2);
    const Arena arena(kBytes, &team);
    data = arena.data();
    ASSERT_EQ(::mincore(data, kBytes, resident.data()), 0);
    EXPECT_TRUE(std::all_of(resident.begin(), resident.end(), [](unsigned char page) { return (page & 1) != 0; }));
    EXPECT_GE(resident_memory().now, kBytes);
    EXPECT_GE(resident_memory().peak, resident_memory().now);
  }
  EXPECT_NE(::mincore(data, kBytes, resident.data()), 0);
}

TEST(Arena, MovesItsMemory) {
  Arena first(10000, nullptr);
  std::byte* data = first.data();
  Arena second = std::move(first);
  EXPECT_EQ(second.data(), data);
  Arena third(4096, nullptr);
  third = std::move(second);
  EXPECT_EQ(third.data(), data);
  EXPECT_EQ(third.size(), 12288);
}

TEST(Arena, EmptyIsAllowed) {
  const Arena arena(0, nullptr);
  EXPECT_EQ(arena.size(), 0);
}

TEST(Arena, AnImpossibleSizeIsAnErrorThatNamesIt) {
  try {
    const Arena arena(int64_t{1} << 50, nullptr);
    FAIL() << "a pebibyte was granted";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("1048576.00 GiB"));
  }
}

}  // namespace
}  // namespace ridgeline::device
