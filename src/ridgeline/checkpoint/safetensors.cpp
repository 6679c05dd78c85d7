#include "ridgeline/checkpoint/safetensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "ridgeline/base/error.h"
#include "ridgeline/checkpoint/convert.h"

namespace ridgeline::checkpoint {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::string_view kBroken = "The file is damaged or no safetensors file; get it again or use another one.";

struct TypeRow {
  std::string_view name;
  int64_t size;
  std::optional<DType> dtype;
};
constexpr std::array<TypeRow, 17> kTypes{{{"F32", 4, DType::f32},
                                          {"BF16", 2, DType::bf16},
                                          {"F16", 2, DType::f16},
                                          {"F64", 8, DType::f64},
                                          {"U8", 1, DType::u8},
                                          {"U16", 2, DType::u16},
                                          {"I32", 4, DType::i32},
                                          {"I64", 8, DType::i64},
                                          {"BOOL", 1, {}},
                                          {"I8", 1, {}},
                                          {"I16", 2, {}},
                                          {"U32", 4, {}},
                                          {"U64", 8, {}},
                                          {"F8_E5M2", 1, {}},
                                          {"F8_E4M3", 1, {}},
                                          {"F8_E8M0", 1, {}},
                                          {"C64", 8, {}}}};

const TypeRow* type_row(std::string_view name) {
  const auto* row = std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeRow& r) { return r.name == name; });
  return row == kTypes.end() ? nullptr : row;
}

// Receives the header's JSON piece by piece and refuses whatever is not of its form at once, so that neither depth nor
// duplicate keys nor huge numbers get anywhere.
class HeaderHandler : public nlohmann::json_sax<json> {
 public:
  explicit HeaderHandler(Header& header) : header_(header) {}
  std::string problem;

  bool null() override { return refuse("null"); }
  bool boolean(bool) override { return refuse("true or false"); }
  bool number_float(double, const std::string&) override { return refuse("a number that is no 64-bit integer"); }
  bool binary(binary_t&) override { return refuse("binary"); }
  bool number_integer(int64_t value) override { return refuse(fmt::format("the number {}", value)); }

  bool number_unsigned(uint64_t value) override {
    if (state_ != State::shape && state_ != State::offsets) return refuse(fmt::format("the number {}", value));
    if (value > static_cast<uint64_t>(INT64_MAX)) return fail(fmt::format("the number {} is too large", value));
    if (state_ == State::shape) {
      tensor_.shape.push_back(static_cast<int64_t>(value));
    } else {
      if (offsets_ == 2) return fail("more than two data_offsets");
      (offsets_++ == 0 ? tensor_.begin : tensor_.end) = static_cast<int64_t>(value);
    }
    return true;
  }

  bool string(std::string& value) override {
    if (state_ == State::metadata) {
      header_.metadata[key_] = value;
    } else if (state_ == State::tensor && key_ == "dtype") {
      tensor_.type = value;
    } else {
      return refuse(fmt::format("the text '{}'", value.substr(0, 40)));
    }
    return true;
  }

  bool start_object(size_t) override {
    if (state_ == State::before) {
      state_ = State::top;
    } else if (state_ == State::top && key_ == "__metadata__") {
      state_ = State::metadata;
    } else if (state_ == State::top) {
      state_ = State::tensor;
      tensor_ = FileTensor{};
      tensor_.name = key_;
      fields_ = 0;
      offsets_ = 0;
    } else {
      return refuse("an object");
    }
    return true;
  }

  bool key(std::string& value) override {
    if (state_ == State::tensor) {
      const int bit = value == "dtype" ? 1 : value == "shape" ? 2 : value == "data_offsets" ? 4 : 0;
      key_ = value;
      if (bit == 0) return fail(fmt::format("tensor '{}' has an unknown field '{}'", tensor_.name, value));
      if ((fields_ & bit) != 0) return fail(fmt::format("tensor '{}' has '{}' twice", tensor_.name, value));
      fields_ |= bit;
      return true;
    }
    if (state_ == State::top && !names_.insert({value, 0}).second) return fail(fmt::format("'{}' stands twice", value));
    if (state_ == State::metadata && header_.metadata.contains(value)) {
      return fail(fmt::format("metadata '{}' stands twice", value));
    }
    key_ = value;
    return true;
  }

  bool end_object() override {
    if (state_ == State::tensor) {
      if (fields_ != 7 || offsets_ != 2) return fail(fmt::format("tensor '{}' is not fully described", tensor_.name));
      header_.tensors.push_back(std::move(tensor_));
      state_ = State::top;
    } else {
      state_ = state_ == State::metadata ? State::top : State::after;
    }
    return true;
  }

