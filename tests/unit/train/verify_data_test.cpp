#include "ridgeline/train/verify_data.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <memory>

#include "ridgeline/base/file.h"
#include "ridgeline/comm/failure.h"
#include "ridgeline/data/block_checksums.h"
#include "ridgeline/data/document_starts.h"
#include "ridgeline/data/indexed_dataset.h"

namespace ridgeline::train {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class VerifyData : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("ridgeline_verify_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
    config_.data.train = (folder_ / "data").string();
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // Of two bytes each.
  void write(int64_t tokens, bool with_note) const {
    data::IndexedDatasetWriter writer(folder_ / "data", 1000);
    std::vector<int32_t> document(1 << 20);
    for (size_t i = 0; i < document.size(); ++i) document[i] = static_cast<int32_t>(i % 997);
    int64_t documents = 0;
    for (int64_t left = tokens; left > 0; left -= std::ssize(document), ++documents) {
      document.resize(static_cast<size_t>(std::min<int64_t>(left, std::ssize(document))));
      writer.add_document(document);
    }
    writer.finish(with_note ? std::optional(data::DatasetNote{.tokens = tokens, .documents = documents})
                            : std::nullopt);
  }
  void damage(int64_t place) const {
    File file(folder_ / "data.bin", File::Mode::update);
    std::byte byte{};
    file.read_at(place, {&byte, 1});
    byte ^= std::byte{1};
    file.write_at(place, {&byte, 1});
  }
  // What is said on the console, or the error.
  std::string said(int ranks) const {
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> console(std::tmpfile(), std::fclose);
    try {
      comm::run_threads(ranks, {.timeout = std::chrono::seconds(60)},
                        [&](comm::World& world) { verify_data(world, config_, console.get()); });
    } catch (const Error& error) {
      return error.what();
    }
    std::string text(4096, '\0');
    std::rewind(console.get());
    text.resize(std::fread(text.data(), 1, text.size(), console.get()));
    return text;
  }

  std::filesystem::path folder_;
  Config config_;
};

TEST_F(VerifyData, ComparesWithWhatPrepareWrote) {
  constexpr int64_t kTokens = data::kChecksumBlock + 12'345;  // three blocks, the last one short
  write(kTokens, true);
  for (const int ranks : {1, 2, 4})
    EXPECT_THAT(said(ranks), HasSubstr("data.train: all 128 MiB are what prepare wrote\n")) << ranks;
  damage(data::kChecksumBlock + 5);
  for (const int ranks : {1, 2, 4}) {
    EXPECT_THAT(said(ranks), AllOf(HasSubstr("data.train: bytes 67,108,864 to 134,217,727 of '" +
                                             (folder_ / "data.bin").string() + "' are not what prepare wrote"),
                                   HasSubstr("prepare it again")))
        << ranks;
  }
  damage(7);
  EXPECT_THAT(said(2), HasSubstr("bytes 0 to 134,217,727 of"));
  damage(data::kChecksumBlock + 5);  // as it was
  damage(2 * kTokens - 1);
  EXPECT_THAT(said(3), HasSubstr("bytes 0 to 67,108,863 and another block of"));
}

TEST_F(VerifyData, SaysThatThereIsNothingToCompareWith) {
  write(5000, false);
  EXPECT_THAT(said(2), HasSubstr("data.train: prepare left no checksums beside it; all 9.77 KiB can be read\n"));
}

TEST_F(VerifyData, ReadsAllFilesOfLlmC) {
  for (const char* name : {"a1.bin", "a2.bin"}) {
    std::string bytes(1024 + 2 * 5000, '\0');
    const int32_t header[3] = {20240520, 1, 5000};
    std::memcpy(bytes.data(), header, sizeof header);
    write_atomically(folder_ / name, bytes);
  }
  config_.data.train = (folder_ / "a*.bin").string();
  EXPECT_THAT(said(2), HasSubstr("data.train: prepare left no checksums beside it; all 21.5 KiB can be read\n"));
}

TEST_F(VerifyData, ComparesFilesOfLlmCWithWhatTheyWere) {
  constexpr int64_t kTokens = data::kLeastKept / 2;
  const std::filesystem::path file = folder_ / "data.bin";
  std::string bytes(1024 + 2 * kTokens, '\0');
  const int32_t header[3] = {20240520, 1, kTokens};
  std::memcpy(bytes.data(), header, sizeof header);
  write_atomically(file, bytes);
  config_.data.train = file.string();
  EXPECT_THAT(said(2), HasSubstr("data.train: all 1.00 MiB are what they were when their documents were found\n"));
  const std::filesystem::file_time_type time = std::filesystem::last_write_time(file);
  damage(2 * kTokens);
  std::filesystem::last_write_time(file, time);  // as a disk would
  EXPECT_THAT(said(2), HasSubstr("data.bin' are not what they were when its documents were found"));
}

TEST_F(VerifyData, ReadsTheDataForValidationToo) {
  write(5000, true);
  config_.data.valid = (folder_ / "other").string();
  for (const std::string suffix : {".bin", ".idx", ".json"})
    std::filesystem::copy(folder_ / ("data" + suffix), folder_ / ("other" + suffix));
  EXPECT_THAT(said(2),
              AllOf(HasSubstr("data.train: all"), HasSubstr("data.valid: all 9.77 KiB are what prepare wrote")));
  damage(0);
  EXPECT_THAT(said(2), HasSubstr("data.train: bytes 0 to 9,999 of"));
  std::swap(config_.data.train, config_.data.valid);
  EXPECT_THAT(said(2), HasSubstr("data.valid: bytes 0 to 9,999 of"));
  // Of several each.
  config_.data.train.entries = {{1, (folder_ / "other").string()}, {2, (folder_ / "data").string()}};
  config_.data.valid = "";
  EXPECT_THAT(said(2), HasSubstr("data.train[2]: bytes 0 to 9,999 of"));
}

}  // namespace
}  // namespace ridgeline::train
