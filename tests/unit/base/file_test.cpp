#include "ridgeline/base/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <vector>

#include "../error_of.h"
#include "../temporary_folder.h"
#include "ridgeline/base/error.h"
#include "ridgeline/base/file_identity.h"

namespace ridgeline {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class FileTest : public testing::Test {
 protected:
  const TemporaryFolder made_;
  const fs::path& folder_ = made_.path();
};

TEST_F(FileTest, WritesAndReadsRangesInAnyOrder) {
  File file(folder_ / "ranges", File::Mode::create);
  file.write_at(6, bytes_of("world"));
  file.write_at(0, bytes_of("hello "));
  file.sync();
  EXPECT_EQ(file.size(), 11);
  std::string middle(5, ' ');
  file.read_at(3, std::as_writable_bytes(std::span(middle)));
  EXPECT_EQ(middle, "lo wo");
  file.close();
  EXPECT_EQ(read_text(folder_ / "ranges"), "hello world");
}

TEST_F(FileTest, ReadingPastTheEndIsAnErrorThatNamesThePlace) {
  write_atomically(folder_ / "short", "abc");
  const File file(folder_ / "short", File::Mode::read);
  std::vector<std::byte> five(5);
  const std::string what = error_of([&] { file.read_at(0, five); });
  EXPECT_THAT(what, HasSubstr("short' ends at byte 3, 2 bytes before"));
}

TEST_F(FileTest, UpdateKeepsWhatIsThereAndCreateDoesNot) {
  write_atomically(folder_ / "f", "abcdef");
  File(folder_ / "f", File::Mode::update).write_at(1, bytes_of("X"));
  EXPECT_EQ(read_text(folder_ / "f"), "aXcdef");
  File(folder_ / "f", File::Mode::create).write_at(0, bytes_of("y"));
  EXPECT_EQ(read_text(folder_ / "f"), "y");
}

TEST_F(FileTest, ResizeAndReserveGiveZeros) {
  File file(folder_ / "sized", File::Mode::create);
  file.resize(4096);
  file.reserve(8192);
  EXPECT_EQ(file.size(), 8192);
  std::vector<std::byte> bytes(8192, std::byte{1});
  file.read_at(0, bytes);
  EXPECT_THAT(bytes, testing::Each(std::byte{0}));
}

TEST_F(FileTest, AtomicWriteReplacesTheWholeFileAndLeavesNothingBeside) {
  for (const char* const left : {"manifest.12.0.tmp", "manifest.tmp", "manifest.mine.tmp", "other.12.0.tmp"}) {
    const File file(folder_ / left, File::Mode::create);
  }
  remove_temporaries(folder_ / "manifest");
  EXPECT_FALSE(fs::exists(folder_ / "manifest.12.0.tmp"));
  for (const char* const stays : {"manifest.tmp", "manifest.mine.tmp", "other.12.0.tmp"}) {
    EXPECT_TRUE(fs::remove(folder_ / stays)) << stays;
  }
  write_atomically(folder_ / "manifest", std::string(100000, 'a'));
  write_atomically(folder_ / "manifest", "new");
  EXPECT_EQ(read_text(folder_ / "manifest"), "new");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
}

TEST_F(FileTest, AReaderKeepsTheOldFileWhileItIsReplaced) {
  write_atomically(folder_ / "f", "old contents");
  const MappedFile reader(folder_ / "f");
  write_atomically(folder_ / "f", "new");
  EXPECT_EQ(reader.text(), "old contents");
}

TEST_F(FileTest, AFailedAtomicWriteLeavesTheOldFileAndNoTemporary) {
  fs::create_directory(folder_ / "target");  // a folder cannot be replaced by a file
  EXPECT_THAT(error_of([&] { write_atomically(folder_ / "target", "x"); }), HasSubstr("rename into place"));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
}

TEST_F(FileTest, MappedFileShowsTheBytes) {
  write_atomically(folder_ / "f", std::string("a\0b", 3));
  MappedFile file(folder_ / "f", MappedFile::Access::sequential);
  EXPECT_EQ(file.text(), std::string_view("a\0b", 3));
  MappedFile moved = std::move(file);
  EXPECT_EQ(moved.bytes().size(), 3U);
  write_atomically(folder_ / "empty", "");
  EXPECT_TRUE(MappedFile(folder_ / "empty").bytes().empty());
}

TEST_F(FileTest, AnIdentityIsOneFileUnchanged) {
  const fs::path path = folder_ / "a", link = folder_ / "link", copy = folder_ / "copy";
  write_atomically(path, "12345");
  write_atomically(copy, "12345");
  fs::create_symlink(path, link);
  const FileIdentity identity = identity_of(path);
  EXPECT_EQ(identity.bytes, 5);
  EXPECT_EQ(identity_of(link), identity);
  EXPECT_EQ(identity_of(File(path, File::Mode::read)), identity);
  EXPECT_EQ(to_text(identity_of(path)), to_text(identity));
  EXPECT_NE(identity_of(copy), identity);
  EXPECT_NE(to_text(identity_of(copy)), to_text(identity));
  fs::last_write_time(path, fs::last_write_time(path) + std::chrono::nanoseconds(1));
  EXPECT_NE(identity_of(path), identity);
  fs::remove(path);
  EXPECT_EQ(identity_of(path), FileIdentity());
}

TEST_F(FileTest, ErrorsNameThePathAndTheNextStep) {
  const std::string missing = error_of([&] { MappedFile(folder_ / "missing"); });
  EXPECT_THAT(missing, HasSubstr("cannot open '" + (folder_ / "missing").string() + "': No such file"));
  EXPECT_THAT(missing, HasSubstr("Check the path"));
  EXPECT_THAT(error_of([&] { File(folder_ / "missing", File::Mode::update); }), HasSubstr("missing"));
  EXPECT_THAT(error_of([&] { File(folder_ / "no" / "where", File::Mode::create); }), HasSubstr("cannot create"));
  EXPECT_THAT(error_of([&] { MappedFile mapped(folder_); }), HasSubstr("is a folder"));
  EXPECT_THAT(error_of([&] { write_atomically(folder_ / "no" / "where", "x"); }), HasSubstr("where"));
}

TEST_F(FileTest, AFullDiskIsNamed) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  File file("/dev/full", File::Mode::update);
  const std::string what = error_of([&] { file.write_at(0, bytes_of("x")); });
  EXPECT_THAT(what, HasSubstr("No space left on device"));
  EXPECT_THAT(what, HasSubstr("Free some space"));
}

TEST_F(FileTest, MakeFolderMakesParentsAndNamesWhatIsInTheWay) {
  make_folder(folder_ / "a" / "b");
  make_folder(folder_ / "a" / "b");
  EXPECT_TRUE(fs::is_directory(folder_ / "a" / "b"));
  write_atomically(folder_ / "file", "x");
  EXPECT_THAT(error_of([&] { make_folder(folder_ / "file" / "c"); }), HasSubstr("cannot create the folder"));
}

}  // namespace
}  // namespace ridgeline
