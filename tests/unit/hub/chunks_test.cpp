#include "ridgeline/hub/chunks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <random>
#include <string>
#include <thread>

#include "ridgeline/base/file.h"
#include "ridgeline/hub/digest.h"
#include "ridgeline/hub/partial_file.h"

namespace ridgeline::hub {
namespace {

namespace fs = std::filesystem;

std::string pattern_of(size_t size) {
  std::string text(size, '\0');
  std::mt19937 random(5);
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

TEST(HubChunks, CoverTheFileOnce) {
  for (const int64_t size : {0, 1, 9, 10, 11, 100}) {
    Chunks chunks(size, 10);
    int64_t at = 0;
    for (size_t chunk = 0; chunk < chunks.count(); ++chunk) {
      EXPECT_EQ(chunks.begin(chunk), at);
      EXPECT_GT(chunks.end(chunk), at);
      EXPECT_FALSE(chunks.full());
      at = chunks.end(chunk);
      chunks.set_have(chunk, at - chunks.begin(chunk));
    }
    EXPECT_EQ(at, size);
    EXPECT_TRUE(chunks.full());
  }
}

TEST(HubChunks, AreAFewForEveryConnection) {
  EXPECT_EQ(chunk_bytes_for(1000, 8), 1 << 20);
  EXPECT_EQ(chunk_bytes_for(int64_t{512} << 20, 8), 16 << 20);
  EXPECT_EQ(chunk_bytes_for(int64_t{1} << 40, 8), 64 << 20);
}

TEST(HubChunks, ContentRangesAreReadExactly) {
  const auto range = content_range("bytes 5-9/20");
  ASSERT_TRUE(range);
  EXPECT_EQ(range->first, 5);
  EXPECT_EQ(range->last, 9);
  EXPECT_EQ(range->total, 20);
  EXPECT_EQ(content_range("bytes 0-0/*")->total, -1);
  for (const char* bad : {"", "bytes", "bytes */20", "bytes 5-4/20", "bytes 5-20/20", "bytes -5-9/20", "items 5-9/20",
                          "bytes 5-9", "bytes 5-9/20x", "bytes 5-99999999999999999999/*", "bytes 5/9-20"})
    EXPECT_FALSE(content_range(bad)) << bad;
}

TEST(HubPartialFile, GoesOnWhereAnyProcessStopped) {
  const fs::path path = fs::path(testing::TempDir()) / "hub_partial";
  fs::remove(path);
  const std::string content = pattern_of(50'001);
  std::mt19937 random(3);
  int64_t written = 0;
  for (int start = 0; start < 200; ++start) {  // each time a new object, as after a kill
    PartialFile file(path, 50'001, 4096);
    EXPECT_EQ(file.chunks().bytes_there(), written);
    EXPECT_EQ(bytes_there(path, 50'001), written);
    if (file.chunks().full()) break;
    const size_t chunk = random() % file.chunks().count();
    const int64_t at = file.chunks().next(chunk);
    const int64_t size = std::min<int64_t>(random() % 3000, file.chunks().end(chunk) - at);
    written +=
        file.write(at, bytes_of(std::string_view(content).substr(static_cast<size_t>(at), static_cast<size_t>(size))));
  }
  PartialFile file(path, 50'001, 4096);
  EXPECT_EQ(file.write(0, bytes_of(std::string_view(content))), 50'001 - written) << "what is there is passed over";
  file.finish();
  EXPECT_EQ(read_text(path), content);
  EXPECT_TRUE(PartialFile(path, 50'001, 4096).chunks().full()) << "killed before it got its name";
  fs::remove(path);
}

TEST(HubPartialFile, GoesOnWithWhatAnotherHostLeft) {
  const fs::path folder = fs::path(testing::TempDir()) / "hub_hosts";
  fs::remove_all(folder);
  fs::create_directories(folder);
  constexpr int64_t kSize = 2'000'001;
  const std::string content = pattern_of(kSize);
  const auto bytes = [&](int64_t at, int64_t size) {
    return bytes_of(std::string_view(content).substr(static_cast<size_t>(at), static_cast<size_t>(size)));
  };
  const auto of_host = [&](const std::string& name, const char* host) {
    return folder / (name + "." + host + ".ridgeline.incomplete");
  };
  const fs::path mine = of_host("e7a6", "00000001");
  EXPECT_EQ(copy_part_of_another_host(mine, "e7a6", kSize), 0) << "there is none";
  EXPECT_FALSE(fs::exists(mine));
  {
    PartialFile less(of_host("e7a6", "00000002"), kSize, 500'000), more(of_host("e7a6", "00000003"), kSize, 300'000),
        other(of_host("e7a7", "00000002"), kSize, 300'000), longer(of_host("e7a6", "00000004"), kSize + 1, 300'000);
    less.write(0, bytes(0, 100));
    more.write(300'000, bytes(300'000, 300'000));
    more.write(1'200'000, bytes(1'200'000, 77'000));
    other.write(0, bytes(1'000'000, 900'000));
    longer.write(0, bytes(0, 900'000));
    EXPECT_EQ(copy_part_of_another_host(mine, "e7a6", kSize), 377'000) << "while that host writes";
    EXPECT_EQ(copy_part_of_another_host(mine, "e7a6", kSize), 0) << "something is there";
    PartialFile all(mine, kSize, 4096);
    EXPECT_EQ(all.chunks().bytes_there(), 377'000);
    EXPECT_EQ(all.write(0, bytes(0, kSize)), kSize - 377'000);
    all.finish();
    EXPECT_EQ(read_text(mine), content);
    more.restart(300'000);
  }
  fs::remove(mine);
  fs::rename(of_host("e7a6", "00000002"), mine);
  {
    PartialFile all(mine, kSize, 4096);
    all.write(0, bytes(0, kSize));
    all.finish();
  }
  const fs::path third = of_host("e7a6", "00000005");
  EXPECT_EQ(copy_part_of_another_host(third, "e7a6", kSize), kSize) << "whole, and not yet with its name";
  PartialFile(third, kSize, 4096).finish();
  EXPECT_EQ(read_text(third), content);
  EXPECT_EQ(copy_part_of_another_host(of_host("e7a8", "00000001"), "e7a8", 1000), 0);
  fs::remove_all(folder);
}

TEST(HubPartialFile, RecordsThatMakeNoSenseCountForNothing) {
  const fs::path path = fs::path(testing::TempDir()) / "hub_unsound";
  const std::string content = pattern_of(10'000);
  for (int damage = 0; damage < 6; ++damage) {
    fs::remove(path);
    {
      PartialFile file(path, 10'000, 4096);
      file.write(0, bytes_of(std::string_view(content).substr(0, 5000)));
    }
    {
      File file(path, File::Mode::update);
      const int64_t large = 4097;
      const int64_t negative = -1;
      if (damage == 0) file.resize(9'999);
      if (damage == 1) file.resize(file.size() - 1);
      if (damage == 2) file.resize(file.size() + 8);
      if (damage == 3) file.write_at(10'000, bytes_of(std::string_view("xxxxxxxx")));
      if (damage == 4) file.write_at(10'000 + 24, std::as_bytes(std::span(&large, 1)));
      if (damage == 5) file.write_at(10'000 + 24, std::as_bytes(std::span(&negative, 1)));
    }
    EXPECT_EQ(bytes_there(path, 10'000), 0) << damage;
    EXPECT_EQ(PartialFile(path, 10'000, 4096).chunks().bytes_there(), 0) << damage;
  }
  {
    PartialFile file(path, 10'000, 4096);
    file.write(0, bytes_of(std::string_view(content).substr(0, 5000)));
    EXPECT_EQ(bytes_there(path, 10'001), 0) << "a file of another size";
    file.restart(4096);
    EXPECT_EQ(bytes_there(path, 10'000), 0);
  }
  fs::remove(path);
}

TEST(HubPartialFile, PartsAreKnownByTheirNames) {
  EXPECT_EQ(whole_name(partial_name("e7a6.b")), "e7a6.b");
  EXPECT_EQ(whole_name(partial_name("e7a6") + ".1234"), "e7a6");
  for (const char* other : {"", "e7a6", "e7a6.incomplete", "e7a6.ridgeline.incomplete",
                            ".0badcafe.ridgeline.incomplete", "e7a6.ridgeline.incomplete.0badcafe"})
    EXPECT_EQ(whole_name(other), "") << other;
}

TEST(HubPartialFile, MayBeFinishedByAnotherProcessWhileItIsLookedAt) {
  const fs::path path = fs::path(testing::TempDir()) / "hub_looked_at";
  const std::string content = pattern_of(10'000);
  std::atomic<bool> done = false;
  std::jthread other([&] {
    for (int time = 0; time < 500; ++time) {
      PartialFile file(path, 10'000, 4096);
      file.write(0, bytes_of(std::string_view(content)));
      file.finish();
      fs::rename(path, path.string() + ".whole");
    }
    done = true;
  });
  while (!done) {
    const int64_t there = bytes_there(path, 10'000);
    ASSERT_TRUE(there >= 0 && there <= 10'000) << there;
  }
  other.join();
  fs::remove(path.string() + ".whole");
}

TEST(HubDigest, ContentIsNamedAsGitAndSha256Do) {
  const fs::path path = fs::path(testing::TempDir()) / "hub_digest";
  write_atomically(path, "hello\n");
  const File file(path, File::Mode::read);
  EXPECT_EQ(digest_of(file, 6, DigestKind::git_sha1), "ce013625030ba8dba906f756967f9e9ca394464a");
  EXPECT_EQ(digest_of(file, 6, DigestKind::sha256), "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
  EXPECT_EQ(digest_of(file, 0, DigestKind::git_sha1), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
  EXPECT_EQ(digest_kind("5f3e-1a2b"), DigestKind::none);
  EXPECT_EQ(digest_kind(std::string(64, 'a')), DigestKind::sha256);
  EXPECT_EQ(digest_kind(std::string(40, 'A')), DigestKind::none);
  fs::remove(path);
}

}  // namespace
}  // namespace ridgeline::hub
