// Hashes by which a hub names content: SHA-256 of large files, and git's name (SHA-1 over "blob SIZE\0" and the bytes)
// of small ones.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "ridgeline/base/file.h"

namespace ridgeline::hub {

enum class DigestKind { none, sha256, git_sha1 };

// What kind of hash an ETag is, by its length: 64 or 40 hexadecimal digits; none where it is something else, by which
// content cannot be checked.
DigestKind digest_kind(std::string_view etag);

// The hash of the first `size` bytes of `file`, in lower case hexadecimal digits. RL_REQUIRE(kind != none).
std::string digest_of(const File& file, int64_t size, DigestKind kind);

}  // namespace ridgeline::hub
