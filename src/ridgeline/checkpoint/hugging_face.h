// Models as Hugging Face stores them, by a name table: which of their tensors, seen through which axes, make up which
// of ours. Knows no family: the table is the caller's (model/…), a few lines per family.
//
// Each of our tensors is the concatenation, along its first axis, of blocks; each block is one of their tensors, viewed
// as `view`, optionally narrowed to a slice of one view axis, its axes permuted. So one table serves both directions:
//   same order         ours [V][C]         theirs [V, C]        view [V, C]
//   transpose          ours [3][H][D][C]   theirs [C, 3HD]      view [C, 3HD]     axes {1, 0}
//   q, k, v apart      ours [3][H][D][C]   theirs 3 x [HD, C]   three blocks
//   per-head q, k, v   ours [3][H][D][C]   theirs [3HD, C]      view [H, 3, D, C] axes {1, 0, 2, 3}
//   fused to parts     ours [KV][D][C]     theirs [.., C]       slice of view axis 0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ridgeline/base/dtype.h"
#include "ridgeline/checkpoint/safetensors.h"

namespace ridgeline::checkpoint {

// The files of a folder: all weights in one, or an index of which file holds which.
constexpr const char* kHuggingFaceWeights = "model.safetensors";
constexpr const char* kHuggingFaceIndex = "model.safetensors.index.json";

// One of their tensors as a block of one of ours.
struct Block {
  std::string name;    // in full, as written on export: "transformer.h.0.attn.c_attn.weight"
  Shape shape;         // theirs; checked on import
  Shape view = {};     // reshaped to this first; empty: shape
  int slice_axis = 0;  // of the view; only [slice_begin, slice_end) belongs to the block
  int64_t slice_begin = 0;
  int64_t slice_end = -1;      // -1: to the end
  std::vector<int> axes = {};  // axis i of the block is view axis axes[i]; empty: as they are

  int64_t count() const;  // elements of the block
};

struct Mapping {
  std::string name;  // ours
  Shape shape;       // ours, global
  std::vector<Block> blocks;
};

struct NameTable {
  std::vector<Mapping> tensors;
  // Names in files match with or without it ("transformer.").
  std::string optional_prefix;
  // Names in files that mean nothing to us, `*` standing for any text ("h.*.attn.bias"); matched without the prefix.
  std::vector<std::string> ignored;
  // Other names in files: {theirs in that file, theirs in this table}; matched without the prefix.
  std::vector<std::pair<std::string, std::string>> aliases;
  // Two names for one tensor: {theirs in this table, the other one}. Either serves alone; both must hold equal numbers.
  std::vector<std::pair<std::string, std::string>> shared;
};

// -------------------------------------------------------------------------------- tables from a few lines per family

// How their tensor's shape follows from ours.
enum class Form {
  vector,      // [n]: biases, norms
  matrix,      // [all leading axes, last axis]
  transposed,  // [last axis, all leading axes]: GPT-2's Conv1D against our [out][in], or Linear against our [in][out]
  per_head_vector,  // ours [n][H][D] against their [H n D]
  per_head_matrix   // ours [n][H][D][C] against their [H n D, C]: GPT-NeoX's query_key_value
};

// One line of a family's table. `{i}` stands for the layer number in both. With several names of theirs, our first axis
// is cut into as many equal blocks (q, k, v; gate, up).
struct Rule {
  std::string ours;
  std::vector<std::string> theirs;
  Form form = Form::matrix;
};

// Applies to each of our tensors the rule that matches its name; a tensor without a rule is a broken invariant.
std::vector<Mapping> expand(std::span<const Rule> rules, std::span<const TensorSpec> ours);

// ------------------------------------------------------------------------------------------------------------ ranges

// A grid of elements: row r, column c of it is element `start + r * row_stride + c * column_stride` of their tensor and
// element `ours + r * columns + c` of ours.
struct StridedRead {
  int block = 0;  // index into Mapping::blocks
  int64_t ours = 0;
  int64_t start = 0;
  int64_t rows = 0, columns = 0;
  int64_t row_stride = 0, column_stride = 0;
};

// The reads that make up elements [first, first + count) of our tensor, in our order, without overlap. Pure.
std::vector<StridedRead> strided_reads(const Mapping& mapping, int64_t first, int64_t count);

// ------------------------------------------------------------------------------------------------------------ import

// The files of a Hugging Face folder, or a single safetensors file.
TensorFolder open_weights(const std::filesystem::path& folder_or_file);

// The first pair of `table.shared` of which both are stored and do not hold equal numbers (in shape or in value,
// whatever their dtypes), by their names in the file; nothing when all agree. Reads both in bands, up to the first
// difference.
std::optional<std::pair<std::string, std::string>> differing_pair(const TensorFolder& files, const NameTable& table);

// A Hugging Face model folder (or a single safetensors file), checked against a table when opened: Error that lists
// every missing tensor, every unknown one, every shape or dtype that differs, and shared tensors that differ. Safe to
// read from several threads.
class HuggingFaceModel {
 public:
  HuggingFaceModel(const std::filesystem::path& folder_or_file, NameTable table);
  HuggingFaceModel(TensorFolder files, NameTable table);

  // Elements [first, first + count) of our tensor `name` (which must be in the table), converted to the destination's
  // dtype. Touches only the parts of the file that it needs.
  void read_range(std::string_view name, int64_t first, int64_t count, Ref destination) const;

  const NameTable& table() const { return table_; }
  const TensorFolder& files() const { return files_; }

 private:
  struct Source {
    const Mapping* mapping = nullptr;
    std::vector<TensorFolder::Place> blocks;
  };
  NameTable table_;
  TensorFolder files_;
  std::unordered_map<std::string_view, Source> by_name_;
};

// config.json of a model folder. Error when missing or no JSON object.
nlohmann::json read_config(const std::filesystem::path& folder);

// ------------------------------------------------------------------------------------------------------------ export

struct ExportOptions {
  DType dtype = DType::f32;                // of every tensor written
  int64_t max_file_bytes = 5'000'000'000;  // past it: several files and model.safetensors.index.json
  nlohmann::json config;                   // written as config.json
  // Written as generation_config.json; null: made from the *_token_id keys of `config`.
  nlohmann::json generation_config;
};

// Delivers elements [first, first + count) of our tensor `name` into `destination` (any float dtype).
using TensorSource = std::function<void(std::string_view name, int64_t first, int64_t count, Ref destination)>;
// Told after each of their tensors: bytes done, bytes in all. May be empty.
using ExportProgress = std::function<void(int64_t done, int64_t total)>;

// Whether `folder` is an export of Ridgeline's: its config.json says so ("written_by").
bool is_own_export(const std::filesystem::path& folder);

// Error unless a model can be exported into `folder` without loss: of the files that an export writes or removes there
// is none yet, or Ridgeline wrote it; and `folder` is none of `inputs` (the folders of the model).
void require_replaceable_export(const std::filesystem::path& folder, std::span<const std::filesystem::path> inputs);

// Writes the folder: weights tensor by tensor (memory: one tensor of theirs), then configurations. Each file
// appears under its name only when complete; weight files of an earlier export with other names are removed.
void export_hugging_face(const std::filesystem::path& folder, const NameTable& table, const TensorSource& source,
                         const ExportOptions& options, const ExportProgress& progress = {});

}  // namespace ridgeline::checkpoint
