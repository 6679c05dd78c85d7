// The file beside a rank's memory and the stream through it. pread and pwrite are replaced for the whole program, so
// that they can be cut short, interrupted and refused where a test says.
#include "ridgeline/device/file_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "../error_of.h"
#include "../temporary_folder.h"
#include "ridgeline/base/error.h"

namespace {
std::atomic<bool> hindered{false};                 // transfers are interrupted, or end after a page
std::atomic<int64_t> bad_read{-1}, bad_write{-1};  // bytes that cannot be read or written
std::atomic<int> refused_writes{0};                // so many are refused as not aligned

// Nonzero: what the call returns instead; `count` may be cut.
ssize_t hinder(size_t& count, off_t offset, int64_t bad, int reason) {
  thread_local int calls = 0;
  if (bad >= offset && bad < offset + static_cast<off_t>(count)) {
    errno = reason;
    return -1;
  }
  if (!hindered) return 0;
  if (++calls % 3 == 0) {
    errno = EINTR;
    return -1;
  }
  count = count > 4096 ? 4096 : count;
  return 0;
}
}  // namespace

extern "C" ssize_t pread(int descriptor, void* to, size_t count, off_t offset) {
  if (const ssize_t instead = hinder(count, offset, bad_read, EIO)) return instead;
  return ::syscall(SYS_pread64, descriptor, to, count, offset);
}
extern "C" ssize_t pwrite(int descriptor, const void* from, size_t count, off_t offset) {
  if (refused_writes > 0) {
    --refused_writes;
    errno = EINVAL;
    return -1;
  }
  if (const ssize_t instead = hinder(count, offset, bad_write, ENOSPC)) return instead;
  return ::syscall(SYS_pwrite64, descriptor, from, count, offset);
}

namespace ridgeline::device {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

constexpr int64_t kPage = StateFile::kAlignment;

// Memory as transfers want it.
class Pages {
 public:
  explicit Pages(int64_t count) : count_(count), data_(::operator new(static_cast<size_t>(count* kPage), kAligned)) {
    std::memset(data_, 0x5A, static_cast<size_t>(count * kPage));
  }
  ~Pages() { ::operator delete(data_, kAligned); }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  std::span<std::byte> bytes() const { return {static_cast<std::byte*>(data_), static_cast<size_t>(count_ * kPage)}; }
  std::span<std::byte> page(int64_t first, int64_t count = 1) const {
    return bytes().subspan(static_cast<size_t>(first * kPage), static_cast<size_t>(count * kPage));
  }

 private:
  static constexpr std::align_val_t kAligned{kPage};
  int64_t count_;
  void* data_;
};

bool all_are(std::span<const std::byte> bytes, int value) {
  return std::all_of(bytes.begin(), bytes.end(), [&](std::byte byte) { return std::to_integer<int>(byte) == value; });
}

class FileStreamTest : public testing::Test {
 protected:
  ~FileStreamTest() override {
    hindered = false;
    bad_read = bad_write = -1;
  }

  StateFile file(int64_t pages) const { return StateFile(folder_ / "of/rank", pages * kPage, "rank 3"); }

