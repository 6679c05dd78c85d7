#include <fcntl.h>
#include <fmt/format.h>

#include <cerrno>
#include <cstdio>

#include "ridgeline/base/checksum.h"
#include "ridgeline/base/error.h"
#include "ridgeline/checkpoint/manifest.h"

namespace ridgeline::checkpoint {
namespace {

namespace fs = std::filesystem;

void remove_or_throw(const fs::path& folder) {
  std::error_code code;
  fs::remove_all(folder, code);
  if (code) throw system_error(fmt::format("cannot remove '{}'", folder.string()), code.value());
}

// `from` takes the name `to`. An old `to` is exchanged with it, so that at any moment the name stands for a whole
// checkpoint, and then removed.
void replace_folder(const fs::path& from, const fs::path& to) {
  if (!fs::exists(to)) return rename_durably(from, to);
  fs::path trash = to;
  trash += ".trash";
  remove_or_throw(trash);
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0) {
    rename_durably(from, trash);  // `from` is the old one now
  } else if (errno == EINVAL || errno == ENOSYS) {
    // A file system without exchange (NFS): for a moment there is no folder of this name; the older ones stand.
    rename_durably(to, trash);
    rename_durably(from, to);
  } else {
    throw system_error(fmt::format("cannot rename into place '{}'", to.string()), errno);
  }
  remove_or_throw(trash);
}

}  // namespace

CheckpointWriter::CheckpointWriter(fs::path parent, int64_t step, FileLayout layout)
    : parent_(std::move(parent)), step_(step), layout_(std::move(layout)), files_(layout_.files.size()) {}

fs::path CheckpointWriter::folder() const {
  return parent_ / folder_name(step_);
}

fs::path CheckpointWriter::temporary_folder() const {
  fs::path path = folder();
  path += ".tmp";
  return path;
}

void CheckpointWriter::create() {
  const fs::path temporary = temporary_folder();
  make_folder(parent_);
  remove_or_throw(temporary);
  try {
    make_folder(temporary);
    for (const FileLayout::FilePlan& plan : layout_.files) {
      File file(temporary / plan.name, File::Mode::create);
      file.reserve(plan.size);
      file.write_at(0, bytes_of(std::string_view(plan.head)));
      file.sync();
      file.close();
    }
  } catch (...) {
    abort();
    throw;
  }
}

File& CheckpointWriter::open(int file) {
  if (!files_[file].has_value()) {
    files_[file].emplace(temporary_folder() / layout_.files[file].name, File::Mode::update);
  }
  return *files_[file];
}

void CheckpointWriter::write_range(int index, int64_t first, int64_t count, ConstRef values) {
  if (count == 0) return;
  RL_REQUIRE(index >= 0 && index < static_cast<int>(layout_.tensors.size()), "no tensor {}", index);
  const FileLayout::TensorPlan& tensor = layout_.tensors[index];
  const int64_t size = size_of(tensor.spec.dtype);
  Piece piece{tensor.file, 0, tensor.offset + first * size, count * size};
  piece.crc = checkpoint::write_range(layout_, open(tensor.file), index, first, count, values);
  if (!pieces_.empty() && pieces_.back().file == piece.file &&
      pieces_.back().offset + pieces_.back().length == piece.offset) {
    Piece& last = pieces_.back();
    last.crc = crc32c_combine(last.crc, piece.crc, static_cast<uint64_t>(piece.length));
    last.length += piece.length;
  } else {
    pieces_.push_back(piece);
  }
}

void CheckpointWriter::write_range(std::string_view name, int64_t first, int64_t count, ConstRef values) {
  const int index = layout_.find(name);
  RL_REQUIRE(index >= 0, "the checkpoint has no tensor '{}'", name);
  write_range(index, first, count, values);
}

std::vector<Piece> CheckpointWriter::finish() {
  for (std::optional<File>& file : files_) {
    if (!file.has_value()) continue;
    file->sync();
    file->close();
    file.reset();
  }
  return std::move(pieces_);
}

fs::path CheckpointWriter::commit(std::span<const Piece> pieces, nlohmann::json extra, const Descent& descent,
                                  const std::map<std::string, std::string, std::less<>>& companions) {
  const std::vector<uint32_t> crcs = combine(layout_, pieces);
  Manifest manifest;
  manifest.step = step_;
  manifest.descent = descent;
  manifest.extra = std::move(extra);
  for (size_t i = 0; i < crcs.size(); ++i) {
    manifest.files.push_back({layout_.files[i].name, layout_.files[i].size, crcs[i]});
  }
  const fs::path temporary = temporary_folder();
  for (const auto& [name, bytes] : companions) {
    RL_REQUIRE(!name.ends_with(".safetensors") && name != kManifestName, "a companion named '{}'", name);
    write_atomically(temporary / name, bytes);
    manifest.files.push_back({name, static_cast<int64_t>(bytes.size()), crc32c(bytes_of(std::string_view(bytes)))});
  }
  write_atomically(temporary / kManifestName, to_text(manifest));
  replace_folder(temporary, folder());
  return folder();
}

void CheckpointWriter::abort() noexcept {
  for (std::optional<File>& file : files_) file.reset();
  std::error_code ignored;
  fs::remove_all(temporary_folder(), ignored);
}

}  // namespace ridgeline::checkpoint