  bool start_array(size_t) override {
    if (state_ == State::tensor && key_ == "shape") {
      state_ = State::shape;
    } else if (state_ == State::tensor && key_ == "data_offsets") {
      state_ = State::offsets;
    } else {
      return refuse("a list");
    }
    return true;
  }
  bool end_array() override {
    state_ = State::tensor;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return fail(fmt::format("no JSON at byte {}", position + 7));  // nlohmann counts from 1
  }

 private:
  enum class State { before, top, metadata, tensor, shape, offsets, after };

  bool fail(std::string text) {
    if (problem.empty()) problem = std::move(text);
    return false;
  }
  bool refuse(std::string_view what) { return fail(fmt::format("{} where none belongs (after '{}')", what, key_)); }

  Header& header_;
  State state_ = State::before;
  std::string key_;
  FileTensor tensor_;
  int fields_ = 0, offsets_ = 0;
  std::unordered_map<std::string, int> names_;
};

[[noreturn]] void broken_safetensors(std::string_view file, std::string_view what) {
  throw Error(fmt::format("'{}' is not a sound safetensors file: {}", file, what), std::string(kBroken));
}

// Dtype, shape and length of one tensor, still with offsets as in the header.
void check_tensor(FileTensor& tensor, int64_t data_bytes, std::string_view file) {
  const TypeRow* row = type_row(tensor.type);
  if (row == nullptr) {
    throw Error(fmt::format("'{}': tensor '{}' has the dtype '{}', which is not known here", file, tensor.name,
                            tensor.type.substr(0, 40)),
                "Convert it to F32, BF16 or F16 first.");
  }
  tensor.dtype = row->dtype;
  int64_t bytes = row->size;
  tensor.count = 1;
  for (const int64_t extent : tensor.shape) {
    if (__builtin_mul_overflow(bytes, extent, &bytes)) {
      broken_safetensors(file,
                         fmt::format("tensor '{}' has the impossible shape {}", tensor.name, to_string(tensor.shape)));
    }
  }
  tensor.count = bytes / row->size;
  if (tensor.begin > tensor.end || tensor.end > data_bytes) {
    broken_safetensors(file, fmt::format("tensor '{}' lies at bytes {} to {} of {} bytes of data", tensor.name,
                                         tensor.begin, tensor.end, data_bytes));
  }
  if (tensor.end - tensor.begin != bytes) {
    broken_safetensors(file, fmt::format("tensor '{}' ({} {}) needs {} bytes but has {}", tensor.name, tensor.type,
                                         to_string(tensor.shape), bytes, tensor.end - tensor.begin));
  }
}

}  // namespace

int64_t element_count(const Shape& shape) {
  int64_t count = 1;
  for (const int64_t extent : shape) {
    RL_REQUIRE(extent >= 0 && !__builtin_mul_overflow(count, extent, &count), "impossible shape {}", to_string(shape));
  }
  return count;
}

