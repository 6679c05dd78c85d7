// Checksums that a corpus ships beside its files: OSCAR's LANGUAGE_sha256.txt (a name, a tab, its SHA-256) and
// checksum.sha256 (as sha256sum writes it).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ridgeline::cli {

// Names of files (without folders) and their SHA-256 in lower case, from the text of such a file; lines of another form
// are none. Where two lines name one file, the last counts.
std::map<std::string, std::string> parse_checksums(std::string_view text);

struct InputChecksums {
  int64_t verified = 0;
  std::vector<std::string> without;  // files that no checksum is known of
};

// Reads every `count`-th of `files` from the `index`-th on, on `threads` threads, and compares it with its checksum, if
// a checksum file in its folder has one. `go_on` (may be empty) is called between files, on this thread. Error: the
// first file that differs.
InputChecksums verify_inputs(std::span<const std::filesystem::path> files, int threads, int index, int count,
                             const std::function<void()>& go_on = {});

}  // namespace ridgeline::cli
