#include "ridgeline/base/file_identity.h"

#include <fmt/format.h>
#include <sys/stat.h>

namespace ridgeline {
namespace {

FileIdentity identity_from(const struct stat& info) {
  return {.device = info.st_dev,
          .number = info.st_ino,
          .bytes = info.st_size,
          .modified = int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec};
}

}  // namespace

FileIdentity identity_of(const std::filesystem::path& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 ? identity_from(info) : FileIdentity();
}

FileIdentity identity_of(const File& file) {
  struct stat info {};
  return ::fstat(file.descriptor(), &info) == 0 ? identity_from(info) : FileIdentity();
}

std::string to_text(const FileIdentity& identity) {
  return fmt::format("{}:{}, {} bytes of {}", identity.device, identity.number, identity.bytes, identity.modified);
}

}  // namespace ridgeline
