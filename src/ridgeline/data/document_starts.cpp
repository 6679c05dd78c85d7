#include "ridgeline/data/document_starts.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <future>
#include <map>
#include <memory>
#include <thread>

#include "ridgeline/base/cache_folder.h"
#include "ridgeline/base/checksum.h"
#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/base/lock_file.h"
#include "ridgeline/data/block_checksums.h"
#include "ridgeline/data/ordered_pipeline.h"

namespace ridgeline::data {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

int64_t modified_of(const struct stat& info) {
  return int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec;
}

std::string bytes_at(const File& file, int64_t offset, int64_t count) {
  std::string bytes(static_cast<size_t>(count), '\0');
  file.read_at(offset, std::as_writable_bytes(std::span(bytes)));
  return bytes;
}

// What is there now under the name.
std::pair<int64_t, int64_t> size_and_time(const fs::path& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return {-1, -1};
  return {info.st_size, modified_of(info)};
}

// A change in the same tick of the file system's clock as the one before leaves the same time: so a file is read when
// that tick is over, and a change while it is read shows.
void await_next_tick(const LlmcFile& file) {
  constexpr int64_t kTick = 50'000'000;  // kernels' ticks are of 10 ms and less
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const int64_t age = std::chrono::duration_cast<std::chrono::nanoseconds>(now).count() - file.stamp.modified;
  if (age >= 0 && age < kTick) std::this_thread::sleep_for(std::chrono::nanoseconds(kTick - age));
}

// Appends which of `count` ids are the separator, counted from `first`.
template <typename Id>
void add_starts(const std::byte* from, int64_t count, int64_t first, Id separator, std::vector<uint32_t>& starts) {
  const auto id_at = [&](int64_t i) {
    Id id;
    std::memcpy(&id, from + i * static_cast<int64_t>(sizeof id), sizeof id);
    return id;
  };
  // Documents have hundreds of tokens: most blocks hold no separator, and the compiler compares those as vectors, since
  // they are of one length.
  constexpr int64_t kBlock = 128;
  const auto holds_none = [&](int64_t begin) {
    Id found = 0;
    for (int64_t i = 0; i < kBlock; ++i) found |= static_cast<Id>(id_at(begin + i) == separator);
    return found == 0;
  };
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    if (begin + kBlock <= count && holds_none(begin)) continue;
    for (int64_t i = begin; i < std::min(begin + kBlock, count); ++i) {
      if (id_at(i) == separator) starts.push_back(static_cast<uint32_t>(first + i));
    }
  }
}

// A block of a file, and what is found in it.
struct ScannedBlock {
  size_t file = 0;  // its number
  ByteRange range;
  std::shared_ptr<const File> from;
  uint32_t sum = 0;
  std::vector<uint32_t> starts;
};

void scan_block(ScannedBlock& block, const TokenFile& tokens, std::vector<std::byte>& buffer) {
  constexpr int64_t kPiece = int64_t{1} << 20;
  buffer.resize(kPiece);
  block.sum = 0;
  block.starts.clear();
  for (int64_t done = 0; done < block.range.bytes; done += kPiece) {
    const int64_t at = block.range.first + done;
    const std::span piece(buffer.data(), static_cast<size_t>(std::min(kPiece, block.range.bytes - done)));
    block.from->read_at(at, piece);
    block.sum = crc32c(piece, block.sum);
    const std::span ids =
        piece.subspan(std::min(piece.size(), static_cast<size_t>(std::max<int64_t>(tokens.begin - at, 0))));
    const int64_t first = (std::max(at, tokens.begin) - tokens.begin) / tokens.item_bytes;
    const int64_t count = std::ssize(ids) / tokens.item_bytes;
    if (tokens.item_bytes == 2) {
      add_starts(ids.data(), count, first, static_cast<uint16_t>(tokens.separator), block.starts);
    } else {
      add_starts(ids.data(), count, first, static_cast<uint32_t>(tokens.separator), block.starts);
    }
  }
}

// Where what is known of the files of a folder may be kept, the best place first.
std::vector<fs::path> places_for(const fs::path& folder) {
  std::vector<fs::path> places = {folder / ".ridgeline"};
  std::error_code code;
  const fs::path whole = fs::canonical(folder.empty() ? "." : folder, code);
  if (const fs::path cache = cache_folder(); !cache.empty() && !code)
    places.push_back(cache / "documents" / whole.relative_path());
  return places;
}

fs::path kept_file(const fs::path& place, const LlmcFile& file) {
  return place / (file.path.filename().string() + ".documents");
}

