// Which checkpoints are there, which are whole, which may go.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <mutex>
#include <thread>

#include "ridgeline/base/checksum.h"
#include "ridgeline/base/error.h"
#include "ridgeline/checkpoint/manifest.h"

namespace ridgeline::checkpoint {
namespace {

namespace fs = std::filesystem;

// The step in "step_00000100"; nullopt for any other name.
std::optional<int64_t> step_of(const std::string& name) {
  constexpr std::string_view kPrefix = "step_";
  if (!name.starts_with(kPrefix) || name.size() < kPrefix.size() + 8) return {};
  int64_t step = 0;
  const char* end = name.data() + name.size();
  const auto [last, code] = std::from_chars(name.data() + kPrefix.size(), end, step);
  if (code != std::errc{} || last != end || step < 0 || folder_name(step) != name) return {};
  return step;
}

// Checksums of whole files, cut into chunks that threads take in turn.
class ParallelChecksum {
 public:
  explicit ParallelChecksum(const std::vector<fs::path>& paths) {
    for (const fs::path& path : paths) {
      files_.emplace_back(path, File::Mode::read);
      const int64_t size = files_.back().size();
      const int index = static_cast<int>(files_.size()) - 1;
      for (int64_t at = 0; at < size; at += kChunk) chunks_.push_back({index, at, std::min(kChunk, size - at), 0});
    }
  }

  std::vector<uint32_t> run(int threads) {
    {
      std::vector<std::jthread> team;
      for (int i = 1; i < threads && i < static_cast<int>(chunks_.size()); ++i) team.emplace_back([this] { work(); });
      work();
    }
    if (failure_) std::rethrow_exception(failure_);
    std::vector<uint32_t> result(files_.size(), 0);
    for (const Chunk& chunk : chunks_) {
      result[chunk.file] = crc32c_combine(result[chunk.file], chunk.crc, static_cast<uint64_t>(chunk.length));
    }
    return result;
  }

 private:
  static constexpr int64_t kChunk = int64_t{4} << 20;
  struct Chunk {
    int file;
    int64_t offset, length;
    uint32_t crc;
  };

