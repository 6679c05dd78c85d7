#include "ridgeline/hub/partial_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>
#include <vector>

#include "ridgeline/base/error.h"
#include "ridgeline/base/random.h"

namespace ridgeline::hub {
namespace {

namespace fs = std::filesystem;

// The record: this head, then a 64-bit count of each chunk's bytes, all in the machine's order.
struct Head {
  std::array<char, 8> mark{};
  int64_t size = 0;
  int64_t chunk_bytes = 0;
};
constexpr std::array<char, 8> kMark = {'R', 'L', 'P', 'A', 'R', 'T', '0', '1'};
constexpr std::string_view kEnding = ".ridgeline.incomplete";
constexpr size_t kHostLetters = 9;  // with the point before them
constexpr int64_t kHeadBytes = sizeof(Head);
constexpr int64_t kCountBytes = sizeof(int64_t);
constexpr int64_t kWorthCopying = int64_t{1} << 20;
constexpr int64_t kCopiedAtOnce = int64_t{4} << 20;
constexpr int64_t kSmallestChunk = 4096;  // so that the record of a large file stays small beside it

int open_or_create(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor < 0) throw system_error(fmt::format("cannot create '{}'", path.string()), errno);
  return descriptor;
}

int64_t record_bytes(const Chunks& chunks) {
  return kHeadBytes + static_cast<int64_t>(chunks.count()) * kCountBytes;
}

// What a partial file of `size` bytes says is there; nothing where it says nothing sound.
std::optional<Chunks> read_record(const File& file, int64_t size) {
  const int64_t length = file.size();
  if (length == size && length > 0) {  // it was finished, and not yet given its name
    Chunks whole(size, size);
    whole.set_have(0, size);
    return whole;
  }
  if (length < size + kHeadBytes) return std::nullopt;
  Head head;
  file.read_at(size, std::as_writable_bytes(std::span(&head, 1)));
  if (head.mark != kMark || head.size != size || head.chunk_bytes < kSmallestChunk) return std::nullopt;
  Chunks recorded(size, head.chunk_bytes);
  if (length != size + record_bytes(recorded)) return std::nullopt;
  std::vector<int64_t> counts(recorded.count());
  file.read_at(size + kHeadBytes, std::as_writable_bytes(std::span(counts)));
  for (size_t chunk = 0; chunk < recorded.count(); ++chunk) {
    if (counts[chunk] < 0 || counts[chunk] > recorded.end(chunk) - recorded.begin(chunk)) return std::nullopt;
    recorded.set_have(chunk, counts[chunk]);
  }
  return recorded;
}

// The part of `name` beside `path` of which most is there; an empty path where nothing is.
fs::path largest_part(const fs::path& path, const std::string& name, int64_t size) {
  fs::path best;
  int64_t most = 0;
  for (const fs::path& part : parts_in(path.parent_path())) {
    if (part == path || whole_name(part.filename().native()) != name) continue;
    const int64_t there = bytes_there(part, size);
    if (there <= most) continue;
    most = there;
    best = part;
  }
  return best;
}

// Bytes [at, end) of `from`.
void copy_range(const File& from, int64_t at, int64_t end, PartialFile& to) {
  std::vector<std::byte> buffer(static_cast<size_t>(std::min(kCopiedAtOnce, end - at)));
  while (at < end) {
    const auto piece = std::span(buffer).first(static_cast<size_t>(std::min(kCopiedAtOnce, end - at)));
    from.read_at(at, piece);
    to.write(at, piece);
    at += std::ssize(piece);
  }
}

}  // namespace

std::string partial_name(const std::string& name) {
  std::array<char, 256> host{};
  ::gethostname(host.data(), host.size() - 1);
  return fmt::format("{}.{:08x}{}", name, hash_name(host.data()) >> 32, kEnding);
}