// Where a few of the starts are something else in the file, it is another one of the same size and time.
bool starts_are_there(const LlmcFile& file, const std::vector<uint32_t>& starts) {
  if (starts.empty()) return true;
  if (starts.back() >= file.tokens.count) return false;
  const File from(file.path, File::Mode::read);
  for (const uint32_t start : {starts.front(), starts[starts.size() / 2], starts.back()}) {
    const int64_t item = file.tokens.item_bytes;
    const std::string bytes = bytes_at(from, file.tokens.begin + start * item, item);
    uint32_t id = 0;
    std::memcpy(&id, bytes.data(), bytes.size());
    if (id != static_cast<uint32_t>(file.tokens.separator)) return false;
  }
  return true;
}

// What is kept of `file` in one place; none, and `why` where something is kept that is of no use.
std::optional<DocumentStarts> kept_in(const fs::path& place, const LlmcFile& file, std::string& why) {
  const fs::path path = kept_file(place, file);
  std::error_code code;
  if (!fs::is_regular_file(path, code)) return std::nullopt;
  try {
    const File from(path, File::Mode::read);
    std::optional<KeptStarts> kept = kept_starts_of(bytes_of(bytes_at(from, 0, from.size())));
    if (!kept) {
      why = fmt::format("'{}' is damaged", path.string());
    } else if (kept->of != file.stamp || !starts_are_there(file, kept->found.starts)) {
      why = fmt::format("'{}' has changed since its documents were found", file.path.string());
    } else {
      return std::move(kept->found);
    }
  } catch (const Error& error) {
    why = error.message();
  }
  return std::nullopt;
}

class StartsSearch {
 public:
  StartsSearch(std::span<const LlmcFile> files, const FindingStarts& finding)
      : files_(files), finding_(finding), found_(files.size()) {}

  std::vector<DocumentStarts> run() {
    std::map<fs::path, std::vector<size_t>> missing;  // by folder
    for (size_t i = 0; i < files_.size(); ++i) {
      if (load(i, Loud::yes)) continue;
      missing[files_[i].path.parent_path()].push_back(i);
      all_ += files_[i].stamp.bytes;
    }
    for (auto& [folder, list] : missing) find(folder, list);
    return std::move(found_);
  }

 private:
  enum class Loud : uint8_t { no, yes };

  bool is_kept(size_t i) const { return files_[i].stamp.bytes >= kLeastKept; }

  void say(const std::string& what) const {
    if (finding_.say) finding_.say(what);
  }

  bool load(size_t i, Loud loud) {
    if (!is_kept(i)) return false;
    std::string why;
    for (const fs::path& place : places_for(files_[i].path.parent_path())) {
      std::optional<DocumentStarts> kept = kept_in(place, files_[i], why);
      if (!kept) continue;
      found_[i] = std::move(*kept);
      return true;
    }
    if (loud == Loud::yes && !why.empty()) say(why + ": it is read again");
    return false;
  }

  // Takes out of `list` what another process has found meanwhile.
  void load_all(std::vector<size_t>& list) {
    std::erase_if(list, [&](size_t i) {
      if (!load(i, Loud::no)) return false;
      all_ -= files_[i].stamp.bytes;
      return true;
    });
  }

  void advance(int64_t bytes) {
    done_ += bytes;
    if (finding_.progress) finding_.progress(done_, all_);
  }

  // All of one folder.
  void find(const fs::path& folder, std::vector<size_t>& list) {
    std::unique_ptr<const LockFile> lock;
    fs::path place;
    if (std::any_of(list.begin(), list.end(), [&](size_t i) { return is_kept(i); })) {
      lock = lock_place(folder, place);
      if (lock) {
        load_all(list);
      } else {
        say(
            fmt::format("'{}': neither it nor the cache can be written, so all of its files are read at every start; "
                        "set XDG_CACHE_HOME to a folder that can",
                        folder.empty() ? "." : folder.string()));
      }
    }
    if (!lock && finding_.only_to_keep) return;
    scan(list, place);
  }

  // The first place that can be written, when no other process is about to. Null when there is none.
  std::unique_ptr<const LockFile> lock_place(const fs::path& folder, fs::path& place) {
    for (fs::path& candidate : places_for(folder)) {
      try {
        std::unique_ptr<const LockFile> lock = await_lock(candidate, folder);
        place = std::move(candidate);
        return lock;
      } catch (const Error&) {  // the next one
      }
    }
    return nullptr;
  }

