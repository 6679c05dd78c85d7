#include "ridgeline/hub/cache.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"

namespace ridgeline::hub {
namespace {

namespace fs = std::filesystem;

bool says(const fs::path& link, const std::string& target) {
  std::error_code code;
  return fs::is_symlink(link, code) && fs::read_symlink(link, code) == target;
}

Error no_link(const fs::path& link) {
  const Error error = system_error(fmt::format("cannot make the link '{}'", link.string()), errno);
  return Error(error.message(), "--out DIR fetches into a folder of its own, without links.");
}

// A link that is there and says the same stays, whoever made it meanwhile; anything else in its place gives way to it
// at once.
void place_link(const fs::path& link, const std::string& target) {
  if (says(link, target)) return;
  make_folder(link.parent_path());
  if (::symlink(target.c_str(), link.c_str()) == 0) return;
  if (errno != EEXIST) throw no_link(link);
  if (says(link, target)) return;
  const fs::path fresh = link.parent_path() / fmt::format(".{}.tmp", ::getpid());
  std::error_code ignored;
  fs::remove(fresh, ignored);
  if (::symlink(target.c_str(), fresh.c_str()) != 0) throw no_link(link);
  if (::rename(fresh.c_str(), link.c_str()) != 0) {
    const Error error = no_link(link);
    fs::remove(fresh, ignored);
    throw error;
  }
}

}  // namespace

std::string cache_name(const Repository& repository) {
  std::string name = fmt::format("{}s--{}", word_for(repository.kind), repository.name);
  if (const size_t slash = name.find('/'); slash != std::string::npos) name.replace(slash, 1, "--");
  return name;
}

std::string link_target(const std::string& path, const std::string& etag) {
  std::string up = "../../";
  for (int64_t folders = std::count(path.begin(), path.end(), '/'); folders > 0; --folders) up += "../";
  return up + "blobs/" + etag;
}

Cache::Cache(const fs::path& folder, const Repository& repository)
    : folder_(folder / cache_name(repository)), locks_(folder / ".locks" / cache_name(repository)) {}

std::optional<std::string> Cache::commit_of(const std::string& revision) const {
  if (is_commit(revision)) return revision;
  const fs::path file = folder_ / "refs" / revision;
  std::error_code ignored;
  if (!fs::is_regular_file(file, ignored)) return std::nullopt;
  std::string commit = read_text(file);
  while (commit.ends_with('\n')) commit.pop_back();
  if (!is_commit(commit)) {
    throw Error(fmt::format("'{}' holds no commit", file.string()), "Remove the file and fetch again.");
  }
  return commit;
}

std::vector<std::string> Cache::paths_in(const std::string& commit) const {
  std::vector<std::string> result;
  std::error_code code;
  const fs::path top = snapshot(commit);
  for (fs::recursive_directory_iterator at(top, code), end; !code && at != end; at.increment(code)) {
    std::error_code ignored;
    if (fs::is_regular_file(at->path(), ignored)) result.push_back(at->path().lexically_relative(top).string());
  }
  std::sort(result.begin(), result.end());
  return result;
}

std::optional<std::vector<RemoteFile>> Cache::kept_tree(const std::string& commit) const {
  const fs::path file = folder_ / "trees" / (commit + ".json");
  std::error_code ignored;
  if (!fs::is_regular_file(file, ignored)) return std::nullopt;
  return parse_kept_tree(read_text(file));
}

void Cache::publish(const std::string& commit, const std::string& revision,
                    const std::vector<RemoteFile>& files) const {
  for (const RemoteFile& file : files) place_link(snapshot(commit) / file.path, link_target(file.path, file.etag));
  sync_folder(snapshot(commit));
  if (is_commit(revision)) return;
  const fs::path reference = folder_ / "refs" / revision;
  std::error_code ignored;
  if (fs::is_regular_file(reference, ignored) && read_text(reference) == commit) return;
  make_folder(reference.parent_path());
  write_atomically(reference, commit);
}

std::optional<BlobLock> BlobLock::take(const fs::path& file) {
  constexpr int kMostTries = 100;
  for (int tries = 1;; ++tries) {
    const int descriptor = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0664);
    if (descriptor < 0 && errno == ENOENT && tries < kMostTries) {
      // Not there yet, or gone again: whoever is done in it may remove it.
      make_folder(file.parent_path());
      continue;
    }
    if (descriptor < 0) throw system_error(fmt::format("cannot create '{}'", file.string()), errno);
    BlobLock lock(descriptor, true);
    if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK || errno == EINTR) return std::nullopt;
      lock.held_ = false;
      return lock;
    }
    // Whoever held it before may have removed the file: then this is a lock of nothing.
    struct stat mine {};
    struct stat named {};
    if (::fstat(descriptor, &mine) == 0 && ::stat(file.c_str(), &named) == 0 && mine.st_ino == named.st_ino &&
        mine.st_dev == named.st_dev)
      return lock;
  }
}

BlobLock::~BlobLock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

int64_t free_bytes(const fs::path& folder) {
  fs::path there = fs::absolute(folder);
  std::error_code ignored;
  while (!fs::exists(there, ignored) && there.has_relative_path()) there = there.parent_path();
  struct statvfs info {};
  if (::statvfs(there.c_str(), &info) != 0)
    throw system_error(fmt::format("cannot ask how much room '{}' has", there.string()), errno);
  return static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
}

}  // namespace ridgeline::hub
