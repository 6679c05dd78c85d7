// A checkpoint is a folder `step_00000100` of safetensors files with global tensors and a `manifest.json` that names
// every file with its size and CRC-32C. Any layout of ranks reads any checkpoint by ranges.
//
// Writing is cooperative and atomic: one rank creates `step_00000100.tmp` with all files at full size, every rank
// writes its contiguous pieces in place and sums only those, one rank combines the sums, writes the manifest last and
// renames the folder. Whatever is interrupted leaves a `.tmp` folder, which no reader looks at.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ridgeline/base/dtype.h"
#include "ridgeline/base/file.h"
#include "ridgeline/checkpoint/safetensors.h"

namespace ridgeline::checkpoint {

constexpr int kManifestVersion = 1;
constexpr const char* kManifestName = "manifest.json";

// Where a checkpoint stands in its run, see lineage.h.
struct Descent {
  int64_t branch = 0;
  std::optional<int64_t> parent;  // step of the checkpoint that the run saved or went on from before; none: step 0

  bool operator==(const Descent&) const = default;
};

struct Manifest {
  struct FileRecord {
    std::string name;  // plain, without folders
    int64_t bytes = 0;
    uint32_t crc32c = 0;
  };
  int version = kManifestVersion;
  int64_t step = 0;
  std::vector<FileRecord> files;
  Descent descent;
  nlohmann::json extra;  // the run's own: consumed samples, loss scale, configuration, ...
};

// The text of manifest.json: {"crc32c": of the compact dump of "manifest", "manifest": {...}}, so that an edited
// manifest is noticed too.
std::string to_text(const Manifest& manifest);
// The reverse. Error naming `file` when the text is cut, altered, of a newer version, or names files outside its
// folder.
Manifest parse_manifest(std::string_view text, std::string_view file);

// "step_00000100".
std::string folder_name(int64_t step);

// Bytes [offset, offset + length) of file `file` of a layout, and their CRC-32C. Trivially copyable: ranks exchange
// them as bytes.
struct Piece {
  int32_t file = 0;
  uint32_t crc = 0;
  int64_t offset = 0;
  int64_t length = 0;
};
static_assert(sizeof(Piece) == 24);

// Per file of the layout the CRC-32C of the whole file, from the layout's heads and the pieces of all ranks (any
// order). Error naming file, byte and tensor when pieces leave a gap, overlap, or reach outside.
std::vector<uint32_t> combine(const FileLayout& layout, std::span<const Piece> pieces);

// One rank's hand in writing one checkpoint. Each rank (thread or process) has its own, made from equal arguments.
//   one rank:  writer.create();                    then a barrier
//   all ranks: writer.write_range(...) ...; pieces = writer.finish();     then gather the pieces
//   one rank:  writer.commit(all_pieces, extra);
// When any of them throws, one rank calls abort() after the others have stopped writing.
class CheckpointWriter {
 public:
  // Nothing is touched yet.
  CheckpointWriter(std::filesystem::path parent, int64_t step, FileLayout layout);

  const FileLayout& layout() const { return layout_; }
  std::filesystem::path temporary_folder() const;
  std::filesystem::path folder() const;

  // Makes the parent and the temporary folder (an old one of this step is removed) and every file at its full size,
  // reserved on disk, with its head. A full disk is an Error here, before a tensor is written; the folder is gone then.
  void create();

  // Elements [first, first + count) of global tensor `index` (of layout().tensors), converted to its dtype. Consecutive
  // calls that continue each other make one piece.
  void write_range(int index, int64_t first, int64_t count, ConstRef values);
  void write_range(std::string_view name, int64_t first, int64_t count, ConstRef values);

  // Syncs and closes this rank's files; the pieces it wrote. Nothing can be written afterwards.
  std::vector<Piece> finish();

  // Combines the pieces of all ranks, writes `companions` (small files beside the tensors, by name; not *.safetensors)
  // and the manifest, syncs, renames the temporary folder into place (a checkpoint of the same step is replaced in one
  // exchange, then removed). Error as combine(); returns folder().
  std::filesystem::path commit(std::span<const Piece> pieces, nlohmann::json extra, const Descent& descent = {},
                               const std::map<std::string, std::string, std::less<>>& companions = {});

  // Removes the temporary folder, if any. Never throws.
  void abort() noexcept;

 private:
  File& open(int file);

  std::filesystem::path parent_;
  int64_t step_;
  FileLayout layout_;
  std::vector<std::optional<File>> files_;
  std::vector<Piece> pieces_;
};

// A checkpoint open for reading. Opening checks the manifest, the files' sizes and their headers, not their checksums
// (see verify()). Safe to read from several threads.
class CheckpointReader {
 public:
  // `folder`: a `step_…` folder. Errors as verify().
  explicit CheckpointReader(const std::filesystem::path& folder);

  const Manifest& manifest() const { return manifest_; }
  const nlohmann::json& extra() const { return manifest_.extra; }
  int64_t step() const { return manifest_.step; }
  const TensorFolder& tensors() const { return tensors_; }

  // See TensorFolder::read_range. `expected`: the reader's idea of the global shape; another one on disk is an Error.
  void read_range(std::string_view name, const Shape& expected, int64_t first, int64_t count, Ref destination) const;

 private:
  Manifest manifest_;
  TensorFolder tensors_;
};

// Replaces what the manifest of a whole checkpoint says of its run; its tensors stay. Atomic.
void replace_extra(const std::filesystem::path& folder, nlohmann::json extra);

// ------------------------------------------------------------------------------------------- which ones are there,
// good

enum class Check {
  sizes,     // manifest, presence and sizes of the files: as good as free
  checksums  // and every byte
};

// Error when the checkpoint is not whole: what is wrong with which file (expected and found size or checksum), and as
// the next step the newest good earlier checkpoint in the same parent folder. Reads with `threads` threads.
void verify(const std::filesystem::path& folder, Check check = Check::checksums, int threads = 2);

struct CheckpointEntry {
  int64_t step = 0;
  std::filesystem::path folder;
};

// The `step_…` folders in `parent`, by ascending step, good or not; none when `parent` does not exist.
std::vector<CheckpointEntry> list_checkpoints(const std::filesystem::path& parent);

// The newest that passes `check`, of a step below `before` where given.
std::optional<CheckpointEntry> latest_good(const std::filesystem::path& parent, Check check = Check::checksums,
                                           std::optional<int64_t> before = {});

// Deletes the oldest until `keep_last` (>= 1) are left, never one of the steps in `keep` (the best by validation, the
// one just written; these do not count as one of the last unless they are). Each is renamed to `….trash` first, so that
// none is ever seen half deleted. Returns the steps deleted.
std::vector<int64_t> prune(const std::filesystem::path& parent, int64_t keep_last, std::span<const int64_t> keep = {});

// Removes `….tmp` and `….trash` folders that an interrupted run left. Only when no run writes to `parent`.
void remove_leftovers(const std::filesystem::path& parent);

}  // namespace ridgeline::checkpoint
