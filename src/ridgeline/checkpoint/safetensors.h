// The safetensors file format: reading anyone's files without trusting a byte of them, and laying out our own so that
// many ranks can write them by ranges.
//
// Format (huggingface/safetensors, README): u64 little-endian N; N bytes of JSON {name: {"dtype", "shape",
// "data_offsets": [begin, end)}} with offsets counted from byte 8 + N, plus an optional "__metadata__" of strings; then
// the data, row-major, packed, little-endian. Sorted by offset the tensors follow each other without holes or overlap
// and end where the file ends.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "ridgeline/base/dtype.h"
#include "ridgeline/base/file.h"

namespace ridgeline::checkpoint {

using Shape = std::vector<int64_t>;

// Product of the extents; 1 for a scalar (empty shape). Extents must be >= 0 and the product must fit (checked).
int64_t element_count(const Shape& shape);

// "[3, 12, 64, 768]".
std::string to_string(const Shape& shape);

// ---------------------------------------------------------------------------------------------------------- reading

// One tensor as a file's header describes it; all numbers have been checked against the file.
struct FileTensor {
  std::string name;
  std::string type;            // as written: "F32", "BF16", "F16", "I64", "BOOL", "F8_E4M3", ...
  std::optional<DType> dtype;  // ours, where there is one; only such tensors can be read
  Shape shape;
  int64_t count = 0;  // elements
  int64_t begin = 0;  // bytes from the start of the file
  int64_t end = 0;
};

struct Header {
  std::vector<FileTensor> tensors;  // by ascending offset
  std::map<std::string, std::string> metadata;
  int64_t data_begin = 0;
};

// Largest header accepted (the reference implementation's limit).
constexpr int64_t kMaxHeaderBytes = 100'000'000;

// Parses and checks a header. `start`: the first bytes of the file, at least 8 + N of them where the file has so many;
// `file_size`: of the whole file. Error naming `file` for: a file shorter than its header says, N past kMaxHeaderBytes,
// JSON that is none or of another form, duplicate names, unknown dtypes, negative or overflowing extents, ranges that
// overlap, leave holes, disagree with dtype and shape, or do not end with the file.
Header parse_header(std::span<const std::byte> start, int64_t file_size, std::string_view file);

// An open safetensors file, mapped. Safe to read from several threads.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_.path(); }
  const std::vector<FileTensor>& tensors() const { return header_.tensors; }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  // nullptr when there is no such tensor.
  const FileTensor* find(std::string_view name) const;
  // The tensor's bytes; not aligned in files that others wrote.
  std::span<const std::byte> bytes(const FileTensor& tensor) const;

 private:
  MappedFile file_;
  Header header_;
  std::unordered_map<std::string_view, const FileTensor*> by_name_;
};

// Tensors by name over one file or several that belong together.
class TensorFolder {
 public:
  // A single safetensors file.
  static TensorFolder open_file(const std::filesystem::path& file);
  // The given files; a name that stands in two of them is an Error.
  static TensorFolder open_files(std::vector<std::filesystem::path> files);
  // A Hugging Face folder: `model.safetensors` alone, or else `model.safetensors.index.json` and the files it names
  // (each tensor must lie in the file that the index says). Where both are there the single file is read, as
  // transformers does, and notes() says so when the index names other files. Error when the folder has neither; it
  // names what the folder holds instead and how to convert that.
  static TensorFolder open_hugging_face(const std::filesystem::path& folder);

  struct Place {
    const SafetensorsFile* file = nullptr;
    const FileTensor* tensor = nullptr;
  };
  // In the order of files and offsets.
  const std::vector<Place>& tensors() const { return places_; }
  // {nullptr, nullptr} when there is no such tensor.
  Place find(std::string_view name) const;
  // Error with the nearest name when there is no such tensor.
  Place at(std::string_view name) const;
  // The file or folder, for messages.
  const std::string& where() const { return where_; }
  // What whoever opened the folder should be told, a sentence each; usually none.
  const std::vector<std::string>& notes() const { return notes_; }

  // Elements [first, first + count) in row-major order into `destination` (count elements), converted from the file's
  // dtype to the destination's (see convert.h: between f32, bf16, f16, f64; other dtypes only to themselves).
  void read_range(std::string_view name, int64_t first, int64_t count, Ref destination) const;

 private:
  std::string where_;
  std::vector<std::string> notes_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::vector<Place> places_;
  std::unordered_map<std::string_view, size_t> by_name_;
};

// ---------------------------------------------------------------------------------------------------------- writing

// A tensor to be written: global shape, whoever holds which part.
struct TensorSpec {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
};

struct LayoutOptions {
  std::string stem = "model";                   // one file: "model.safetensors"; n: "model-00001-of-0000n.safetensors"
  int64_t max_file_bytes = 4'000'000'000;       // of tensor data; a larger tensor stands alone in its file
  int64_t header_alignment = 64;                // the data begins at a multiple of this: a multiple of 8
  std::map<std::string, std::string> metadata;  // every file's "__metadata__"; omitted when empty
};

// Where every byte of a set of files will stand, before any exists. A pure function of its arguments: every rank
// computes the same.
struct FileLayout {
  struct FilePlan {
    std::string name;
    std::string head;          // the first bytes of the file: length, JSON, padding
    int64_t size = 0;          // head and data
    std::vector<int> tensors;  // indices into `tensors`, by ascending offset
  };
  struct TensorPlan {
    TensorSpec spec;
    int64_t count = 0;
    int file = 0;
    int64_t offset = 0;  // bytes from the start of the file; a multiple of the element size
  };
  std::vector<FilePlan> files;
  std::vector<TensorPlan> tensors;  // as given

  // Index into `tensors`; -1 when there is none of this name.
  int find(std::string_view name) const;
  // Bytes of tensor data over all files (the "total_size" of an index).
  int64_t data_bytes() const;

  std::unordered_map<std::string, int> by_name;
};

// Tensors go into files in the order given, wider dtypes first within a file (so that each is aligned to its element
// size without holes). Duplicate and empty names and "__metadata__" are broken invariants.
FileLayout plan_layout(std::vector<TensorSpec> tensors, const LayoutOptions& options = {});

// model.safetensors.index.json for a layout: {"metadata": {"total_size"}, "weight_map": {tensor: file}}.
std::string index_json(const FileLayout& layout);

// Writes `count` elements of tensor `index`, from global element `first` on, at their place by pwrite; converts when
// `values.dtype` is not the tensor's. Returns the CRC-32C of the bytes as written. `file` is the open file
// `layout.tensors[index].file`. A range outside the tensor is a broken invariant.
uint32_t write_range(const FileLayout& layout, File& file, int index, int64_t first, int64_t count, ConstRef values);

// safetensors' name of a dtype ("F32") and back; nullopt for types that are not ours.
std::string_view safetensors_name(DType dtype);
std::optional<DType> dtype_of_safetensors(std::string_view name);

}  // namespace ridgeline::checkpoint
