#include "ridgeline/data/file_kind.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <cstring>

#include "ridgeline/data/token_file.h"
#include "support.h"

namespace ridgeline::data {
namespace {

using namespace std::literals;
using Family = FileKind::Family;
using testing::HasSubstr;

// The code points of a text in units of two or four bytes; none outside the first plane but by surrogate pairs.
std::string encoded(std::u32string_view text, size_t size, bool big_endian, bool mark) {
  std::string bytes;
  const auto put = [&](uint32_t unit) {
    for (size_t i = 0; i < size; ++i) {
      const size_t shift = 8 * (big_endian ? size - 1 - i : i);
      bytes += static_cast<char>(unit >> shift);
    }
  };
  if (mark) put(0xFEFF);
  for (const char32_t code : text) {
    if (size == 2 && code >= 0x10000) {
      put(0xD800 + ((code - 0x10000) >> 10));
      put(0xDC00 + ((code - 0x10000) & 0x3FF));
    } else {
      put(code);
    }
  }
  return bytes;
}

TEST(FileKind, Utf16AndUtf32AreNamedWithAWayOut) {
  const std::u32string english = U"The cat sat.\n\nThe mat.\n";
  std::u32string russian, chinese;
  for (int i = 0; i < 50; ++i) {
    russian += U"Жили-были старик со старухою у самого синего моря;\n";
    chinese += U"一天,天下大事,分久必合,合久必分。周末七国分争,并入于秦。及秦灭之后,楚、汉分争,又并入于汉😀。\n";
  }
  for (const std::u32string& text : {english, russian, chinese}) {
    for (const size_t size : {size_t{2}, size_t{4}}) {
      for (const bool big_endian : {false, true}) {
        for (const bool mark : {false, true}) {
          const std::string bytes = encoded(text, size, big_endian, mark);
          // Cut anywhere, as the start of a longer file is.
          for (const size_t cut : {size_t{0}, size_t{1}, size_t{3}}) {
            const FileKind kind = kind_of(std::string_view(bytes).substr(0, bytes.size() - cut), "u.txt");
            EXPECT_EQ(kind.family, Family::encoding) << size << big_endian << mark << cut;
            EXPECT_EQ(kind.name, fmt::format("UTF-{} ({}-endian) text", 8 * size, big_endian ? "big" : "little"));
            const std::string suffix = mark ? "" : big_endian ? "BE" : "LE";
            EXPECT_THAT(kind.way_out,
                        HasSubstr(fmt::format("iconv -f UTF-{}{} -t UTF-8 u.txt > u.utf8.txt", 8 * size, suffix)));
          }
        }
      }
    }
  }
}

TEST(FileKind, TextIsText) {
  std::string bytes = "Text with a NUL \0 in it, and \0 another.\n"s + std::string(2000, 'x');
  for (const std::string_view text :
       {"a"sv, "\n"sv, "Text.\n\nMore."sv, "ORCHESTRA"sv, "BZh, as they say"sv, "PAR1"sv, "GGUF is a format"sv,
        "caf\xE9 au lait, d\xE9j\xE0 vu, na\xEFve; and so on and on in Latin-1, some of it"sv,
        "{\"text\": \"x\"}\n{}"sv, "\xEF\xBB\xBFmarked"sv, "\xE6\xBC"sv, "\xFF"sv, std::string_view(bytes)}) {
    EXPECT_EQ(kind_of(text, "a.txt").family, Family::text) << text;
  }
  EXPECT_EQ(kind_of("", "a.txt").family, Family::empty);
  // A character cut by the end of what is looked at.
  std::string cut(kKindBytes - 1, 'x');
  EXPECT_EQ(kind_of(cut + "é", "a.txt").family, Family::text);
}

TEST(FileKind, OtherFormatsAreKnownByContent) {
  const auto expect = [](std::string_view bytes, Family family, const char* name, const char* way_out) {
    const FileKind kind = kind_of(bytes, "dir/it's.txt.gz");
    EXPECT_EQ(kind.family, family) << name;
    EXPECT_THAT(kind.name, HasSubstr(name));
    EXPECT_THAT(kind.way_out, HasSubstr(way_out)) << name;
  };
  expect("\x1f\x8b\x08\0\0"sv, Family::compressed, "gzip", "gzip -dc 'dir/it'\\''s.txt.gz' > 'dir/it'\\''s.txt'");
  expect("\x28\xb5\x2f\xfd"sv, Family::compressed, "Zstandard", "zstd -dc");
  expect("\xfd\x37zXZ\0\0"sv, Family::compressed, "xz", "xz -dc");
  expect("BZh91AY&SY\x8e\xff"sv, Family::packed, "bzip2", "bzip2 -dc");
  expect("PK\x03\x04\x14\0\0\0a.txt"sv, Family::packed, "zip", "unzip");
  expect("PK\x03\x04\x14\0\0\0archive/data.pkl"sv, Family::model, "torch.save", "save_pretrained");
  expect("PAR1\x15\0\x15"sv, Family::table, "Parquet", "pandas.read_parquet");
  expect("\xff\xff\xff\xff\x10\0\0\0"sv, Family::table, "Arrow", "datasets.Dataset");
  expect("MMIDIDX\0\0\1\0"sv, Family::tokens, "Megatron", "data.train=");
  expect("\x88\xd8\x34\x01\1\0\0\0"sv, Family::tokens, "llm.c", "prepare");
  expect("\x80\x02}q"sv, Family::model, "pickle", "save_pretrained");
  expect("\x58\0\0\0\0\0\0\0{\"w\":{\"dtype\":\"F32\""sv, Family::model, "safetensors", "weights");
  expect(
      "\x7f"
      "ELF\2\1\1"sv,
      Family::other, "ELF", "text files");
  expect("%PDF-1.4\n"sv, Family::other, "PDF", "pdftotext");
  std::string random(4096, '\0');
  uint32_t state = 1;
  for (char& c : random) c = static_cast<char>((state = state * 1664525 + 1013904223) >> 24);
  expect(random, Family::other, "binary", "iconv");
  std::string tokens;  // GPT-2 ids as nanoGPT writes them
  for (int i = 0; i < 4000; ++i) {
    state = state * 1664525 + 1013904223;
    const uint32_t id = i % 5 == 0 ? 11 : (state >> 8) % 50257;
    tokens += {static_cast<char>(id & 0xFF), static_cast<char>(id >> 8)};
  }
  EXPECT_EQ(kind_of(tokens, "train.bin").family, Family::other);
}

TEST(FileKind, JsonOverSeveralLinesIsRefusedWhereLinesAreRecords) {
  for (const char* text : {"[{\"text\": \"a\"},\n {\"text\": \"b\"}]", "\n[\n{}]", "{\n  \"text\": \"a\"\n}\n"}) {
    EXPECT_ERROR("jq -c ", require_documents(text, "a.json", true));
    require_documents(text, "a.txt", false);
  }
  for (const char* text : {"{\"text\": \"a\"}", "", "nonsense", "{}\n["}) require_documents(text, "a.json", true);
  EXPECT_ERROR("'a.txt' is UTF-16 (little-endian) text", require_documents("a\0b\0\n\0"sv, "a.txt", false));
}

std::string llm_c(uint32_t magic, uint32_t said, const std::vector<uint32_t>& ids, size_t size) {
  std::string bytes(1024, '\0');
  const uint32_t header[3] = {magic, magic == 20240520 ? 1U : 7U, said};
  std::memcpy(bytes.data(), header, sizeof header);
  for (const uint32_t id : ids) bytes.append(reinterpret_cast<const char*>(&id), size);
  return bytes;
}

TEST(TokenFile, LlmCsAreReadByTheirHeader) {
  std::string bytes = llm_c(20240520, 3, {50256, 5, 7}, 2);
  auto tokens = token_file(bytes, static_cast<int64_t>(bytes.size()), "x.bin");
  ASSERT_TRUE(tokens);
  EXPECT_EQ(tokens->kind, "a token file of llm.c (GPT-2 ids)");
  EXPECT_EQ(tokens->count, 3);
  EXPECT_EQ(tokens->largest, 50256);
  EXPECT_EQ(tokens->problem, "");
  bytes = llm_c(20240801, 9, {128000, 1}, 4);
  tokens = token_file(bytes, static_cast<int64_t>(bytes.size()), "x.bin");
  ASSERT_TRUE(tokens);
  EXPECT_EQ(tokens->kind, "a token file of llm.c (Llama-3 ids)");
  EXPECT_EQ(tokens->largest, 128000);
  EXPECT_EQ(tokens->problem, "the header speaks of 9 tokens, and 2 follow");
  for (size_t length = 4; length < 1024; length += 3) {
    tokens = token_file(std::string_view(bytes).substr(0, length), static_cast<int64_t>(length), "x.bin");
    ASSERT_TRUE(tokens);
    EXPECT_THAT(tokens->problem, HasSubstr("less than its header"));
  }
}

TEST(TokenFile, IdsWithoutAHeaderAreGuessed) {
  uint32_t state = 5;
  const auto draw = [&](uint32_t bound) { return ((state = state * 1664525 + 1013904223) >> 8) % bound; };
  std::string narrow, wide, noise;
  for (int i = 0; i < 3000; ++i) {
    const uint32_t id = draw(50257), large = draw(128000), any = draw(1 << 16);
    narrow.append(reinterpret_cast<const char*>(&id), 2);
    wide.append(reinterpret_cast<const char*>(&large), 4);
    noise.append(reinterpret_cast<const char*>(&any), 2);
  }
  auto tokens = token_file(narrow, 6000, "x.bin");
  ASSERT_TRUE(tokens);
  EXPECT_THAT(tokens->kind, HasSubstr("probably token ids of 16 bits"));
  EXPECT_EQ(tokens->count, 3000);
  EXPECT_THAT(tokens->next, HasSubstr("x.idx"));
  tokens = token_file(wide, 12000, "x.bin");
  ASSERT_TRUE(tokens);
  EXPECT_THAT(tokens->kind, HasSubstr("probably token ids of 32 bits"));
  EXPECT_FALSE(token_file(noise, 6000, "x.bin"));
  EXPECT_FALSE(token_file(narrow, 6000, "x.txt")) << "not a name for tokens";
  EXPECT_FALSE(token_file(std::string(3000, 'x'), 3000, "x.bin")) << "text";
  EXPECT_FALSE(token_file("", 0, "x.bin"));
}

}  // namespace
}  // namespace ridgeline::data
