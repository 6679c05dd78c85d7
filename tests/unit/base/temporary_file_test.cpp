#include "ridgeline/base/temporary_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "../error_of.h"
#include "../temporary_folder.h"
#include "ridgeline/base/error.h"
#include "ridgeline/base/output.h"

namespace ridgeline {
namespace {

namespace fs = std::filesystem;
using Naming = TemporaryFile::Naming;

class TemporaryFileTest : public testing::Test {
 protected:
  std::ptrdiff_t files() const { return std::distance(fs::directory_iterator(folder_), fs::directory_iterator()); }

  const TemporaryFolder made_;
  const fs::path& folder_ = made_.path();
};

TEST_F(TemporaryFileTest, IsPlacedWholeOrNotAtAll) {
  for (const Naming naming : {Naming::late, Naming::early}) {
    const fs::path target = folder_ / "f";
    for (const char* text : {"first", "second, in place of the first"}) {
      TemporaryFile file(target, naming);
      file.file().write_at(0, bytes_of(std::string_view(text)));
      EXPECT_TRUE(!fs::exists(target) || read_text(target) != text) << "before it is placed";
      file.place();
      EXPECT_EQ(read_text(target), text);
      EXPECT_EQ(files(), 1);
    }
    { TemporaryFile dropped(target, naming); }
    TemporaryFile moved_from(target, naming);
    { const TemporaryFile moved = std::move(moved_from); }
    EXPECT_EQ(files(), 1);
    EXPECT_EQ(read_text(target), "second, in place of the first");
    write_atomically(target, "");
  }
}

TEST_F(TemporaryFileTest, PermissionsAreThoseOfAnyNewFile) {
  const mode_t before = ::umask(027);
  for (const Naming naming : {Naming::late, Naming::early}) {
    for (int time = 0; time < 2; ++time) {  // new, and in place of an old one
      TemporaryFile(folder_ / "f", naming).place();
      struct stat info {};
      ASSERT_EQ(::stat((folder_ / "f").c_str(), &info), 0);
      EXPECT_EQ(info.st_mode & 0777, 0640U);
    }
  }
  ::umask(before);
}

TEST_F(TemporaryFileTest, AWrongPlaceIsNamed) {
  for (const Naming naming : {Naming::late, Naming::early}) {
    EXPECT_THAT(error_of([&] { TemporaryFile(folder_ / "no" / "where", naming); }),
                testing::HasSubstr("cannot create '" + (folder_ / "no" / "where").string() + "'"));
    fs::create_directory(folder_ / "taken");
    EXPECT_THAT(error_of([&] { TemporaryFile(folder_ / "taken", naming).place(); }), testing::HasSubstr("taken"));
    EXPECT_EQ(files(), 1);
    fs::remove(folder_ / "taken");
  }
}

// A handler in the middle of threads that create, place and drop files: nothing but whole files may be left.
TEST_F(TemporaryFileTest, ASignalLeavesNothingBehind) {
  const fs::path place = folder_;
  const auto die = [&] {
    std::signal(SIGTERM, [](int) {
      remove_temporary_files();
      ::_exit(7);
    });
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        while (true) {
          const fs::path target = place / ("f" + std::to_string(t));
          TemporaryFile file(target, t % 2 == 0 ? Naming::early : Naming::late);
          file.file().write_at(0, bytes_of(std::string_view("whole")));
          if (t < 3) file.place();
        }
      });
    }
    ::usleep(30000);
    ::kill(::getpid(), SIGTERM);
    for (std::thread& thread : threads) thread.join();
  };
  for (int time = 0; time < 5; ++time) {
    const pid_t child = ::fork();
    if (child == 0) die();
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 7);
    for (const fs::directory_entry& entry : fs::directory_iterator(folder_)) {
      EXPECT_NE(entry.path().extension(), ".tmp") << entry.path();
      EXPECT_EQ(read_text(entry.path()), "whole");
    }
  }
}