std::string_view whole_name(std::string_view file) {
  const size_t end = file.find(kEnding);
  const bool sound = end != std::string_view::npos && end > kHostLetters && file[end - kHostLetters] == '.';
  return sound ? file.substr(0, end - kHostLetters) : std::string_view();
}

std::vector<fs::path> parts_in(const fs::path& folder) {
  std::vector<fs::path> parts;
  std::error_code code;
  for (fs::directory_iterator at(folder, code), end; !code && at != end; at.increment(code)) {
    if (!whole_name(at->path().filename().native()).empty()) parts.push_back(at->path());
  }
  return parts;
}

PartialFile::PartialFile(const fs::path& path, int64_t size, int64_t chunk_bytes)
    : file_(path, open_or_create(path)), chunks_(size, chunk_bytes) {
  if (std::optional<Chunks> recorded = read_record(file_, size)) {
    chunks_ = std::move(*recorded);
  } else {
    begin();
  }
}

// The head comes last: a record without it counts for nothing.
void PartialFile::begin() {
  file_.resize(0);
  file_.resize(chunks_.size() + record_bytes(chunks_));
  const Head head{kMark, chunks_.size(), chunks_.chunk_bytes()};
  file_.write_at(chunks_.size(), std::as_bytes(std::span(&head, 1)));
}

void PartialFile::record(size_t chunk) {
  const int64_t count = chunks_.have(chunk);
  file_.write_at(chunks_.size() + kHeadBytes + static_cast<int64_t>(chunk) * kCountBytes,
                 std::as_bytes(std::span(&count, 1)));
}

int64_t PartialFile::write(int64_t at, std::span<const std::byte> bytes) {
  RL_CHECK(at + static_cast<int64_t>(bytes.size()), <=, chunks_.size());
  int64_t written = 0;
  while (!bytes.empty()) {
    const size_t chunk = chunks_.chunk_of(at);
    const int64_t piece = std::min(static_cast<int64_t>(bytes.size()), chunks_.end(chunk) - at);
    RL_CHECK(at, <=, chunks_.next(chunk));
    const int64_t known = std::min(piece, chunks_.next(chunk) - at);
    if (known < piece) {
      file_.write_at(at + known, bytes.subspan(static_cast<size_t>(known), static_cast<size_t>(piece - known)));
      chunks_.set_have(chunk, at + piece - chunks_.begin(chunk));
      record(chunk);
      written += piece - known;
    }
    at += piece;
    bytes = bytes.subspan(static_cast<size_t>(piece));
  }
  return written;
}

void PartialFile::finish() {
  RL_REQUIRE(chunks_.full(), "'{}' is not whole", file_.path().string());
  file_.resize(chunks_.size());
}

void PartialFile::restart(int64_t chunk_bytes) {
  chunks_ = Chunks(chunks_.size(), chunk_bytes);
  begin();
}

int64_t bytes_there(const fs::path& path, int64_t size) {
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) return 0;
  try {
    const std::optional<Chunks> recorded = read_record(File(path, File::Mode::read), size);
    return recorded ? recorded->bytes_there() : 0;
  } catch (const Error&) {  // gone, or cut, since it was looked at; who cannot read it will hear so when it goes on
    return 0;
  }
}

int64_t copy_part_of_another_host(const fs::path& path, const std::string& name, int64_t size) {
  if (size < kWorthCopying || bytes_there(path, size) > 0) return 0;
  try {
    const fs::path part = largest_part(path, name, size);
    if (part.empty()) return 0;
    const File from(part, File::Mode::read);
    const std::optional<Chunks> there = read_record(from, size);
    if (!there) return 0;
    PartialFile to(path, size, there->chunk_bytes());
    for (size_t chunk = 0; chunk < there->count(); ++chunk)
      copy_range(from, there->begin(chunk), there->next(chunk), to);
  } catch (const Error&) {  // it went away, or was begun anew: what was copied counts
  }
  return bytes_there(path, size);
}

}  // namespace ridgeline::hub
