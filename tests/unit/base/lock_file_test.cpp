#include "ridgeline/base/lock_file.h"

#include <gmock/gmock.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/base/temporary_file.h"

namespace ridgeline {
namespace {

using std::chrono::milliseconds;
using testing::AllOf;
using testing::HasSubstr;

// Of a file system that carries locks, and of one that refuses them.
class LockFiles : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("ridgeline_lock_" + std::to_string(::getpid()));
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    settings_.carries_locks = GetParam();
    settings_.beat = milliseconds(40);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // "" when the lock was had.
  std::string refusal(const LockSettings& settings) const {
    try {
      const LockFile lock(file(), "the run in 'x'", "second", settings);
      return {};
    } catch (const Error& error) {
      return error.what();
    }
  }
  std::string refusal() const { return refusal(settings_); }
  // "" where nobody holds it.
  std::string look() const {
    try {
      LockFile::require_free(file(), "the run in 'x'", settings_);
      return {};
    } catch (const LockHeld& error) {
      return error.what();
    }
  }

  // A process that takes the lock and holds it until it is killed.
  pid_t holder() const {
    const pid_t child = ::fork();
    if (child == 0) {
      const LockFile lock(file(), "the run in 'x'", "first", settings_);
      for (;;) ::pause();
    }
    while (lock_token(file()).empty()) ::usleep(1000);
    return child;
  }
  static void kill_and_wait(pid_t child) {
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
  }

  std::filesystem::path file() const { return lock_file_of(folder_); }
  std::filesystem::path folder_;
  LockSettings settings_;
};

TEST_P(LockFiles, TheSecondIsToldWhoWasFirst) {
  const pid_t first = holder();
  char host[256] = {};
  ::gethostname(host, sizeof host - 1);
  EXPECT_THAT(refusal(), AllOf(HasSubstr("the run in 'x' is being written by process " + std::to_string(first)),
                               HasSubstr(std::string("on host ") + host + " (first) since 20"), HasSubstr(" UTC"),
                               HasSubstr("choose another --out")));
  EXPECT_FALSE(lock_token(file()).empty()) << "the first one's file is left alone";
  kill_and_wait(first);
}

TEST_P(LockFiles, WhoOnlyLooksIsToldTooAndTakesNothing) {
  EXPECT_EQ(look(), "");
  EXPECT_FALSE(std::filesystem::exists(file()));
  const pid_t first = holder();
  const std::string token = lock_token(file());
  EXPECT_THAT(look(), AllOf(HasSubstr("the run in 'x' is being written by process " + std::to_string(first)),
                            HasSubstr("(first) since 20")));
  EXPECT_EQ(lock_token(file()), token);
  kill_and_wait(first);
  EXPECT_EQ(look(), "");
  EXPECT_EQ(lock_token(file()), token) << "a dead one's file is left to who takes the lock";
  EXPECT_EQ(refusal(), "");
}

TEST_P(LockFiles, AKilledHolderLeavesNothingBehind) {
  const pid_t first = holder();
  ASSERT_NE(refusal(), "");
  kill_and_wait(first);
  EXPECT_TRUE(std::filesystem::exists(file()));
  EXPECT_EQ(refusal(), "");
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

TEST_P(LockFiles, AReleasedLockCanBeTakenAgain) {
  std::string token;
  for (int i = 0; i < 3; ++i) {
    const LockFile lock(file(), "x", "first", settings_);
    EXPECT_EQ(lock_token(file()), lock.token());
    EXPECT_NE(lock.token(), token);
    token = lock.token();
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
  EXPECT_EQ(lock_token(file()), "");
}

// Also while the lock is taken or given back, on the thread that does it or on another.
TEST_P(LockFiles, AStopAtAnyMomentLeavesNothing) {
  const auto before = ::signal(SIGTERM, [](int) {
    remove_temporary_files();
    ::_exit(7);
  });
  for (int time = 0; time < 100; ++time) {
    const pid_t child = ::fork();  // which has the handler from its first moment
    if (child == 0) {
      std::thread other([] {
        for (;;) ::pause();
      });
      for (;;) const LockFile lock(file(), "the run in 'x'", "first", settings_);
    }
    ::usleep(static_cast<useconds_t>(5000 + 37 * time));
    ::kill(child, SIGTERM);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7) << status;
    ASSERT_TRUE(std::filesystem::is_empty(folder_)) << "time " << time;
  }
  ::signal(SIGTERM, before);
}

TEST_P(LockFiles, AHolderOnAnotherHostIsKnownByItsBeat) {
  LockSettings there = settings_, here = settings_;
  there.carries_locks = false;  // locks that end at the host
  there.machine = "there";
  there.shared = here.shared = true;
  there.beat = here.beat = milliseconds(200);  // on a loaded machine a second passes quickly
  std::optional<LockFile> first(std::in_place, file(), "x", "first", there);
  EXPECT_THAT(refusal(here), HasSubstr("(first)"));
  const std::string left = read_text(file());
  first.reset();
  EXPECT_EQ(refusal(here), "");
  // One that died without a word.
  std::ofstream(file()) << left;
  EXPECT_EQ(refusal(here), "");
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
  // A file system of this host alone: the machine was started anew.
  std::ofstream(file()) << left;
  here.shared = false;
  here.beat = std::chrono::hours(1);
  EXPECT_EQ(refusal(here), "");
}

TEST_P(LockFiles, OfManyAtOnceOneWins) {
  for (int round = 0; round < 5; ++round) {
    if (round % 2 == 1) kill_and_wait(holder());  // what a dead one left is in the way of all
    std::atomic<int> won = 0, ready = 0;
    std::atomic<bool> done = false;
    std::vector<std::thread> contenders;
    for (int i = 0; i < 6; ++i) {
      contenders.emplace_back([&] {
        ++ready;
        while (ready < 6) std::this_thread::yield();
        try {
          const LockFile lock(file(), "x", "contender", settings_);
          ++won;
          while (!done) std::this_thread::sleep_for(milliseconds(1));
        } catch (const Error&) {
          ++ready;
        }
      });
    }
    while (won + ready < 12) std::this_thread::sleep_for(milliseconds(1));
    done = true;
    for (std::thread& contender : contenders) contender.join();
    EXPECT_EQ(won, 1);
  }
}

TEST_P(LockFiles, AFolderThatCannotBeWrittenIsSaid) {
  try {
    const LockFile lock(folder_ / "nowhere" / "ridgeline.lock", "x", "first", settings_);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("nowhere/ridgeline.lock"), HasSubstr("No such file")));
  }
}

TEST(LockedFolder, AFolderMadeForNothingGoesAgain) {
  const std::filesystem::path parent =
      std::filesystem::temp_directory_path() / ("ridgeline_lock_" + std::to_string(::getpid()));
  std::filesystem::create_directories(parent / "old");
  for (const char* name : {"old", "new", "used"}) {
    const auto lock = LockFile::of_folder(parent / name, "x", "first");
    EXPECT_EQ(lock_token(lock_file_of(parent / name)), lock->token());
    if (name[0] == 'u') std::ofstream(parent / name / "file") << "x";
  }
  EXPECT_TRUE(std::filesystem::exists(parent / "old"));
  EXPECT_FALSE(std::filesystem::exists(parent / "new"));
  EXPECT_TRUE(std::filesystem::exists(parent / "used" / "file"));
  std::filesystem::remove_all(parent);
}

INSTANTIATE_TEST_SUITE_P(FileSystems, LockFiles, testing::Bool(),
                         [](const auto& of) { return std::string(of.param ? "WithLocks" : "WithoutLocks"); });

}  // namespace
}  // namespace ridgeline