TEST_F(TemporaryFileTest, OtherFilesThatGoWithTheProcessGoToo) {
  const pid_t child = ::fork();
  if (child == 0) {
    fs::create_directory(folder_ / "made");
    fs::create_directory(folder_ / "full");
    write_atomically(folder_ / "full" / "file", "stays");
    write_atomically(folder_ / "made" / "lock", "goes");
    { const GoesWithProcess no_more(folder_ / "full" / "file"); }
    const GoesWithProcess folder_first(folder_ / "made"), then_file(folder_ / "made" / "lock"), full(folder_ / "full");
    remove_temporary_files();
    ::_exit(7);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 7);
  EXPECT_FALSE(fs::exists(folder_ / "made"));
  EXPECT_EQ(read_text(folder_ / "full" / "file"), "stays");
}

TEST_F(TemporaryFileTest, FilesOfOneThingStayOrGoTogether) {
  const std::array<fs::path, 3> files = {folder_ / "a", folder_ / "b", folder_ / "c"};
  const auto before = std::signal(SIGTERM, [](int) {
    remove_temporary_files();
    ::_exit(7);
  });
  for (int time = 0; time < 100; ++time) {
    for (const fs::path& file : files) write_atomically(file, "");
    const pid_t child = ::fork();  // which has the handler from its first moment
    if (child == 0) {
      std::thread other([] {
        for (;;) ::pause();
      });
      for (;;) const GoesWithProcess together(files);
    }
    ::usleep(static_cast<useconds_t>(5000 + 37 * time));
    ::kill(child, SIGTERM);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7) << status;
    const auto left = std::distance(fs::directory_iterator(folder_), fs::directory_iterator());
    ASSERT_TRUE(left == 0 || left == 3) << left << " files, time " << time;
  }
  std::signal(SIGTERM, before);
}

TEST_F(TemporaryFileTest, OnlyOwnFilesAreReplaceable) {
  const Recognise own = [](std::string_view start) { return start.starts_with("mine"); };
  const auto check = [&](const char* name, std::vector<fs::path> inputs = {}) {
    return error_of([&] { require_replaceable(folder_ / name, "--out x", inputs, own); });
  };
  write_atomically(folder_ / "mine", "mine, all of it");
  write_atomically(folder_ / "theirs", "not mine");
  write_atomically(folder_ / "empty", "");
  fs::create_directory(folder_ / "folder");
  fs::create_symlink(folder_ / "mine", folder_ / "link");
  fs::create_hard_link(folder_ / "mine", folder_ / "hard");
  EXPECT_EQ(check("mine"), "");
  EXPECT_EQ(check("new"), "");
  EXPECT_EQ(check("empty"), "");
  EXPECT_THAT(check("theirs"), testing::HasSubstr("--out x: '" + (folder_ / "theirs").string() + "' exists, and"));
  EXPECT_THAT(check("folder"), testing::HasSubstr("exists, and"));
  for (const char* name : {"mine", "link", "hard"})
    EXPECT_THAT(check(name, {folder_ / "new", folder_ / "mine"}), testing::HasSubstr("is the input"));
  EXPECT_EQ(error_of([&] { require_writable("/dev/null", "--json", {}, own); }), "");
  EXPECT_THAT(error_of([&] { require_replaceable("/dev/null", "--json", {}, own); }),
              testing::HasSubstr("exists, and"));
}

TEST_F(TemporaryFileTest, DevicesAndPipesAreWrittenToAndStayWhatTheyAre) {
  fs::create_symlink("/dev/null", folder_ / "null");
  write_output(folder_ / "null", "text");
  EXPECT_TRUE(fs::is_symlink(folder_ / "null"));
  ASSERT_EQ(::mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  std::string read(4, ' ');
  std::thread reader([&] {
    FILE* file = std::fopen((folder_ / "pipe").c_str(), "r");
    ASSERT_NE(file, nullptr);
    EXPECT_EQ(std::fread(read.data(), 1, 4, file), 4U);
    std::fclose(file);
  });
  write_output(folder_ / "pipe", "rows");
  reader.join();
  EXPECT_EQ(read, "rows");
  write_output(folder_ / "file", "rows");
  EXPECT_EQ(read_text(folder_ / "file"), "rows");
}

}  // namespace
}  // namespace ridgeline
