#include "ridgeline/base/mapped_at.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>

#include "../temporary_folder.h"
#include "ridgeline/base/file.h"

namespace ridgeline {
namespace {

using Kind = MappedAt::Kind;
using testing::HasSubstr;

constexpr int64_t kPages = 3, kPageBytes = 4096;

TEST(MappedAt, NamesAFileAndSaysWhetherItEndsBefore) {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder / "with a blank";
  write_atomically(path, std::string(kPages * kPageBytes, 'x'));
  const MappedFile file(path);
  const std::byte* const last = file.bytes().data() + kPages * kPageBytes - 1;
  EXPECT_EQ(mapped_at(last).kind, Kind::file);
  EXPECT_EQ(mapped_at(last).name.data(), path.string());
  File(path, File::Mode::update).resize(kPageBytes + 1);
  EXPECT_EQ(mapped_at(last).kind, Kind::cut_file);
  EXPECT_EQ(mapped_at(last).name.data(), path.string());
  EXPECT_EQ(mapped_at(file.bytes().data() + kPageBytes).kind, Kind::file) << "what it still has";
  std::filesystem::remove(path);
  EXPECT_EQ(mapped_at(last).kind, Kind::file);
  EXPECT_THAT(mapped_at(last).name.data(), HasSubstr(path.string())) << "also of one without a name";
}

TEST(MappedAt, TellsSharedMemory) {
  const int memory = ::memfd_create("ridgeline_mapped_at", MFD_CLOEXEC);
  const File file("memory", memory);
  ASSERT_EQ(::ftruncate(memory, kPageBytes), 0);
  void* const place = ::mmap(nullptr, kPageBytes, PROT_READ, MAP_SHARED, memory, 0);
  ASSERT_NE(place, MAP_FAILED);
  EXPECT_EQ(mapped_at(place).kind, Kind::shared_memory);
  EXPECT_THAT(mapped_at(place).name.data(), HasSubstr("ridgeline_mapped_at"));
  ::munmap(place, kPageBytes);
}

TEST(MappedAt, MemoryOfTheProcessIsNeither) {
  const int on_stack = 0;
  const auto on_heap = std::make_unique<int>(0);
  for (const void* address : {static_cast<const void*>(&on_stack), static_cast<const void*>(on_heap.get()),
                              static_cast<const void*>(nullptr)}) {
    EXPECT_EQ(mapped_at(address).kind, Kind::other);
    EXPECT_STREQ(mapped_at(address).name.data(), "");
  }
}

}  // namespace
}  // namespace ridgeline