std::string to_string(const Shape& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

std::string_view safetensors_name(DType dtype) {
  for (const TypeRow& row : kTypes) {
    if (row.dtype == dtype) return row.name;
  }
  RL_REQUIRE(false, "dtype {} has no safetensors name", name_of(dtype));
  return {};
}

std::optional<DType> dtype_of_safetensors(std::string_view name) {
  const TypeRow* row = type_row(name);
  return row == nullptr ? std::nullopt : row->dtype;
}

Header parse_header(std::span<const std::byte> start, int64_t file_size, std::string_view file) {
  if (file_size < 8 || start.size() < 8) {
    broken_safetensors(file, fmt::format("it has {} bytes, fewer than the 8 of its header's length", file_size));
  }
  uint64_t length = 0;
  std::memcpy(&length, start.data(), 8);
  if (length > static_cast<uint64_t>(kMaxHeaderBytes)) {
    broken_safetensors(file,
                       fmt::format("its header would have {} bytes (at most {} are allowed)", length, kMaxHeaderBytes));
  }
  const auto data_begin = static_cast<int64_t>(length) + 8;
  if (data_begin > file_size || static_cast<uint64_t>(data_begin) > start.size()) {
    broken_safetensors(file,
                       fmt::format("its header would have {} bytes but the file ends after {}", length, file_size - 8));
  }
  const char* text = reinterpret_cast<const char*>(start.data()) + 8;
  if (length == 0 || text[0] != '{') broken_safetensors(file, "its header does not begin with '{'");

  Header header;
  header.data_begin = data_begin;
  HeaderHandler handler(header);
  if (!json::sax_parse(text, text + length, &handler)) broken_safetensors(file, "header: " + handler.problem);

  const int64_t data_bytes = file_size - data_begin;
  for (FileTensor& tensor : header.tensors) check_tensor(tensor, data_bytes, file);
  std::stable_sort(header.tensors.begin(), header.tensors.end(), [](const FileTensor& a, const FileTensor& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  int64_t position = 0;
  for (FileTensor& tensor : header.tensors) {
    if (tensor.begin != position) {
      broken_safetensors(
          file, fmt::format("tensor '{}' begins at byte {} of the data, {} byte {}", tensor.name, tensor.begin,
                            tensor.begin < position ? "inside another that ends at" : "after a hole from", position));
    }
    position = tensor.end;
    tensor.begin += data_begin;
    tensor.end += data_begin;
  }
  if (position != data_bytes) {
    broken_safetensors(
        file, fmt::format("its tensors end at byte {} of the data, the file at byte {}", position, data_bytes));
  }
  return header;
}

SafetensorsFile::SafetensorsFile(const fs::path& path)
    : file_(path, MappedFile::Access::sequential),
      header_(parse_header(file_.bytes(), static_cast<int64_t>(file_.bytes().size()), path.string())) {
  by_name_.reserve(header_.tensors.size());
  for (const FileTensor& tensor : header_.tensors) by_name_.emplace(tensor.name, &tensor);
}

const FileTensor* SafetensorsFile::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : found->second;
}

std::span<const std::byte> SafetensorsFile::bytes(const FileTensor& tensor) const {
  return file_.bytes().subspan(static_cast<size_t>(tensor.begin), static_cast<size_t>(tensor.end - tensor.begin));
}

TensorFolder TensorFolder::open_file(const fs::path& file) {
  return open_files({file});
}

TensorFolder TensorFolder::open_files(std::vector<fs::path> files) {
  TensorFolder result;
  for (const fs::path& path : files) {
    result.files_.push_back(std::make_unique<SafetensorsFile>(path));
    const SafetensorsFile* file = result.files_.back().get();
    for (const FileTensor& tensor : file->tensors()) {
      const auto [other, inserted] = result.by_name_.emplace(tensor.name, result.places_.size());
      if (!inserted) {
        throw Error(fmt::format("tensor '{}' stands both in '{}' and in '{}'", tensor.name,
                                result.places_[other->second].file->path().string(), path.string()),
                    std::string(kBroken));
      }
      result.places_.push_back({file, &tensor});
    }
  }
  if (files.size() == 1) {
    result.where_ = files.front().string();
  } else if (!files.empty()) {
    result.where_ = files.front().parent_path().string();
  }
  return result;
}

TensorFolder::Place TensorFolder::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? Place{} : places_[found->second];
}

TensorFolder::Place TensorFolder::at(std::string_view name) const {
  const Place place = find(name);
  if (place.file != nullptr) return place;
  std::vector<std::string> names;
  for (const Place& other : places_) names.push_back(other.tensor->name);
  const std::string near = nearest(name, names);
  throw Error(fmt::format("'{}' has no tensor '{}'", where_, name),
              near.empty() ? fmt::format("It holds {} tensors of other names.", names.size())
                           : fmt::format("It has '{}'.", near));
}

void TensorFolder::read_range(std::string_view name, int64_t first, int64_t count, Ref destination) const {
  const Place place = at(name);
  const FileTensor& tensor = *place.tensor;
  if (first < 0 || count < 0 || first > tensor.count || count > tensor.count - first) {
    throw Error(fmt::format("{} elements from {} on of tensor '{}' {} in '{}' were asked for", count, first, name,
                            to_string(tensor.shape), place.file->path().string()),
                "The file belongs to a model of another size.");
  }
  if (!tensor.dtype.has_value() || !convertible(*tensor.dtype, destination.dtype)) {
    throw Error(fmt::format("tensor '{}' in '{}' is {}, which cannot be read as {}", name, place.file->path().string(),
                            tensor.type, name_of(destination.dtype)),
                "Convert it to F32, BF16 or F16 first.");
  }
  const std::byte* data = place.file->bytes(tensor).data() + first * size_of(*tensor.dtype);
  convert(ConstRef(data, *tensor.dtype), destination, count);
}

}  // namespace ridgeline::checkpoint
