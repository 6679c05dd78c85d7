#include "ridgeline/base/output.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"

namespace ridgeline {
namespace {

namespace fs = std::filesystem;

bool is_stream(const fs::path& path) {
  struct stat target {};
  if (::stat(path.c_str(), &target) != 0) return false;
  if (!S_ISREG(target.st_mode)) return !S_ISDIR(target.st_mode);
  // /dev/stdout sent to a file is that file, half-written.
  for (const int descriptor : {STDOUT_FILENO, STDERR_FILENO}) {
    struct stat open {};
    if (::fstat(descriptor, &open) == 0 && open.st_dev == target.st_dev && open.st_ino == target.st_ino) return true;
  }
  return false;
}

}  // namespace

bool same_file(const fs::path& one, const fs::path& other) {
  std::error_code code;
  return fs::equivalent(one, other, code) && !code;
}

std::string start_of(const fs::path& path) {
  std::error_code code;
  if (!fs::is_regular_file(path, code)) return "";
  const File file(path, File::Mode::read);
  std::string start(std::min<size_t>(static_cast<size_t>(file.size()), kRecognisedBytes), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(start)));
  return start;
}

void require_replaceable(const fs::path& path, std::string_view option, std::span<const fs::path> inputs,
                         const Recognise& ours) {
  for (const fs::path& input : inputs) {
    if (same_file(path, input)) {
      throw Error(
          fmt::format("{}: '{}' would be written, and is the input '{}'", option, path.string(), input.string()),
          "Choose another name for the output: an input is never overwritten.");
    }
  }
  std::error_code code;
  const fs::file_status status = fs::status(path, code);
  if (!fs::exists(status)) return;
  const std::string start = start_of(path);
  if (fs::is_regular_file(status) && (start.empty() || ours(start))) return;
  throw Error(fmt::format("{}: '{}' exists, and Ridgeline did not write it", option, path.string()),
              "Choose another name for the output, or move what is there out of the way.");
}

void require_writable(const fs::path& path, std::string_view option, std::span<const fs::path> inputs,
                      const Recognise& ours) {
  if (!is_stream(path)) require_replaceable(path, option, inputs, ours);
}

void write_output(const fs::path& path, std::string_view bytes) {
  if (!is_stream(path)) return write_atomically(path, bytes);
  // Append: where it is standard output sent to a file, what was printed before stays.
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  if (descriptor < 0) throw system_error(fmt::format("cannot open '{}'", path.string()), errno);
  const File closing(path, descriptor);
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw system_error(fmt::format("cannot write '{}'", path.string()), errno);
    bytes.remove_prefix(static_cast<size_t>(written));
  }
}

}  // namespace ridgeline
