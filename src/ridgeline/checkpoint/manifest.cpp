#include "ridgeline/checkpoint/manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "ridgeline/base/checksum.h"
#include "ridgeline/base/error.h"
#include "ridgeline/base/json.h"

namespace ridgeline::checkpoint {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kManifestFormat = "ridgeline checkpoint";

// One spelling per value, so that the checksum survives pretty-printing.
std::string canonical(const json& value) {
  return json_text(value, -1, NotUtf8::replace);
}

std::string hex(uint32_t crc) {
  return fmt::format("{:08x}", crc);
}

bool plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos && name != kManifestName;
}

uint32_t parse_hex(const std::string& text) {
  if (text.size() != 8 || text.find_first_not_of("0123456789abcdef") != std::string::npos) {
    throw Error(fmt::format("'{}' is no checksum of eight hexadecimal digits", text.substr(0, 20)));
  }
  return static_cast<uint32_t>(std::stoul(text, nullptr, 16));
}

Manifest manifest_of(const json& document) {
  const json& body = document.at("manifest");
  if (body.at("format") != kManifestFormat) throw Error("it belongs to another program");
  Manifest manifest;
  manifest.version = body.at("version").get<int>();
  if (manifest.version > kManifestVersion || manifest.version < 1) {
    throw Error(fmt::format("its version is {}, this program knows up to {}", manifest.version, kManifestVersion));
  }
  const uint32_t expected = parse_hex(document.at("crc32c").get<std::string>());
  const uint32_t found = crc32c(bytes_of(std::string_view(canonical(body))));
  if (expected != found) {
    throw Error(fmt::format("it was altered (checksum {}, written was {})", hex(found), hex(expected)));
  }
  manifest.step = body.at("step").get<int64_t>();
  if (manifest.step < 0) throw Error(fmt::format("its step is {}", manifest.step));
  for (const json& file : body.at("files")) {
    Manifest::FileRecord record{file.at("name").get<std::string>(), file.at("bytes").get<int64_t>(),
                                parse_hex(file.at("crc32c").get<std::string>())};
    if (!plain_file_name(record.name)) throw Error("it names the file '" + record.name + "' outside its folder");
    if (record.bytes < 0) throw Error(fmt::format("its file '{}' has {} bytes", record.name, record.bytes));
    for (const Manifest::FileRecord& other : manifest.files) {
      if (other.name == record.name) throw Error(fmt::format("it names the file '{}' twice", record.name));
    }
    manifest.files.push_back(std::move(record));
  }
  manifest.descent.branch = body.value("branch", int64_t{0});
  if (const auto parent = body.find("parent"); parent != body.end() && !parent->is_null())
    manifest.descent.parent = parent->get<int64_t>();
  manifest.extra = body.at("extra");
  return manifest;
}

}  // namespace

std::string to_text(const Manifest& manifest) {
  json body;
  body["format"] = kManifestFormat;
  body["version"] = manifest.version;
  body["step"] = manifest.step;
  body["files"] = json::array();
  for (const Manifest::FileRecord& file : manifest.files) {
    body["files"].push_back({{"name", file.name}, {"bytes", file.bytes}, {"crc32c", hex(file.crc32c)}});
  }
  body["branch"] = manifest.descent.branch;
  if (manifest.descent.parent) body["parent"] = *manifest.descent.parent;
  body["extra"] = manifest.extra;
  // Numbers that JSON cannot hold become null and text that is no UTF-8 is replaced when dumped; sum what a reader
  // parses.
  body = parse_json(canonical(body));
  json document;
  document["crc32c"] = hex(crc32c(bytes_of(std::string_view(canonical(body)))));
  document["manifest"] = std::move(body);
  return json_text(document, 1) + "\n";
}

Manifest parse_manifest(std::string_view text, std::string_view file) {
  try {
    // Depth is bounded because the checksum needs the text again.
    return manifest_of(parse_shallow_json(text, 64, "it is nested too deeply"));
  } catch (const json::parse_error& error) {
    throw Error(fmt::format("'{}' is cut or no JSON (byte {} of {})", file, error.byte, text.size()));
  } catch (const json::exception& error) {
    throw Error(fmt::format("'{}' is no checkpoint manifest: {}", file, error.what()));
  } catch (const Error& error) {
    throw Error(fmt::format("'{}': {}", file, error.message()));
  }
}

