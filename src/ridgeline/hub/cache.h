// Where fetched files lie: the folder that huggingface_hub keeps, so that either finds what the other fetched.
//   CACHE/models--OWNER--NAME/blobs/ETAG                 content
//                            /snapshots/COMMIT/PATH      relative link to its blob
//                            /trees/COMMIT.json          the commit's list of files, kept by huggingface_hub: only read
//                            here /refs/REVISION              the commit, without a newline
//   CACHE/.locks/models--OWNER--NAME/ETAG.lock           whoever fetches the blob holds it (flock)
// A snapshot's links and then the reference are written when all blobs are there: what a killed process leaves is never
// taken for whole.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ridgeline/hub/listing.h"
#include "ridgeline/hub/names.h"

namespace ridgeline::hub {

class Cache {
 public:
  Cache(const std::filesystem::path& folder, const Repository& repository);

  const std::filesystem::path& folder() const { return folder_; }  // of the repository
  std::filesystem::path blob(const std::string& etag) const { return folder_ / "blobs" / etag; }
  std::filesystem::path lock(const std::string& etag) const { return locks_ / (etag + ".lock"); }
  std::filesystem::path snapshot(const std::string& commit) const { return folder_ / "snapshots" / commit; }

  // The commit that a revision was at when it was last fetched; nothing when it was not.
  std::optional<std::string> commit_of(const std::string& revision) const;
  // Paths of a snapshot whose blobs are there; empty when there is no such snapshot.
  std::vector<std::string> paths_in(const std::string& commit) const;

  // All files of a commit, where huggingface_hub kept the list of them.
  std::optional<std::vector<RemoteFile>> kept_tree(const std::string& commit) const;

  // Links `files` of a commit to their blobs, which are there; then lets `revision` (unless it is the commit) name it.
  // What says so already stays as it is: a cache that is whole may be one that this user cannot write.
  void publish(const std::string& commit, const std::string& revision, const std::vector<RemoteFile>& files) const;

 private:
  std::filesystem::path folder_, locks_;
};

// "models--EleutherAI--gpt-j-6b".
std::string cache_name(const Repository& repository);
// What the link at `path` of a snapshot says: "../../blobs/ETAG", with one more "../" for every folder of `path`.
std::string link_target(const std::string& path, const std::string& etag);

// A lock between processes, as huggingface_hub's file locks take it: the end of a process releases it.
class BlobLock {
 public:
  // The lock; nothing while another process (or another BlobLock) has it. Where the file system has no locks (`held()`
  // is false), two processes may fetch the same: each into a file of its own. The folder is made; an Error when it or
  // the file cannot be.
  static std::optional<BlobLock> take(const std::filesystem::path& file);
  ~BlobLock();
  BlobLock(BlobLock&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)), held_(other.held_) {}
  BlobLock& operator=(BlobLock&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    std::swap(held_, other.held_);
    return *this;
  }
  BlobLock(const BlobLock&) = delete;
  BlobLock& operator=(const BlobLock&) = delete;
  bool held() const { return held_; }

 private:
  BlobLock(int descriptor, bool held) : descriptor_(descriptor), held_(held) {}
  int descriptor_;
  bool held_;
};

// Bytes that a user may still write to the file system of `folder`, which need not exist yet.
int64_t free_bytes(const std::filesystem::path& folder);

}  // namespace ridgeline::hub
