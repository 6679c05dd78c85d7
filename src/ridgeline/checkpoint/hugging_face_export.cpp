#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <set>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/base/json.h"
#include "ridgeline/base/output.h"
#include "ridgeline/base/temporary_file.h"
#include "ridgeline/checkpoint/convert.h"
#include "ridgeline/checkpoint/hugging_face.h"
#include "ridgeline/checkpoint/manifest.h"
#include "ridgeline/checkpoint/strided_copy.h"

namespace ridgeline::checkpoint {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int64_t kBand = 1 << 18;  // elements asked from the source at once

// A place in one of ours from which a part of theirs comes.
struct Part {
  const Mapping* mapping;
  int block;
  int64_t first, count;  // elements of ours
};

struct TheirTensor {
  TensorSpec spec;
  std::vector<Part> parts;
};

// Their tensors in the order in which the table names them first; each must be made up exactly.
std::vector<TheirTensor> their_tensors(const NameTable& table, DType dtype) {
  std::vector<TheirTensor> tensors;
  std::map<std::string_view, size_t> by_name;
  for (const Mapping& mapping : table.tensors) {
    int64_t first = 0;
    for (size_t i = 0; i < mapping.blocks.size(); ++i) {
      const Block& block = mapping.blocks[i];
      const auto [place, inserted] = by_name.emplace(block.name, tensors.size());
      if (inserted) tensors.push_back({{block.name, dtype, block.shape}, {}});
      TheirTensor& tensor = tensors[place->second];
      RL_REQUIRE(tensor.spec.shape == block.shape, "'{}' has two shapes in the table", block.name);
      tensor.parts.push_back({&mapping, static_cast<int>(i), first, block.count()});
      first += tensor.parts.back().count;
    }
  }
  for (const TheirTensor& tensor : tensors) {
    int64_t count = 0;
    for (const Part& part : tensor.parts) count += part.count;
    RL_REQUIRE(count == element_count(tensor.spec.shape), "the table gives {} elements of '{}' {}", count,
               tensor.spec.name, to_string(tensor.spec.shape));
  }
  return tensors;
}

// The whole of their tensor into `buffer`.
void assemble(const TheirTensor& tensor, const TensorSource& source, std::vector<std::byte>& buffer,
              std::vector<std::byte>& band) {
  const DType dtype = tensor.spec.dtype;
  const int64_t size = size_of(dtype);
  buffer.resize(static_cast<size_t>(element_count(tensor.spec.shape) * size));
  band.resize(static_cast<size_t>(kBand * size));
  for (const Part& part : tensor.parts) {
    for (int64_t done = 0; done < part.count;) {
      const int64_t count = std::min(kBand, part.count - done);
      const int64_t first = part.first + done;
      source(part.mapping->name, first, count, Ref(band.data(), dtype));
      for (const StridedRead& read : strided_reads(*part.mapping, first, count)) {
        RL_CHECK(read.block, ==, part.block);
        scatter(read, band.data() + (read.ours - first) * size, buffer.data(), size);
      }
      done += count;
    }
  }
}

json generation_config(const ExportOptions& options) {
  if (!options.generation_config.is_null()) return options.generation_config;
  json result = {{"_from_model_config", true}};
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"}) {
    const auto found = options.config.find(key);
    if (found != options.config.end() && !found->is_null()) result[key] = *found;
  }
  return result;
}

// Weight files that a reader might take for this model's: kHuggingFaceWeights, "model-…-of-….safetensors", the index.
std::vector<fs::path> weight_files(const fs::path& folder) {
  std::vector<fs::path> paths;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    const bool part =
        name.starts_with("model-") && name.ends_with(".safetensors") && name.find("-of-") != std::string::npos;
    if (part || name == kHuggingFaceWeights || name == kHuggingFaceIndex) paths.push_back(entry.path());
  }
  return paths;
}

