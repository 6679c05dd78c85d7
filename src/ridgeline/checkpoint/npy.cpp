#include "ridgeline/checkpoint/npy.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cstring>
#include <optional>

#include "ridgeline/base/file.h"

namespace ridgeline::checkpoint {
namespace {

[[noreturn]] void broken_npy(std::string_view file, std::string_view what) {
  throw Error(fmt::format("'{}' is no .npy array that can be read here: {}", file, what),
              "Save it with numpy.save as a little-endian array in C order.");
}

std::optional<DType> dtype_of_descr(std::string_view descr) {
  constexpr std::array<std::pair<std::string_view, DType>, 9> kTable{{{"<f4", DType::f32},
                                                                      {"<f8", DType::f64},
                                                                      {"<f2", DType::f16},
                                                                      {"<i4", DType::i32},
                                                                      {"<i8", DType::i64},
                                                                      {"<u2", DType::u16},
                                                                      {"|u1", DType::u8},
                                                                      {"<u1", DType::u8},
                                                                      {"=u1", DType::u8}}};
  for (const auto& [name, dtype] : kTable) {
    if (name == descr) return dtype;
  }
  return {};
}

// The header is a Python dictionary literal with three keys; this reads just that.
class DictionaryReader {
 public:
  DictionaryReader(std::string_view text, std::string_view file) : rest_(text), file_(file) {}

  NpyHeader read() {
    NpyHeader header;
    bool descr = false, order = false, shape = false;
    expect('{');
    while (!accept('}')) {
      const std::string_view key = quoted();
      expect(':');
      if (key == "descr" && !descr) {
        const std::string_view text = quoted();
        const std::optional<DType> dtype = dtype_of_descr(text);
        if (!dtype.has_value()) broken_npy(file_, fmt::format("its type is '{}'", text.substr(0, 20)));
        header.dtype = *dtype;
        descr = true;
      } else if (key == "fortran_order" && !order) {
        if (!accept_word("False")) broken_npy(file_, "it is in Fortran order");
        order = true;
      } else if (key == "shape" && !shape) {
        header.shape = tuple();
        shape = true;
      } else {
        broken_npy(file_, fmt::format("an unknown or repeated key '{}'", key.substr(0, 20)));
      }
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skip();
    if (!rest_.empty()) broken_npy(file_, "text after its header");
    if (!descr || !order || !shape) broken_npy(file_, "its header is incomplete");
    return header;
  }

 private:
  void skip() {
    while (!rest_.empty() && (rest_.front() == ' ' || rest_.front() == '\n' || rest_.front() == '\t')) {
      rest_.remove_prefix(1);
    }
  }
  bool accept(char c) {
    skip();
    if (rest_.empty() || rest_.front() != c) return false;
    rest_.remove_prefix(1);
    return true;
  }
  bool accept_word(std::string_view word) {
    skip();
    if (!rest_.starts_with(word)) return false;
    rest_.remove_prefix(word.size());
    return true;
  }
  void expect(char c) {
    if (!accept(c)) broken_npy(file_, fmt::format("its header lacks a '{}'", c));
  }
  std::string_view quoted() {
    skip();
    const char quote = rest_.empty() ? '\0' : rest_.front();
    if (quote != '\'' && quote != '"') broken_npy(file_, "its header lacks a quoted word");
    const size_t end = rest_.find(quote, 1);
    if (end == std::string_view::npos) broken_npy(file_, "its header has an open quote");
    const std::string_view text = rest_.substr(1, end - 1);
    rest_.remove_prefix(end + 1);
    return text;
  }
  Shape tuple() {
    Shape shape;
    expect('(');
    while (!accept(')')) {
      skip();
      int64_t extent = 0;
      const auto [end, code] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), extent);
      if (code != std::errc{} || extent < 0) broken_npy(file_, "its shape is no list of sizes");
      rest_.remove_prefix(static_cast<size_t>(end - rest_.data()));
      shape.push_back(extent);
      if (!accept(',')) {
        expect(')');
        break;
      }
    }
    return shape;
  }

  std::string_view rest_, file_;
};

}  // namespace

NpyHeader parse_npy_header(std::span<const std::byte> bytes, std::string_view file) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  constexpr std::string_view kMagic = "\x93NUMPY";
  if (!text.starts_with(kMagic) || text.size() < 10) broken_npy(file, "it does not begin with NumPy's mark");
  const int version = static_cast<unsigned char>(text[6]);
  if (version < 1 || version > 3) broken_npy(file, fmt::format("its format version is {}", version));
  size_t length = 0, begin = 10;
  if (version == 1) {
    uint16_t value = 0;
    std::memcpy(&value, text.data() + 8, 2);
    length = value;
  } else {
    if (text.size() < 12) broken_npy(file, "it ends inside its header");
    uint32_t value = 0;
    std::memcpy(&value, text.data() + 8, 4);
    length = value;
    begin = 12;
  }
  if (length > text.size() - begin) broken_npy(file, "it ends inside its header");
  NpyHeader header = DictionaryReader(text.substr(begin, length), file).read();
  header.data_begin = static_cast<int64_t>(begin + length);
  int64_t needed = size_of(header.dtype);
  for (const int64_t extent : header.shape) {
    if (__builtin_mul_overflow(needed, extent, &needed)) broken_npy(file, "its shape is impossible");
  }
  const int64_t found = static_cast<int64_t>(bytes.size()) - header.data_begin;
  if (needed != found) {
    broken_npy(file, fmt::format("shape {} of {} needs {} bytes but {} follow its header", to_string(header.shape),
                                 name_of(header.dtype), needed, found));
  }
  return header;
}

NpyArray::NpyArray(const std::filesystem::path& path) : path_(path) {
  const MappedFile file(path, MappedFile::Access::sequential);
  header_ = parse_npy_header(file.bytes(), path.string());
  // Copied, because the data need not be aligned in the file.
  const std::span<const std::byte> data = file.bytes().subspan(static_cast<size_t>(header_.data_begin));
  bytes_.assign(data.begin(), data.end());
}

void NpyArray::expect(DType dtype) const {
  if (dtype == header_.dtype) return;
  throw Error(fmt::format("'{}' holds {}, expected {}", path_.string(), name_of(header_.dtype), name_of(dtype)));
}

}  // namespace ridgeline::checkpoint