  void work() {
    try {
      std::vector<std::byte> buffer(kChunk);
      for (size_t i = next_++; i < chunks_.size(); i = next_++) {
        const std::span<std::byte> bytes(buffer.data(), static_cast<size_t>(chunks_[i].length));
        files_[chunks_[i].file].read_at(chunks_[i].offset, bytes);
        chunks_[i].crc = crc32c(bytes);
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
      next_ = chunks_.size();
    }
  }

  std::vector<File> files_;
  std::vector<Chunk> chunks_;
  std::atomic<size_t> next_{0};
  std::mutex mutex_;
  std::exception_ptr failure_;
};

// What is wrong with a checkpoint; nullopt when it is good.
std::optional<std::string> find_problem(const fs::path& folder, Check check, int threads) try {
  std::error_code code;
  if (!fs::is_directory(folder, code)) return "there is no such folder";
  const fs::path manifest_path = folder / kManifestName;
  if (!fs::exists(manifest_path, code)) return fmt::format("it has no {}: it was never completed", kManifestName);
  const Manifest manifest = parse_manifest(read_text(manifest_path), manifest_path.string());
  std::vector<fs::path> paths;
  for (const Manifest::FileRecord& file : manifest.files) {
    const fs::path path = folder / file.name;
    if (!fs::is_regular_file(path, code)) return fmt::format("'{}' is missing", path.string());
    const auto size = static_cast<int64_t>(fs::file_size(path));
    if (size != file.bytes) {
      return fmt::format("'{}' has {} bytes, expected {}", path.string(), size, file.bytes);
    }
    paths.push_back(path);
  }
  if (check == Check::sizes) return {};
  const std::vector<uint32_t> crcs = ParallelChecksum(paths).run(threads);
  for (size_t i = 0; i < crcs.size(); ++i) {
    if (crcs[i] != manifest.files[i].crc32c) {
      return fmt::format("'{}' was altered: its checksum is {:08x}, expected {:08x}", paths[i].string(), crcs[i],
                         manifest.files[i].crc32c);
    }
  }
  return {};
} catch (const Error& error) {
  return error.message();
} catch (const fs::filesystem_error& error) {
  return std::string(error.what());
}

std::optional<CheckpointEntry> newest_good(const fs::path& parent, Check check, std::optional<int64_t> before,
                                           int threads) {
  std::vector<CheckpointEntry> entries = list_checkpoints(parent);
  for (auto entry = entries.rbegin(); entry != entries.rend(); ++entry) {
    if (before.has_value() && entry->step >= *before) continue;
    if (!find_problem(entry->folder, check, threads).has_value()) return *entry;
  }
  return {};
}

}  // namespace

void verify(const fs::path& folder, Check check, int threads) {
  const std::optional<std::string> problem = find_problem(folder, check, threads);
  if (!problem.has_value()) return;
  fs::path plain = folder;
  if (!plain.has_filename()) plain = plain.parent_path();  // "…/step_00000100/"
  std::string next = "Use another checkpoint.";
  std::string name = plain.filename().string();
  if (name.ends_with(".tmp")) name.resize(name.size() - 4);
  if (const std::optional<int64_t> step = step_of(name); step.has_value()) {
    const fs::path parent = plain.has_parent_path() ? plain.parent_path() : fs::path(".");
    const std::optional<CheckpointEntry> good = newest_good(parent, Check::checksums, step, threads);
    next = good.has_value() ? fmt::format(
                                  "The newest good checkpoint before it is '{}' (step {}): name that one, to train "
                                  "with --resume-from, else with --checkpoint.",
                                  good->folder.string(), good->step)
                            : fmt::format("There is no good checkpoint before it in '{}'.", parent.string());
  }
  throw Error(fmt::format("checkpoint '{}' cannot be used: {}", plain.string(), *problem), next);
}

std::vector<CheckpointEntry> list_checkpoints(const fs::path& parent) {
  std::vector<CheckpointEntry> entries;
  std::error_code code;
  for (const fs::directory_entry& entry : fs::directory_iterator(parent, code)) {
    const std::optional<int64_t> step = step_of(entry.path().filename().string());
    std::error_code ignored;
    if (step.has_value() && entry.is_directory(ignored)) entries.push_back({*step, entry.path()});
  }
  if (code && code != std::errc::no_such_file_or_directory) {
    throw system_error(fmt::format("cannot read the folder '{}'", parent.string()), code.value());
  }
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.step < b.step; });
  return entries;
}

std::optional<CheckpointEntry> latest_good(const fs::path& parent, Check check, std::optional<int64_t> before) {
  return newest_good(parent, check, before, 2);
}

std::vector<int64_t> prune(const fs::path& parent, int64_t keep_last, std::span<const int64_t> keep) {
  RL_CHECK(keep_last, >=, 1);
  std::vector<CheckpointEntry> entries = list_checkpoints(parent);
  const size_t last = std::min(entries.size(), static_cast<size_t>(keep_last));
  entries.resize(entries.size() - last);
  std::vector<int64_t> deleted;
  for (const CheckpointEntry& entry : entries) {
    if (std::find(keep.begin(), keep.end(), entry.step) != keep.end()) continue;
    fs::path trash = entry.folder;
    trash += ".trash";
    std::error_code code;
    fs::remove_all(trash, code);
    rename_durably(entry.folder, trash);
    fs::remove_all(trash, code);
    if (code) throw system_error(fmt::format("cannot remove '{}'", trash.string()), code.value());
    deleted.push_back(entry.step);
  }
  return deleted;
}

void remove_leftovers(const fs::path& parent) {
  std::error_code code;
  std::vector<fs::path> leftovers;
  for (const fs::directory_entry& entry : fs::directory_iterator(parent, code)) {
    const fs::path& path = entry.path();
    const fs::path extension = path.extension();
    if ((extension == ".tmp" || extension == ".trash") && step_of(path.stem().string()).has_value()) {
      leftovers.push_back(path);
    }
  }
  for (const fs::path& path : leftovers) {
    fs::remove_all(path, code);
    if (code) throw system_error(fmt::format("cannot remove '{}'", path.string()), code.value());
  }
}

}  // namespace ridgeline::checkpoint
