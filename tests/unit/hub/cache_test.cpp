#include "ridgeline/hub/cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"

namespace ridgeline::hub {
namespace {

namespace fs = std::filesystem;

const std::string kCommit(40, 'c');

class HubCache : public testing::Test {
 protected:
  void SetUp() override { fs::remove_all(folder_); }
  void TearDown() override { fs::remove_all(folder_); }
  const fs::path folder_ = fs::path(testing::TempDir()) / "hub_cache";
};

TEST_F(HubCache, LiesAsTheHubsOwnClientLaysIt) {
  const Cache cache(folder_, {RepositoryKind::model, "EleutherAI/gpt-j-6b"});
  const fs::path top = folder_ / "models--EleutherAI--gpt-j-6b";
  EXPECT_EQ(cache.blob("e"), top / "blobs/e");
  EXPECT_EQ(cache.lock("e"), folder_ / ".locks/models--EleutherAI--gpt-j-6b/e.lock");
  EXPECT_EQ(cache_name({RepositoryKind::dataset, "oscar"}), "datasets--oscar");
  EXPECT_EQ(link_target("a", "e"), "../../blobs/e");
  EXPECT_EQ(link_target("a/b/c", "e"), "../../../../blobs/e");
}

TEST_F(HubCache, ASnapshotIsThereWhenItIsPublished) {
  const Cache cache(folder_, {RepositoryKind::dataset, "oscar"});
  make_folder(cache.blob("e1").parent_path());
  write_atomically(cache.blob("e1"), "one");
  write_atomically(cache.blob("e2"), "two");
  EXPECT_EQ(cache.commit_of("refs/pr/1"), std::nullopt);
  EXPECT_THAT(cache.paths_in(kCommit), testing::IsEmpty());
  for (int time = 0; time < 2; ++time) {
    cache.publish(kCommit, "refs/pr/1", {{"a.txt", 3, "e1"}, {"b/c.txt", 3, "e2"}, {"b/same.txt", 3, "e1"}});
    EXPECT_EQ(read_text(cache.snapshot(kCommit) / "b/c.txt"), "two");
    EXPECT_EQ(read_text(cache.snapshot(kCommit) / "b/same.txt"), "one");
    EXPECT_EQ(fs::read_symlink(cache.snapshot(kCommit) / "b/c.txt"), "../../../blobs/e2");
    EXPECT_EQ(read_text(cache.folder() / "refs/refs/pr/1"), kCommit);
  }
  EXPECT_EQ(cache.commit_of("refs/pr/1"), kCommit);
  EXPECT_THAT(cache.paths_in(kCommit), testing::ElementsAre("a.txt", "b/c.txt", "b/same.txt"));
  fs::remove(cache.blob("e2"));
  EXPECT_THAT(cache.paths_in(kCommit), testing::ElementsAre("a.txt", "b/same.txt")) << "a link to nothing is no file";
  // Another content of a path takes its place.
  cache.publish(kCommit, kCommit, {{"b/same.txt", 3, "e3"}});
  EXPECT_EQ(fs::read_symlink(cache.snapshot(kCommit) / "b/same.txt"), "../../../blobs/e3");
  EXPECT_FALSE(fs::exists(cache.folder() / "refs" / kCommit));
}

TEST_F(HubCache, AReferenceThatIsNoCommitIsAnError) {
  const Cache cache(folder_, {RepositoryKind::model, "gpt2"});
  make_folder(cache.folder() / "refs");
  write_atomically(cache.folder() / "refs/main", "../../etc");
  EXPECT_THROW(cache.commit_of("main"), Error);
}

// So that whoever may read a shared cache, and not write it, can fetch what is there.
TEST_F(HubCache, WhatIsPublishedAlreadyIsNotWrittenAgain) {
  const Cache cache(folder_, {RepositoryKind::model, "gpt2"});
  const std::vector<RemoteFile> files = {{"a/b.txt", 3, "e1"}};
  cache.publish(kCommit, "main", files);
  const fs::path reference = cache.folder() / "refs/main";
  const fs::path another_name = folder_ / "reference";
  fs::create_hard_link(reference, another_name);
  cache.publish(kCommit, "main", files);
  EXPECT_TRUE(fs::equivalent(reference, another_name)) << "replaced by a new file";
  const std::string other_commit(40, 'd');
  cache.publish(other_commit, "main", files);
  EXPECT_EQ(read_text(reference), other_commit);
}

TEST_F(HubCache, ANameMayBeAsLongAsAFileSystemHasIt) {
  const Cache cache(folder_, {RepositoryKind::model, "gpt2"});
  const std::string path(255, 'n');
  cache.publish(kCommit, "main", {{path, 3, "e1"}});
  EXPECT_EQ(fs::read_symlink(cache.snapshot(kCommit) / path), "../../blobs/e1");
  cache.publish(kCommit, "main", {{path, 3, "e2"}});
  EXPECT_EQ(fs::read_symlink(cache.snapshot(kCommit) / path), "../../blobs/e2");
}

TEST_F(HubCache, ABlobHasOneFetcher) {
  const fs::path file = folder_ / "not yet there" / "e.lock";
  auto first = BlobLock::take(file);
  ASSERT_TRUE(first && first->held());
  EXPECT_FALSE(BlobLock::take(file));
  first.reset();
  auto second = BlobLock::take(file);
  ASSERT_TRUE(second && second->held());
  fs::remove(file);  // as some clients do when they are done
  EXPECT_TRUE(BlobLock::take(file)) << "a lock of a file that has no name any more is a lock of nothing";
}

TEST_F(HubCache, FreeBytesAreAskedOfTheNearestFolderThatIsThere) {
  EXPECT_GT(free_bytes(folder_ / "not/yet/there"), 0);
}

}  // namespace
}  // namespace ridgeline::hub
