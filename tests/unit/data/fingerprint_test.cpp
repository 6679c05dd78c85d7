#include "ridgeline/data/fingerprint.h"

#include <gmock/gmock.h>

#include "support.h"

namespace ridgeline::data {
namespace {

using test::bytes_read;
using test::TemporaryFolder;

class Fingerprint : public testing::Test {
 protected:
  DatasetFingerprint of(const std::string& name, const std::vector<std::vector<int32_t>>& documents,
                        int64_t vocabulary = 1000) {
    IndexedDatasetWriter writer(folder_ / name, vocabulary);
    for (const std::vector<int32_t>& document : documents) writer.add_document(document);
    writer.finish(std::nullopt);
    return fingerprint(*IndexedDataset::open(folder_ / name));
  }
  TemporaryFolder folder_;
};

TEST_F(Fingerprint, IsTheSameWhereverTheDatasetLies) {
  const DatasetFingerprint a = of("a", {{1, 2, 3}, {4, 5}}), b = of("b", {{1, 2, 3}, {4, 5}});
  EXPECT_EQ(a, b);
  EXPECT_EQ(a.documents, 2);
  EXPECT_EQ(a.tokens, 5);
}

TEST_F(Fingerprint, DiffersWithEveryByteOfASmallDataset) {
  const DatasetFingerprint whole = of("a", {{1, 2, 3}, {4, 5}});
  const std::string bytes = read_text(folder_ / "a.bin");
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::string flipped = bytes;
    flipped[i] = static_cast<char>(flipped[i] ^ 1);
    folder_.write("a.bin", flipped);
    const DatasetFingerprint other = fingerprint(*IndexedDataset::open(folder_ / "a"));
    EXPECT_NE(whole, other) << "byte " << i;
    EXPECT_EQ(whole.index, other.index);
  }
}

TEST_F(Fingerprint, DiffersWithTheBoundsOfDocumentsAndTheTypeOfTokens) {
  const DatasetFingerprint a = of("a", {{1, 2, 3}, {4, 5}}), b = of("b", {{1, 2}, {3, 4, 5}});
  EXPECT_EQ(a.content, b.content);
  EXPECT_NE(a.index, b.index);
  const DatasetFingerprint wide = of("wide", {{1, 2, 3}, {4, 5}}, 70000);
  EXPECT_NE(a.index, wide.index);
}

TEST_F(Fingerprint, ReadsEveryByteOnce) {
  of("a", std::vector<std::vector<int32_t>>(300, std::vector<int32_t>(10'000, 7)));
  const auto dataset = IndexedDataset::open(folder_ / "a");
  const int64_t before = bytes_read();
  if (before < 0) GTEST_SKIP() << "no /proc/self/io";
  fingerprint(*dataset);
  const int64_t read = bytes_read() - before;
  EXPECT_GE(read, dataset->bytes());
  EXPECT_LT(read, dataset->bytes() + 4096) << "and what tells how many";
}

TEST_F(Fingerprint, IsOfTheFilesThatWereOpened) {
  of("a", {{1, 2, 3}, {4, 5}});
  const auto dataset = IndexedDataset::open(folder_ / "a");
  write_atomically(folder_ / "a.bin", read_text(folder_ / "a.bin"));
  EXPECT_ERROR("a.bin' has changed since it was opened", fingerprint(*dataset));
}

TEST_F(Fingerprint, IdentitiesOfDatasetsAreThoseOfTheirFiles) {
  of("a", {{1, 2, 3}, {4, 5}});
  of("b", {{1, 2, 3}, {4, 5}});
  const std::string a = IndexedDataset::open(folder_ / "a")->identity();
  EXPECT_EQ(IndexedDataset::open(folder_ / "a.bin")->identity(), a);
  EXPECT_NE(IndexedDataset::open(folder_ / "b")->identity(), a);
  write_atomically(folder_ / "a.idx", read_text(folder_ / "a.idx"));
  EXPECT_NE(IndexedDataset::open(folder_ / "a")->identity(), a);
}

TEST_F(Fingerprint, GoesThroughJson) {
  const DatasetFingerprint a = of("a", {{1, 2, 3}, {4, 5}});
  EXPECT_EQ(fingerprint_from_json(to_json(a), "x"), a);
  EXPECT_EQ(fingerprint_from_json(nlohmann::json::parse(to_json(a).dump()), "x"), a);
  EXPECT_EQ(to_text({400, 61234, 0x0a1b2c3d, 0x89abcdef}),
            "400 documents, 61234 tokens, index 0a1b2c3d, content 89abcdef");
  for (const char* bad :
       {"null", "[]", R"({"documents": 1, "tokens": 2, "index": "0000000", "content": "00000000"})",
        R"({"documents": 1, "tokens": 2, "index": "0000000g", "content": "00000000"})",
        R"({"documents": 1, "tokens": "2", "index": "00000000", "content": "00000000"})", R"({"documents": 1})"}) {
    EXPECT_ERROR("somewhere", fingerprint_from_json(nlohmann::json::parse(bad), "somewhere"));
  }
}

TEST(SampledBlocks, AreTheWholeFileOrSpreadOverIt) {
  EXPECT_TRUE(sampled_blocks(0).empty());
  for (const int64_t small : {int64_t{1}, int64_t{12345}, kWholeBytes}) {
    const std::vector<ByteRange> blocks = sampled_blocks(small);
    ASSERT_EQ(blocks.size(), 1U);
    EXPECT_EQ(blocks[0].first, 0);
    EXPECT_EQ(blocks[0].bytes, small);
  }
  for (const int64_t large :
       {kWholeBytes + 1, kWholeBytes + 254, 3 * kWholeBytes + 17, int64_t{1} << 40, (int64_t{1} << 62) + 12345}) {
    int64_t end = 0, sum = 0, widest = 0;
    for (const ByteRange& block : sampled_blocks(large)) {
      ASSERT_GE(block.first, end) << large;
      widest = std::max(widest, block.first - end);
      end = block.first + block.bytes;
      sum += block.bytes;
    }
    EXPECT_EQ(sampled_blocks(large).front().first, 0);
    EXPECT_EQ(end, large);
    EXPECT_EQ(sum, kWholeBytes);
    EXPECT_LE(widest, large / 255 + 1) << "a hole wider than the others";
  }
}

}  // namespace
}  // namespace ridgeline::data
