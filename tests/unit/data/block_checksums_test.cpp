#include "ridgeline/data/block_checksums.h"

#include <gtest/gtest.h>

#include "ridgeline/base/checksum.h"
#include "ridgeline/data/indexed_dataset.h"
#include "support.h"

namespace ridgeline::data {
namespace {

using test::TemporaryFolder;

TEST(BlockChecksums, BlocksCoverTheFile) {
  EXPECT_EQ(checksum_blocks(0), 0);
  for (const int64_t bytes : {int64_t{1}, kChecksumBlock - 1, kChecksumBlock, kChecksumBlock + 1, 5 * kChecksumBlock,
                              (int64_t{1} << 62) + 12345}) {
    const int64_t blocks = checksum_blocks(bytes);
    EXPECT_EQ(checksum_block(bytes, 0).first, 0);
    const ByteRange last = checksum_block(bytes, blocks - 1);
    EXPECT_EQ(last.first + last.bytes, bytes);
    EXPECT_GT(last.bytes, 0);
    EXPECT_LE(last.bytes, kChecksumBlock);
    if (blocks > 1) {
      EXPECT_EQ(checksum_block(bytes, 1).first, checksum_block(bytes, 0).bytes);
    }
  }
}

TEST(BlockChecksums, PiecesAreAsManyAsCounted) {
  for (const int64_t first : {int64_t{0}, kChecksumBlock - 2, kChecksumBlock, 3 * kChecksumBlock + 7}) {
    for (const int64_t bytes : {int64_t{0}, int64_t{1}, int64_t{2}, int64_t{3}, kChecksumBlock, 2 * kChecksumBlock + 1})
      EXPECT_EQ(count_block_pieces({first, bytes}), std::ssize(block_pieces({first, bytes}))) << first << " " << bytes;
  }
}

// Whatever the pieces in which it was written.
TEST(BlockChecksums, AreThoseOfTheFile) {
  const TemporaryFolder folder;
  std::string bytes(static_cast<size_t>(kChecksumBlock) + 1'000'003, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * i >> 7);
  const File file(folder.write("a", bytes), File::Mode::read);
  const std::string_view text = bytes;
  const size_t block = static_cast<size_t>(kChecksumBlock);
  const std::vector<uint32_t> expected = {crc32c(bytes_of(text.substr(0, block))),
                                          crc32c(bytes_of(text.substr(block)))};
  for (int64_t i = 0; i < 2; ++i)
    EXPECT_EQ(checksum_of(file, checksum_block(file.size(), i)), expected[static_cast<size_t>(i)]);
  for (const size_t piece : {bytes.size(), size_t{3'000'017}, block}) {
    BlockChecksums sums;
    for (size_t at = 0; at < bytes.size(); at += piece) sums.add(bytes_of(text.substr(at, piece)));
    EXPECT_EQ(sums.all(), expected) << piece;
  }
}

TEST(BlockChecksums, AFileThatEndsEarlyIsNamed) {
  const TemporaryFolder folder;
  const File file(folder.write("short", "abc"), File::Mode::read);
  EXPECT_ERROR("short", checksum_of(file, {0, 4}));
}

class NotedChecksums : public testing::Test {
 protected:
  void SetUp() override {
    IndexedDatasetWriter writer(folder_ / "d", 100);
    writer.add_document(std::vector<int32_t>{1, 2, 3});
    writer.finish(DatasetNote{.tokens = 3, .documents = 1});
  }
  nlohmann::json note() const { return nlohmann::json::parse(read_text(folder_ / "d.json")); }
  TemporaryFolder folder_;
  const char* key_ = "crc32c_of_64_mib_blocks";
};

TEST(BlockChecksums, FollowTheBlocksOfTheFileFromAnyBegin) {
  const std::vector<std::byte> bytes(7, std::byte{5});
  for (const int64_t begin : {int64_t{0}, kChecksumBlock - 3, kChecksumBlock, kChecksumBlock + 1}) {
    BlockChecksums sums(begin);
    EXPECT_TRUE(sums.all().empty());
    for (size_t i = 0; i < bytes.size(); ++i) sums.add(std::span(bytes).subspan(i, 1));
    const std::vector<ByteRange> pieces = block_pieces({begin, 7});
    ASSERT_EQ(pieces.size(), begin == kChecksumBlock - 3 ? 2U : 1U);
    ASSERT_EQ(sums.all().size(), pieces.size());
    int64_t all = 0;
    for (size_t i = 0; i < pieces.size(); ++i) {
      EXPECT_EQ(sums.all()[i], crc32c(std::span(bytes).first(static_cast<size_t>(pieces[i].bytes))));
      EXPECT_EQ(pieces[i].first, begin + all);
      all += pieces[i].bytes;
    }
    EXPECT_EQ(all, 7);
  }
  EXPECT_TRUE(block_pieces({5, 0}).empty());
}

TEST_F(NotedChecksums, AreOfWhatWasWritten) {
  const File file(folder_ / "d.bin", File::Mode::read);
  const auto dataset = IndexedDataset::open(folder_ / "d");
  ASSERT_EQ(dataset->note()->checksums.size(), 1U);
  EXPECT_EQ(dataset->note()->checksums[0], checksum_of(file, {0, file.size()}));
  EXPECT_EQ(note()[key_][0], checksum_text(dataset->note()->checksums[0]));
}

TEST_F(NotedChecksums, OlderNotesHaveNone) {
  nlohmann::json old = note();
  old.erase(key_);
  folder_.write("d.json", old.dump());
  EXPECT_TRUE(IndexedDataset::open(folder_ / "d")->note()->checksums.empty());
}

TEST_F(NotedChecksums, MustMakeSense) {
  const nlohmann::json good = note();
  const auto refused = [&](const nlohmann::json& value, const char* why) {
    nlohmann::json bad = good;
    bad[key_] = value;
    folder_.write("d.json", bad.dump());
    EXPECT_ERROR(why, IndexedDataset::open(folder_ / "d"));
  };
  refused({"01234567", "01234567"}, "speaks of checksums of 2 blocks, but the dataset has 1");
  refused({"0123456"}, "is no checksum of eight hexadecimal digits");
  refused({7}, "is not the note of the dataset");
}

}  // namespace
}  // namespace ridgeline::data