  std::unique_ptr<const LockFile> await_lock(const fs::path& candidate, const fs::path& folder) {
    constexpr milliseconds kLongest{1000};
    for (milliseconds pause{20};; pause = std::min(2 * pause, kLongest)) {
      try {
        return LockFile::of_folder(candidate, fmt::format("what is known of '{}'", folder.string()), "ridgeline");
      } catch (const LockHeld& held) {
        if (pause == kLongest && !waited_) say(held.message() + ": waits for it");
        waited_ = waited_ || pause == kLongest;
      }
      std::this_thread::sleep_for(pause);
    }
  }

  // Reads files whole, and keeps what it finds in `place`, if there is one.
  void scan(const std::vector<size_t>& list, const fs::path& place) {
    if (list.empty()) return;
    int64_t blocks = 0;
    for (const size_t i : list) {
      blocks += checksum_blocks(files_[i].stamp.bytes);
      if (!place.empty() && is_kept(i)) await_next_tick(files_[i]);
    }
    constexpr int64_t kMostReaders = 16;  // are more than disks and memory take
    const auto threads = static_cast<int>(std::min({int64_t{finding_.threads}, kMostReaders, blocks}));
    std::vector<std::vector<std::byte>> buffers(static_cast<size_t>(threads));
    auto next = list.begin();
    int64_t block = 0;
    std::shared_ptr<const File> from;
    const auto produce = [&](ScannedBlock& item) {
      if (next == list.end()) return false;
      const LlmcFile& file = files_[*next];
      if (block == 0) from = std::make_shared<const File>(file.path, File::Mode::read);
      item.file = *next;
      item.range = checksum_block(file.stamp.bytes, block);
      item.from = from;
      if (++block == checksum_blocks(file.stamp.bytes)) ++next, block = 0;
      return true;
    };
    const auto work = [&](int worker, ScannedBlock& item) {
      scan_block(item, files_[item.file].tokens, buffers[static_cast<size_t>(worker)]);
    };
    const auto commit = [&](ScannedBlock& item) {
      DocumentStarts& found = found_[item.file];
      found.checksums.push_back(item.sum);
      found.starts.insert(found.starts.end(), item.starts.begin(), item.starts.end());
      item.from.reset();
      if (item.range.first + item.range.bytes == files_[item.file].stamp.bytes) finish(item.file, place);
      advance(item.range.bytes);
    };
    ordered_pipeline<ScannedBlock>(
        threads, produce, [](const ScannedBlock&) { return size_t{0}; }, work, commit);
    await_kept();
  }

  void finish(size_t i, const fs::path& place) {
    const LlmcFile& file = files_[i];
    if (size_and_time(file.path) != std::pair{file.stamp.bytes, file.stamp.modified})
      throw Error(fmt::format("'{}' changes while it is read", file.path.string()), "Wait until it is whole.");
    if (place.empty() || !is_kept(i)) return;
    await_kept();
    kept_ = std::async(std::launch::async | std::launch::deferred,
                       [path = kept_file(place, file), bytes = to_bytes({file.stamp, found_[i]})] {
                         try {
                           write_atomically(path, bytes);
                         } catch (const Error& error) {
                           return error.message();
                         }
                         return std::string();
                       });
  }

  void await_kept() {
    const std::string why = kept_.valid() ? kept_.get() : "";
    if (why.empty() || refused_) return;
    say(why + ": what is found is not kept");
    refused_ = true;
  }

  std::span<const LlmcFile> files_;
  const FindingStarts& finding_;
  std::vector<DocumentStarts> found_;
  std::future<std::string> kept_;  // why the file before is not kept, or "": disks take a while to sync it
  int64_t done_ = 0, all_ = 0;
  bool waited_ = false, refused_ = false;  // and said so
};

}  // namespace

std::optional<LlmcFile> llmc_file(const fs::path& path) {
  std::error_code code;
  if (!fs::is_regular_file(path, code)) return std::nullopt;
  const File file(path, File::Mode::read);
  struct stat info {};
  if (::fstat(file.descriptor(), &info) != 0)
    throw system_error(fmt::format("cannot look at '{}'", path.string()), errno);
  const std::string start = bytes_at(file, 0, std::min<int64_t>(info.st_size, kLlmcHeader));
  std::optional<TokenFile> tokens = llmc_header(start, info.st_size);
  if (!tokens) return std::nullopt;
  return LlmcFile{path,
                  std::move(*tokens),
                  {.bytes = info.st_size, .modified = modified_of(info), .header = crc32c(bytes_of(start))}};
}

std::vector<DocumentStarts> document_starts(std::span<const LlmcFile> files, const FindingStarts& finding) {
  return StartsSearch(files, finding).run();
}

}  // namespace ridgeline::data