// Whole files, in the order of layout.files, that only need their names.
std::vector<TemporaryFile> write_weights(const fs::path& folder, const FileLayout& layout,
                                         const std::vector<TheirTensor>& tensors, const TensorSource& source,
                                         const ExportProgress& progress) {
  std::vector<TemporaryFile> written;
  const int64_t total = layout.data_bytes();
  int64_t done = 0;
  std::vector<std::byte> buffer, band;
  for (const FileLayout::FilePlan& plan : layout.files) {
    File& file = written.emplace_back(folder / plan.name).file();
    file.reserve(plan.size);
    file.write_at(0, bytes_of(std::string_view(plan.head)));
    for (const int index : plan.tensors) {
      const int64_t count = layout.tensors[index].count;
      assemble(tensors[index], source, buffer, band);
      write_range(layout, file, index, 0, count, ConstRef(buffer.data(), layout.tensors[index].spec.dtype));
      done += static_cast<int64_t>(buffer.size());
      if (progress) progress(done, total);
    }
    file.sync();
  }
  return written;
}

constexpr const char* kMarkKey = "written_by";
constexpr const char* kMark = "ridgeline";

bool is_own_config(std::string_view start) {
  const json config = parse_json_if_any(start);
  return config.is_object() && config.value(kMarkKey, json()) == kMark;
}

// The head of a safetensors file, in which write_weights puts the metadata first.
bool is_own_weights(std::string_view start) {
  return start.substr(0, 512).find(fmt::format("\"{}\":\"{}\"", kMarkKey, kMark)) != std::string_view::npos;
}

}  // namespace

bool is_own_export(const fs::path& folder) {
  const fs::path config = folder / "config.json";
  if (fs::exists(config)) return is_own_config(start_of(config));
  // An export that was interrupted between its weights and its configuration.
  if (!fs::is_directory(folder)) return false;
  const std::vector<fs::path> weights = weight_files(folder);
  return !weights.empty() && std::all_of(weights.begin(), weights.end(), [](const fs::path& path) {
    return path.filename() == kHuggingFaceIndex || is_own_weights(start_of(path));
  });
}

void require_replaceable_export(const fs::path& folder, std::span<const fs::path> inputs) {
  const std::string option = fmt::format("--out {}", folder.string());
  for (const fs::path& input : inputs) {
    if (same_file(folder, input)) {
      throw Error(fmt::format("{}: this is the folder of the model that is exported", option),
                  "Choose another folder: an input is never overwritten.");
    }
  }
  if (!fs::is_directory(folder)) return;
  if (fs::exists(folder / kManifestName))
    throw Error(fmt::format("{}: this is a checkpoint", option), "Choose another folder for the export.");
  const bool own = is_own_export(folder);
  for (const char* name : {"config.json", "generation_config.json", kHuggingFaceIndex})
    require_replaceable(folder / name, option, inputs, [&](std::string_view) { return own; });
  for (const fs::path& path : weight_files(folder)) {
    if (path.filename() != kHuggingFaceIndex) require_replaceable(path, option, inputs, is_own_weights);
  }
}

void export_hugging_face(const fs::path& folder, const NameTable& table, const TensorSource& source,
                         const ExportOptions& options, const ExportProgress& progress) {
  RL_REQUIRE(convertible(DType::f32, options.dtype), "export as {}", name_of(options.dtype));
  const std::vector<TheirTensor> tensors = their_tensors(table, options.dtype);
  std::vector<TensorSpec> specs;
  for (const TheirTensor& tensor : tensors) specs.push_back(tensor.spec);
  LayoutOptions layout_options;
  layout_options.max_file_bytes = options.max_file_bytes;
  layout_options.metadata = {{"format", "pt"}, {kMarkKey, kMark}};
  const FileLayout layout = plan_layout(std::move(specs), layout_options);

  make_folder(folder);
  std::vector<TemporaryFile> written = write_weights(folder, layout, tensors, source, progress);
  // From here on an earlier export is replaced; its index goes first, so that it never points at other files.
  std::error_code ignored;
  fs::remove(folder / kHuggingFaceIndex, ignored);
  for (const fs::path& old : weight_files(folder)) fs::remove(old, ignored);
  for (TemporaryFile& file : written) file.place();
  if (layout.files.size() > 1) write_atomically(folder / kHuggingFaceIndex, index_json(layout));
  json config = options.config;
  config[kMarkKey] = kMark;
  write_atomically(folder / "config.json", json_text(config, 2) + "\n");
  write_atomically(folder / "generation_config.json", json_text(generation_config(options), 2) + "\n");
}

}  // namespace ridgeline::checkpoint
