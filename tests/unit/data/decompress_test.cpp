#include "ridgeline/data/decompress.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include "../many_cases.h"
#include "support.h"

namespace ridgeline::data {
namespace {

using namespace std::string_view_literals;
using test::error_of;
using test::fixture;
using testing::HasSubstr;

struct Packed {
  const char* name;
  Compression compression;
  bool whole;  // one member, frame or stream: cut anywhere, it is no such file
};
constexpr Packed kPacked[] = {
    {"pages.txt.gz", Compression::gzip, true},       {"members.txt.gz", Compression::gzip, false},
    {"pages.txt.zst", Compression::zstandard, true}, {"frames.txt.zst", Compression::zstandard, false},
    {"pages.txt.xz", Compression::xz, true},         {"streams.txt.xz", Compression::xz, false}};

std::string packed(const Packed& file) {
  return read_text(fixture(fmt::format("corpora/{}", file.name)));
}

const std::string& pages() {
  static const std::string text = read_text(fixture("corpora/pages.txt"));
  return text;
}

// `step` bytes at a time.
std::string unpack(Compression compression, std::string bytes, size_t step = 4096) {
  const auto source = decompress(compression, std::make_unique<test::MemoryBytes>(std::move(bytes)), "x");
  std::string text, part(step, '\0');
  for (size_t got = step; got == step;) {
    got = source->read(part);
    text.append(part, 0, got);
  }
  EXPECT_EQ(source->read(part), 0U) << "after the end";
  return text;
}

TEST(Decompress, WhatTheToolsWroteComesBack) {
  for (const Packed& file : kPacked) {
    const std::string bytes = packed(file);
    EXPECT_EQ(compression_of(bytes), file.compression);
    EXPECT_EQ(compression_of(std::string_view(bytes).substr(0, 6)), file.compression);
    for (const size_t step : {1, 7, 64, 4096}) EXPECT_EQ(unpack(file.compression, bytes, step), pages()) << file.name;
  }
  EXPECT_EQ(compression_of(pages()), Compression::none);
  EXPECT_EQ(compression_of(""), Compression::none);
  EXPECT_EQ(compression_of("\x50\x2a\x4d\x18\0\0\0\0"sv), Compression::zstandard) << "pzstd begins so";
  EXPECT_EQ(unpack(Compression::none, pages()), pages());
}

TEST(Decompress, PartsMayBeginAnywhereInTheBlocksThatAreRead) {
  for (const Packed& file : kPacked) {
    // Over several blocks of input: headers and checksums are cut at their ends.
    const std::string bytes = packed(file);
    const size_t times = 2'000'000 / bytes.size();
    std::string many, expected;
    for (size_t i = 0; i < times; ++i) {
      many += bytes;
      expected += pages();
    }
    EXPECT_EQ(unpack(file.compression, many, 100'003), expected) << file.name;
  }
}

TEST(Decompress, ACutFileIsNeverAShorterText) {
  for (const Packed& file : kPacked) {
    const std::string bytes = packed(file);
    for (size_t length = 6; length < bytes.size(); ++length) {
      const std::string error = error_of([&] {
        const std::string text = unpack(file.compression, bytes.substr(0, length));
        EXPECT_FALSE(file.whole) << file.name << " of " << length << " bytes gave " << text.size();
      });
      if (file.whole) {
        EXPECT_THAT(error, HasSubstr(fmt::format("'x' is cut: it ends at byte {}, in the middle of its {} data", length,
                                                 name_of(file.compression))));
      }
    }
    EXPECT_THAT(error_of([&] { unpack(file.compression, bytes + bytes.substr(0, bytes.size() - 1)); }),
                HasSubstr("is cut: it ends at byte"))
        << "cut in the second part of " << file.name;
  }
}

TEST(Decompress, ADamagedFileIsNeverAnotherText) {
  for (const Packed& file : kPacked) {
    const std::string bytes = packed(file);
    int noticed = 0;
    ManyCases cases(5);
    for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
      if (cases.skips()) continue;
      std::string damaged = bytes;
      damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
      try {
        // A name or a time in a header is no part of the text; a part that a bit turns into padding is.
        EXPECT_EQ(unpack(file.compression, damaged), pages()) << file.name << " bit " << bit;
      } catch (const Error& error) {
        ++noticed;
        EXPECT_THAT(error.what(), HasSubstr(" at byte "));
      }
    }
    EXPECT_GT(noticed, cases.share(static_cast<int>(bytes.size()) * 8) / 2) << file.name;
  }
}

TEST(Decompress, WhatFollowsAGzipFile) {
  const std::string bytes = packed(kPacked[0]);
  EXPECT_EQ(unpack(Compression::gzip, bytes + std::string(1'000'000, '\0')), pages()) << "as on a tape";
  EXPECT_THAT(error_of([&] { unpack(Compression::gzip, bytes + "garbage"); }),
              HasSubstr("has data after its last gzip member that is none, at byte"));
  EXPECT_THAT(
      error_of([&] { unpack(Compression::gzip, bytes + std::string(3, '\0') + bytes); }),
      HasSubstr(fmt::format("after zero bytes that follow its last gzip member, at byte {}", bytes.size() + 3)));
  std::string longer = bytes;
  longer[bytes.size() - 4] = static_cast<char>(longer[bytes.size() - 4] + 1);  // the length, not the CRC
  EXPECT_THAT(error_of([&] { unpack(Compression::gzip, longer); }), HasSubstr("gzip checksum (CRC-32 or length)"));
}

TEST(Decompress, WhatFollowsTheOthers) {
  EXPECT_THAT(error_of([&] { unpack(Compression::zstandard, packed(kPacked[2]) + "garbage"); }),
              HasSubstr("its Zstandard data makes no sense"));
  EXPECT_THAT(error_of([&] { unpack(Compression::xz, packed(kPacked[4]) + "garbage!"); }), HasSubstr("xz data"));
  EXPECT_EQ(unpack(Compression::xz, packed(kPacked[4]) + std::string(8, '\0')), pages()) << "stream padding";
}

TEST(ByteSource, LooksAheadWithoutLosingAnything) {
  std::unique_ptr<ByteSource> source = std::make_unique<test::MemoryBytes>("0123456789");
  EXPECT_EQ(look_ahead(source, 4), "0123");
  EXPECT_EQ(source->position(), 0);
  EXPECT_EQ(look_ahead(source, 2), "01");
  std::string part(3, '\0');
  EXPECT_EQ(source->read(part), 3U);
  EXPECT_EQ(part, "012");
  EXPECT_EQ(source->position(), 3);
  EXPECT_EQ(look_ahead(source, 100), "3456789");
  part.resize(100);
  EXPECT_EQ(source->read(part), 7U);
  EXPECT_EQ(source->position(), 10);
}

}  // namespace
}  // namespace ridgeline::data
