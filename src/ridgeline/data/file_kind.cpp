#include "ridgeline/data/file_kind.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "ridgeline/base/error.h"
#include "ridgeline/data/unicode.h"

namespace ridgeline::data {
namespace {

namespace fs = std::filesystem;
using namespace std::string_view_literals;
using Family = FileKind::Family;

// A path as a shell reads it.
std::string quoted(const std::string& path) {
  constexpr std::string_view kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-+=:,@%";
  if (!path.empty() && path.find_first_not_of(kPlain) == std::string::npos) return path;
  std::string text = "'";
  for (const char c : path) text += c == '\'' ? "'\\''" : std::string(1, c);
  return text + "'";
}

std::string with_extension(const fs::path& file, const char* extension) {
  fs::path other = file;
  return quoted(other.replace_extension(extension).string());
}

constexpr const char* kNoText = "Documents are read from text files (.txt, .jsonl): choose those.";
constexpr const char* kPrepareAgain =
    "It holds tokens, not text; Ridgeline makes its own: ridgeline prepare, from the text.";
constexpr const char* kTorch =
    "These are weights, not text. As safetensors: python3 -c \"import sys, transformers as t; "
    "t.AutoModelForCausalLM.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])\" FOLDER_OF_THE_MODEL NEW_FOLDER";
constexpr const char* kPandas =
    "Make JSON lines of it: python3 -c \"import sys, pandas; pandas.read_parquet(sys.argv[1]).to_json(sys.argv[2], "
    "orient='records', lines=True, force_ascii=False)\" {0} {2} (needs: pip install pandas pyarrow); --key names the "
    "column with the text.";
constexpr const char* kDatasets =
    "Make JSON lines of it: python3 -c \"import sys, datasets; datasets.Dataset.from_file(sys.argv[1])"
    ".to_json(sys.argv[2], force_ascii=False)\" {0} {2} (needs: pip install datasets); --key names the column with the "
    "text.";

struct Magic {
  size_t offset;
  std::string_view bytes;
  Family family;
  const char* name;
  // {0}: the file, {1}: the file without its last ending, {2}: with .jsonl instead, {3}: with .txt instead.
  const char* way_out;
  bool also_text = false;  // the magic alone could begin a text: then only where bytes follow that are none
};

constexpr Magic kMagics[] = {
    {0, "\x1f\x8b\x08"sv, Family::compressed, "a gzip file", "gzip -dc {0} > {1}"},
    {0, "\x28\xb5\x2f\xfd"sv, Family::compressed, "a Zstandard file", "zstd -dc {0} > {1}"},
    {0, "\xfd\x37zXZ\0"sv, Family::compressed, "an xz file", "xz -dc {0} > {1}"},
    {0, "BZh"sv, Family::packed, "a bzip2 file", "bzip2 -dc {0} > {1}", true},
    {0, "\x04\x22\x4d\x18"sv, Family::packed, "an LZ4 file", "lz4 -dc {0} > {1}"},
    {0, "7z\xbc\xaf\x27\x1c"sv, Family::packed, "a 7-Zip archive", "7z x {0}"},
    {0, "Rar!\x1a\x07"sv, Family::packed, "a RAR archive", "unrar x {0}"},
    {257, "ustar"sv, Family::packed, "a tar archive", "tar -xf {0}", true},
    {0, "PAR1"sv, Family::table, "a Parquet file", kPandas, true},
    {0, "ARROW1\0\0"sv, Family::table, "an Arrow file", kNoText},
    {0, "\xff\xff\xff\xff"sv, Family::table, "an Arrow stream (as Hugging Face datasets keep them)", kDatasets},
    {0, "ORC"sv, Family::table, "an ORC file", kNoText, true},
    {0, "Obj\x01"sv, Family::table, "an Avro file", kNoText},
    {0, "SQLite format 3\0"sv, Family::table, "an SQLite database", kNoText},
    {0, "\x89HDF\r\n\x1a\n"sv, Family::table, "an HDF5 file", kNoText},
    {0, "\x93NUMPY"sv, Family::table, "a NumPy array (.npy)", kNoText},
    {0, "MMIDIDX\0\0"sv, Family::tokens, "the index (.idx) of a token dataset in Megatron's format",
     "It belongs to tokens, not text: train on them with data.train={1}."},
    {0, "TNTIDX\0\0"sv, Family::tokens,
     "the index (.idx) of a token dataset in Megatron's old 'lazy' or 'cached' format", kPrepareAgain},
    {0, "\x88\xd8\x34\x01"sv, Family::tokens,
     "a token file of llm.c (GPT-2 ids of 16 bits after a header of 1024 bytes)", kPrepareAgain},
    {0, "\xa1\xd9\x34\x01"sv, Family::tokens,
     "a token file of llm.c (Llama-3 ids of 32 bits after a header of 1024 bytes)", kPrepareAgain},
    {0, "\xc6\xd7\x34\x01"sv, Family::model, "a model of llm.c", kNoText},
    {0, "GGUF"sv, Family::model, "a GGUF model (llama.cpp)", kNoText, true},
    {0,
     "\x7f"
     "ELF"sv,
     Family::other, "a program or library (ELF)", kNoText},
    {0, "%PDF-1."sv, Family::other, "a PDF document", "Make text of it: pdftotext {0} {3}"},
    {0, "%PDF-2."sv, Family::other, "a PDF document", "Make text of it: pdftotext {0} {3}"},
    {0, "\x89PNG\r\n\x1a\n"sv, Family::other, "a PNG image", kNoText},
    {0, "\xff\xd8\xff"sv, Family::other, "a JPEG image", kNoText},
    {0, "\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"sv, Family::other, "an old Microsoft Office document",
     "Make text of it: soffice --headless --convert-to txt {0}"},
};

std::string way_out(const Magic& magic, const fs::path& file) {
  const bool has_text_name = file.extension() == ".txt" || file.extension() == ".jsonl" || !file.has_extension();
  const std::string plain =
      has_text_name ? quoted((file.parent_path() / file.stem()).string() + ".unpacked" + file.extension().string())
                    : with_extension(file, "");
  std::string text;
  if (magic.family == Family::packed) text = "Text is not read from it as it is: ";
  if (magic.family == Family::compressed) text = "Text and JSON lines are read from it as it is. To unpack it: ";
  return text + fmt::format(fmt::runtime(magic.way_out), quoted(file.string()), plain, with_extension(file, ".jsonl"),
                            with_extension(file, ".txt"));
}

uint32_t unit(std::string_view bytes, size_t at, size_t size, bool big_endian) {
  uint32_t value = 0;
  for (size_t i = 0; i < size; ++i) {
    const size_t place = big_endian ? at + i : at + size - 1 - i;
    value = value << 8 | static_cast<uint8_t>(bytes[place]);
  }
  return value;
}

// Line ends and spaces when all of `start` reads as text of this encoding, and none of its characters are such as no
// text holds; -1 when not.
int64_t spaces_as(std::string_view start, size_t size, bool big_endian) {
  int64_t spaces = 0, low = 0;
  bool high_surrogate = false;
  for (size_t at = 0; at + size <= start.size(); at += size) {
    const uint32_t code = unit(start, at, size, big_endian);
    const bool control = code < 0x20 && code != '\t' && code != '\n' && code != '\r' && code != '\f';
    if (control || code == 0x7F || code == 0xFFFE || code == 0xFFFF || code > 0x10FFFF) return -1;
    if (code >= 0xD800 && code < 0xE000) {
      if (size == 4 || (code < 0xDC00) == high_surrogate) return -1;
      high_surrogate = code < 0xDC00;
      continue;
    }
    if (high_surrogate) return -1;
    if (code == ' ' || code == '\n' || code == '\r' || code == 0x3000) ++spaces;
    if (code < 0x80) ++low;
  }
  return spaces + (start.size() < 16 * size ? low : 0);
}

struct Encoding {
  const char* name;
  const char* iconv;
  size_t size;
  bool big_endian;
  std::string_view mark;
};
constexpr Encoding kEncodings[] = {{"UTF-32 (little-endian)", "UTF-32LE", 4, false, "\xff\xfe\0\0"sv},
                                   {"UTF-32 (big-endian)", "UTF-32BE", 4, true, "\0\0\xfe\xff"sv},
                                   {"UTF-16 (little-endian)", "UTF-16LE", 2, false, "\xff\xfe"sv},
                                   {"UTF-16 (big-endian)", "UTF-16BE", 2, true, "\xfe\xff"sv}};

// By its byte order mark, or else by NUL bytes, which UTF-8 text as good as never holds and these always do.
const Encoding* encoding_of(std::string_view start, int64_t zeros, int64_t invalid) {
  for (const Encoding& encoding : kEncodings) {
    if (start.starts_with(encoding.mark) &&
        spaces_as(start.substr(encoding.mark.size()), encoding.size, encoding.big_endian) >= 0) {
      return &encoding;
    }
  }
  // One in 100 bytes; one in 1000 where the bytes are no UTF-8 either (Chinese or Japanese, with few spaces).
  if (zeros == 0 || zeros * (invalid > 0 ? 1000 : 100) < static_cast<int64_t>(start.size())) return nullptr;
  const Encoding* best = nullptr;
  int64_t most = 0;
  for (const Encoding& encoding : kEncodings) {
    const int64_t spaces = spaces_as(start, encoding.size, encoding.big_endian);
    if (spaces > most) {
      best = &encoding;
      most = spaces;
    }
  }
  return best;
}

std::optional<FileKind> zip_kind(std::string_view start, const fs::path& file) {
  if (!start.starts_with("PK\x03\x04"sv)) return std::nullopt;
  const std::string_view names = start.substr(0, 4096);
  if (names.find("/data.pkl") != std::string_view::npos)
    return FileKind{Family::model, "weights written by torch.save (a zip of pickles)", kTorch};
  if (names.find(".npy") != std::string_view::npos) return FileKind{Family::table, "NumPy arrays (.npz)", kNoText};
  if (names.find("word/") != std::string_view::npos || names.find("[Content_Types]") != std::string_view::npos)
    return FileKind{Family::other, "an Office document",
                    fmt::format("Make text of it: soffice --headless --convert-to txt {}", quoted(file.string()))};
  return FileKind{Family::packed, "a zip archive", fmt::format("Unpack it: unzip {}", quoted(file.string()))};
}

bool is_safetensors(std::string_view start) {
  if (start.size() < 16 || start[8] != '{') return false;
  uint64_t length = 0;
  std::memcpy(&length, start.data(), 8);
  return length >= 2 && length <= 100'000'000 &&
         (start.find("\"dtype\"") != std::string_view::npos ||
          start.find("\"__metadata__\"") != std::string_view::npos);
}

// JSON that is not one object per line: an array, or an object that goes on in the next line.
bool is_json_over_lines(std::string_view start) {
  if (start.starts_with("\xEF\xBB\xBF")) start.remove_prefix(3);
  const size_t first = start.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return false;
  if (start[first] == '[') return true;
  if (start[first] != '{') return false;
  const size_t end = start.find('\n', first);
  if (end == std::string_view::npos) return false;
  std::string_view line = start.substr(first, end - first);
  line = line.substr(0, line.find_last_not_of(" \t\r") + 1);
  return line == "{";
}

}  // namespace

FileKind kind_of(std::string_view start, const fs::path& file) {
  start = start.substr(0, kKindBytes);
  if (start.empty()) return {Family::empty, "an empty file", ""};
  int64_t invalid = 0;
  for (std::string_view rest = start; !rest.empty();) {
    const size_t good = valid_utf8_prefix(rest);
    rest.remove_prefix(good);
    if (rest.empty()) break;
    const Utf8Char bad = decode_utf8(rest);
    if (bad.status == Utf8Char::Status::incomplete) break;  // cut by the end of `start`
    ++invalid;
    rest.remove_prefix(bad.length);
  }
  const auto zeros = static_cast<int64_t>(std::count(start.begin(), start.end(), '\0'));
  for (const Magic& magic : kMagics) {
    if (start.size() < magic.offset || !start.substr(magic.offset).starts_with(magic.bytes)) continue;
    if (magic.also_text && zeros == 0 && invalid == 0) continue;
    return {magic.family, magic.name, way_out(magic, file)};
  }
  if (auto zip = zip_kind(start, file)) return *zip;
  if (is_safetensors(start))
    return {Family::model, "weights in a safetensors file", "These are weights, not text. " + std::string(kNoText)};
  if (const Encoding* encoding = encoding_of(start, zeros, invalid)) {
    fs::path utf8 = file;
    utf8.replace_extension(".utf8" + file.extension().string());
    const bool marked = start.starts_with(encoding->mark);
    return {Family::encoding, fmt::format("{} text", encoding->name),
            fmt::format("Documents are read as UTF-8: iconv -f {} -t UTF-8 {} > {}",
                        marked ? std::string_view(encoding->iconv).substr(0, 6) : encoding->iconv,
                        quoted(file.string()), quoted(utf8.string()))};
  }
  if (start.size() > 2 && start[0] == '\x80' && start[1] >= 2 && start[1] <= 5)
    return {Family::model, "a Python pickle (torch.save writes such weights)", kTorch};
  // Text in the encodings of one byte has a tenth of such bytes at most.
  const auto size = static_cast<int64_t>(start.size());
  if (size >= 64 && (zeros * 10 > size || invalid * 10 > size * 3)) {
    return {Family::other, "binary data, or text that is not UTF-8",
            fmt::format("Of text in another encoding make UTF-8: iconv -f ENCODING -t UTF-8 {} > {}",
                        quoted(file.string()), with_extension(file, ".utf8.txt"))};
  }
  if (is_json_over_lines(start)) {
    return {Family::json_array,
            start.find('[') < start.find('{') ? "one JSON array" : "JSON printed over several lines",
            fmt::format("Make one object per line of it: jq -c {} {} > {}",
                        start.find('[') < start.find('{') ? "'.[]'" : ".", quoted(file.string()),
                        with_extension(file, file.extension() == ".jsonl" ? ".lines.jsonl" : ".jsonl"))};
  }
  return {Family::text, "text", ""};
}

void require_documents(std::string_view start, const fs::path& file, bool json_lines) {
  const FileKind kind = kind_of(start, file);
  if (kind.family == Family::empty || kind.family == Family::text) return;
  if (kind.family == Family::json_array && !json_lines) return;
  throw Error(fmt::format("'{}' is {}", file.string(), kind.name), kind.way_out);
}

}  // namespace ridgeline::data