  const TemporaryFolder made_;
  const fs::path& folder_ = made_.path();
};

TEST_F(FileStreamTest, AFileIsZeroAtFirstAndKeepsWhatIsWrittenWhere) {
  for (const bool hinder : {false, true}) {
    hindered = hinder;
    StateFile state = file(16);
    EXPECT_EQ(state.size(), 16 * kPage);
    const Pages memory(16);
    state.read(0, memory.bytes());
    EXPECT_TRUE(all_are(memory.bytes(), 0));
    std::memset(memory.page(0).data(), 7, 3 * kPage);
    state.write(5 * kPage, memory.page(0, 3));
    state.read(0, memory.bytes());
    EXPECT_TRUE(all_are(memory.page(0, 5), 0));
    EXPECT_TRUE(all_are(memory.page(5, 3), 7));
    EXPECT_TRUE(all_are(memory.page(8, 8), 0));
  }
}

TEST_F(FileStreamTest, AFileHasNoNameSoThatNothingIsLeftOfAJobThatIsKilled) {
  const StateFile state = file(4);
  EXPECT_TRUE(fs::is_empty(state.folder()));
}

TEST_F(FileStreamTest, WithoutDirectTransfersTheCacheServes) {
  refused_writes = 1;
  StateFile state = file(4);
  EXPECT_EQ(refused_writes, 0);
  EXPECT_FALSE(state.direct());
  const Pages memory(4);
  state.write(0, memory.bytes());
  state.read(0, memory.bytes());
  EXPECT_TRUE(all_are(memory.bytes(), 0x5A));
}

TEST_F(FileStreamTest, AFullDiskShowsBeforeAnythingIsWrittenWithBytesNeededAndFree) {
  constexpr int64_t kPebibyte = int64_t{1} << 50;
  const std::string what = error_of([&] { StateFile(folder_, kPebibyte, "rank 3"); });
  EXPECT_THAT(what,
              AllOf(HasSubstr("the offload file of rank 3 in '" + folder_.string() + "' needs 1125899906842624 bytes"),
                    HasSubstr("are free there"), HasSubstr("optimizer.offload_directory")));
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(FileStreamTest, AFolderThatCannotBeMadeIsNamed) {
  std::ofstream(folder_ / "taken") << "text";
  EXPECT_THAT(error_of([&] { StateFile(folder_ / "taken", kPage, "rank 0"); }), HasSubstr("taken"));
  EXPECT_THAT(error_of([&] { StateFile(folder_ / "taken/below", kPage, "rank 0"); }), HasSubstr("taken/below"));
}

TEST_F(FileStreamTest, AFailedTransferNamesFilePlaceAndReason) {
  StateFile state = file(8);
  const Pages memory(4);
  bad_read = 3 * kPage;
  EXPECT_THAT(error_of([&] { state.read(2 * kPage, memory.bytes()); }),
              AllOf(HasSubstr("cannot read 16384 bytes at byte 8192 of the offload file of rank 3 in '"),
                    HasSubstr("of/rank': Input/output error"), HasSubstr("--resume")));
  bad_write = 0;
  EXPECT_THAT(error_of([&] { state.write(0, memory.page(0)); }),
              AllOf(HasSubstr("cannot write 4096 bytes at byte 0 of"), HasSubstr("No space left on device")));
  bad_read = bad_write = -1;
  EXPECT_THAT(error_of([&] { state.read(6 * kPage, memory.bytes()); }),
              AllOf(HasSubstr("cannot read 8192 bytes at byte 32768"), HasSubstr("the file ends there")));
}

// Chunks of one to three ranges that lie in the file in another order than they pass.
std::vector<FileStream::Chunk> some_chunks(int64_t count) {
  std::vector<FileStream::Chunk> chunks;
  int64_t end = 6 * count;
  for (int64_t i = 0; i < count; ++i) {
    FileStream::Chunk& chunk = chunks.emplace_back();
    int64_t slot = 0;
    for (int64_t range = 0; range <= i % 3; ++range) {
      const int64_t pages = 1 + (i + range) % 2;
      end -= pages;
      chunk.push_back({end * kPage, slot * kPage, pages * kPage});
      slot += pages;
    }
  }
  return chunks;
}

int64_t bytes_of(const FileStream::Chunk& chunk) {
  int64_t bytes = 0;
  for (const FileStream::Range& range : chunk) bytes += range.bytes;
  return bytes;
}
int64_t bytes_of(const std::vector<FileStream::Chunk>& chunks) {
  int64_t bytes = 0;
  for (const FileStream::Chunk& chunk : chunks) bytes += bytes_of(chunk);
  return bytes;
}

constexpr int64_t kSlotPages = 6;

// Adds 1 to every byte of every chunk.
void pass(FileStream& stream, const std::vector<FileStream::Chunk>& chunks) {
  stream.begin_pass();
  for (const FileStream::Chunk& chunk : chunks) {
    std::byte* const slot = stream.take();
    for (int64_t i = 0; i < bytes_of(chunk); ++i) slot[i] = std::byte(std::to_integer<int>(slot[i]) + 1);
    stream.put_back();
  }
}

// What a chunk gets in a pass is what it was given in the one before, with few slots and with more than it needs.
TEST_F(FileStreamTest, EveryPassSeesWhatTheOneBeforeWrote) {
  for (const bool hinder : {false, true}) {
    hindered = hinder;
    for (const int64_t slots : {1, 2, 3, 8}) {
      for (const int64_t count : {1, 3, 7, 20}) {
        const std::vector<FileStream::Chunk> chunks = some_chunks(count);
        const Pages window(slots * kSlotPages);
        FileStream stream(file(6 * count), window.bytes(), kSlotPages * kPage, chunks);
        constexpr int kPasses = 5;
        for (int i = 0; i < kPasses; ++i) pass(stream, chunks);
        stream.settle();
        EXPECT_EQ(stream.bytes_read(), kPasses * bytes_of(chunks));
        EXPECT_EQ(stream.bytes_written(), kPasses * bytes_of(chunks));
        for (const FileStream::Chunk& chunk : chunks) {
          for (const FileStream::Range& range : chunk) {
            const Pages memory(range.bytes / kPage);
            stream.file().read(range.file, memory.bytes());
            EXPECT_TRUE(all_are(memory.bytes(), kPasses)) << slots << " slots, " << count << " chunks";
          }
        }
      }
    }
  }
}

TEST_F(FileStreamTest, APassOfWhichNothingWasTakenIsNotReadAgain) {
  const std::vector<FileStream::Chunk> chunks = some_chunks(9);
  const Pages window(3 * kSlotPages);
  FileStream stream(file(54), window.bytes(), kSlotPages * kPage, chunks);
  pass(stream, chunks);
  stream.begin_pass();
  stream.begin_pass();
  pass(stream, chunks);
  stream.settle();
  EXPECT_EQ(stream.bytes_read(), 2 * bytes_of(chunks));
  EXPECT_EQ(stream.bytes_written(), 2 * bytes_of(chunks));
}

// After settle() the window and the file are the caller's: what was read ahead is read anew.
TEST_F(FileStreamTest, SettlingForgetsWhatWasReadAhead) {
  const std::vector<FileStream::Chunk> chunks = some_chunks(9);
  const Pages window(3 * kSlotPages), other(54);
  FileStream stream(file(54), window.bytes(), kSlotPages * kPage, chunks);
  for (int round = 0; round < 20; ++round) {
    pass(stream, chunks);
    stream.begin_pass();
    stream.settle();
    std::memset(window.bytes().data(), 0xEE, window.bytes().size());
    std::memset(other.bytes().data(), 40 + round, other.bytes().size());
    stream.file().write(0, other.bytes());
    pass(stream, chunks);
    stream.settle();
    for (const FileStream::Range& range : chunks[static_cast<size_t>(round % 9)]) {
      const Pages memory(range.bytes / kPage);
      stream.file().read(range.file, memory.bytes());
      EXPECT_TRUE(all_are(memory.bytes(), 41 + round));
    }
  }
}

TEST_F(FileStreamTest, AFailureOfAThreadReachesTheCaller) {
  const std::vector<FileStream::Chunk> chunks = some_chunks(9);
  const auto with_stream = [&](auto&& body) {
    const Pages window(3 * kSlotPages);
    FileStream stream(file(54), window.bytes(), kSlotPages * kPage, chunks);
    std::string what = error_of([&] { body(stream); });
    bad_read = bad_write = -1;
    return what;
  };
  EXPECT_EQ(with_stream([&](FileStream& stream) { pass(stream, chunks); }), "");
  // The fifth chunk cannot be read: at most four are taken, fewer where that shows early.
  int taken = 0;
  EXPECT_THAT(with_stream([&](FileStream& stream) {
                bad_read = chunks[4].back().file;
                stream.begin_pass();
                for (; taken < 9; ++taken) {
                  stream.take();
                  stream.put_back();
                }
              }),
              AllOf(HasSubstr("cannot read"), HasSubstr("Input/output error")));
  EXPECT_LE(taken, 4);
  // The first cannot be written: that shows while the rest is taken, ...
  EXPECT_THAT(with_stream([&](FileStream& stream) {
                bad_write = chunks[0].back().file;
                pass(stream, chunks);
              }),
              HasSubstr("cannot write"));
  // ... and where it is the last, at the latest when all is to be in the file.
  EXPECT_THAT(with_stream([&](FileStream& stream) {
                bad_write = chunks[8].back().file;
                pass(stream, chunks);
                stream.settle();
              }),
              HasSubstr("cannot write"));
}

}  // namespace
}  // namespace ridgeline::device