void replace_extra(const fs::path& folder, json extra) {
  const fs::path path = folder / kManifestName;
  Manifest manifest = parse_manifest(read_text(path), path.string());
  manifest.extra = std::move(extra);
  write_atomically(path, to_text(manifest));
}

std::string folder_name(int64_t step) {
  return fmt::format("step_{:08}", step);
}

namespace {

// The tensor that holds byte `offset` of a file, for messages.
std::string tensor_at(const FileLayout& layout, int file, int64_t offset) {
  for (const int index : layout.files[file].tensors) {
    const FileLayout::TensorPlan& tensor = layout.tensors[index];
    const int64_t end = tensor.offset + tensor.count * size_of(tensor.spec.dtype);
    if (offset >= tensor.offset && offset < end) {
      return fmt::format("tensor '{}', element {}", tensor.spec.name,
                         (offset - tensor.offset) / size_of(tensor.spec.dtype));
    }
  }
  return offset < static_cast<int64_t>(layout.files[file].head.size()) ? "its header" : "its end";
}

}  // namespace

std::vector<uint32_t> combine(const FileLayout& layout, std::span<const Piece> pieces) {
  std::vector<Piece> sorted;
  for (const Piece& piece : pieces) {
    if (piece.length != 0) sorted.push_back(piece);
  }
  std::sort(sorted.begin(), sorted.end(), [](const Piece& a, const Piece& b) {
    return std::tie(a.file, a.offset, a.length) < std::tie(b.file, b.offset, b.length);
  });
  const auto refuse = [&](int file, int64_t offset, std::string_view what) {
    return Error(fmt::format("checkpoint file '{}': {} at byte {} ({})", layout.files[file].name, what, offset,
                             tensor_at(layout, file, offset)),
                 "The ranks did not write every byte exactly once; this checkpoint is given up.");
  };
  std::vector<uint32_t> crcs;
  auto next = sorted.begin();
  for (int file = 0; file < static_cast<int>(layout.files.size()); ++file) {
    const FileLayout::FilePlan& plan = layout.files[file];
    uint32_t crc = crc32c(bytes_of(std::string_view(plan.head)));
    auto position = static_cast<int64_t>(plan.head.size());
    for (; next != sorted.end() && next->file == file; ++next) {
      if (next->length < 0) throw refuse(file, next->offset, "a piece of negative length");
      if (next->offset > position) throw refuse(file, position, "nobody wrote");
      if (next->offset < position) throw refuse(file, next->offset, "two pieces overlap");
      if (next->length > plan.size - position) throw refuse(file, plan.size, "a piece reaches past the file");
      crc = crc32c_combine(crc, next->crc, static_cast<uint64_t>(next->length));
      position += next->length;
    }
    if (position != plan.size) throw refuse(file, position, "nobody wrote");
    crcs.push_back(crc);
  }
  if (next != sorted.end()) throw Error(fmt::format("a piece of checkpoint file {}, which does not exist", next->file));
  return crcs;
}

namespace {

TensorFolder open_tensors(const fs::path& folder, const Manifest& manifest) {
  std::vector<fs::path> files;
  for (const Manifest::FileRecord& file : manifest.files) {
    if (file.name.ends_with(".safetensors")) files.push_back(folder / file.name);
  }
  return TensorFolder::open_files(std::move(files));
}

Manifest verified_manifest(const fs::path& folder) {
  verify(folder, Check::sizes);
  const fs::path path = folder / kManifestName;
  return parse_manifest(read_text(path), path.string());
}

}  // namespace

CheckpointReader::CheckpointReader(const fs::path& folder)
    : manifest_(verified_manifest(folder)), tensors_(open_tensors(folder, manifest_)) {}

void CheckpointReader::read_range(std::string_view name, const Shape& expected, int64_t first, int64_t count,
                                  Ref destination) const {
  const TensorFolder::Place place = tensors_.at(name);
  if (place.tensor->shape != expected) {
    throw Error(fmt::format("tensor '{}' in '{}' has shape {}, this run's has {}", name, place.file->path().string(),
                            to_string(place.tensor->shape), to_string(expected)),
                "The checkpoint belongs to a model of another size; use its own configuration.");
  }
  tensors_.read_range(name, first, count, destination);
}

}  // namespace ridgeline::checkpoint
