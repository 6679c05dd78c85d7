#include "ridgeline/checkpoint/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <thread>

#include "ridgeline/base/checksum.h"
#include "ridgeline/base/error.h"
#include "support.h"

namespace ridgeline::checkpoint {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

// 3 tensors in 2 files.
FileLayout small_layout() {
  LayoutOptions options;
  options.stem = "tensors";
  options.max_file_bytes = 4000;
  return plan_layout({{"weight", DType::f32, {30, 33}}, {"moment", DType::bf16, {30, 33}}, {"count", DType::i64, {3}}},
                     options);
}

std::vector<float> values_of(int64_t step) {
  std::vector<float> values(990);
  std::iota(values.begin(), values.end(), static_cast<float>(step));
  return values;
}

// Saves `step` with `ranks` threads; each writes its part of every tensor, the last ones in odd order.
fs::path save(const fs::path& parent, int64_t step, int ranks = 1) {
  const std::vector<float> values = values_of(step);
  const std::vector<int64_t> counts{step, step + 1, step + 2};
  CheckpointWriter first(parent, step, small_layout());
  first.create();
  std::vector<std::vector<Piece>> pieces(static_cast<size_t>(ranks));
  {
    std::vector<std::jthread> team;
    for (int rank = 0; rank < ranks; ++rank) {
      team.emplace_back([&, rank] {
        CheckpointWriter writer(parent, step, small_layout());
        const int64_t from = 990 * rank / ranks, to = 990 * (rank + 1) / ranks, middle = (from + to) / 2;
        writer.write_range("moment", middle, to - middle, ConstRef(values.data() + middle));
        writer.write_range("weight", from, middle - from, ConstRef(values.data() + from));
        writer.write_range("weight", middle, to - middle, ConstRef(values.data() + middle));
        writer.write_range("moment", from, middle - from, ConstRef(values.data() + from));
        if (rank == ranks - 1) writer.write_range("count", 0, 3, ConstRef(counts.data()));
        pieces[static_cast<size_t>(rank)] = writer.finish();
      });
    }
  }
  std::vector<Piece> all;
  for (const auto& some : pieces) all.insert(all.end(), some.begin(), some.end());
  return first.commit(all, {{"consumed_samples", step * 8}, {"loss_scale", 0.1}, {"config", "[model]\n\"x\" = 1"}});
}

void overwrite(const fs::path& path, int64_t at, char value) {
  File file(path, File::Mode::update);
  file.write_at(at, bytes_of(std::string_view(&value, 1)));
}

TEST(Checkpoint, IsReadByRangesWhoeverWroteIt) {
  const TemporaryFolder folder;
  for (const int ranks : {1, 2, 3, 7}) {
    const fs::path saved = save(folder.path() / std::to_string(ranks), 100, ranks);
    EXPECT_EQ(saved.filename(), "step_00000100");
    verify(saved);
    const CheckpointReader reader(saved);
    EXPECT_EQ(reader.step(), 100);
    EXPECT_EQ(reader.extra().at("consumed_samples"), 800);
    EXPECT_EQ(reader.extra().at("config"), "[model]\n\"x\" = 1");
    EXPECT_EQ(reader.manifest().files.size(), 2U);
    const std::vector<float> values = values_of(100);
    std::vector<float> part(500);
    reader.read_range("weight", {30, 33}, 321, 500, part.data());
    EXPECT_TRUE(std::equal(part.begin(), part.end(), values.begin() + 321));
    reader.read_range("moment", {30, 33}, 321, 500, part.data());
    for (size_t i = 0; i < 500; ++i) ASSERT_EQ(part[i], static_cast<float>(bf16(values[321 + i])));
    std::vector<int64_t> counts(3);
    reader.read_range("count", {3}, 0, 3, counts.data());
    EXPECT_EQ(counts, (std::vector<int64_t>{100, 101, 102}));
    EXPECT_THROW(reader.read_range("weight", {33, 30}, 0, 1, part.data()), Error);
  }
  // The same bytes on disk whoever wrote them.
  for (const char* name : {"tensors-00001-of-00002.safetensors", "tensors-00002-of-00002.safetensors", kManifestName}) {
    const std::string one = read_text(folder.path() / "1" / "step_00000100" / name);
    EXPECT_EQ(one, read_text(folder.path() / "7" / "step_00000100" / name)) << name;
  }
}

TEST(Checkpoint, ConsecutiveWritesMakeOnePiece) {
  const TemporaryFolder folder;
  CheckpointWriter writer(folder.path(), 1, small_layout());
  writer.create();
  const std::vector<float> values = values_of(1);
  for (int64_t i = 0; i < 990; i += 99) writer.write_range("weight", i, 99, ConstRef(values.data() + i));
  writer.write_range("moment", 5, 3, ConstRef(values.data()));
  writer.write_range("moment", 9, 1, ConstRef(values.data()));
  const std::vector<Piece> pieces = writer.finish();
  ASSERT_EQ(pieces.size(), 3U);
  EXPECT_EQ(pieces[0].length, 990 * 4);
  EXPECT_EQ(pieces[0].crc, crc32c(bytes_of(std::span<const float>(values))));
}

TEST(Checkpoint, CombineRefusesGapsAndOverlaps) {
  const FileLayout layout = small_layout();
  // In 2 files: weight alone; count before moment, since wider types come first.
  const auto head = [&](int file) { return static_cast<int64_t>(layout.files[file].head.size()); };
  std::vector<Piece> pieces{{0, 1, head(0), 2000}, {0, 2, head(0) + 2000, 1960}, {1, 3, head(1), 24 + 1980}};
  EXPECT_EQ(combine(layout, pieces).size(), 2U);
  const auto refusal = [&](size_t index, Piece piece) {
    std::vector<Piece> changed = pieces;
    changed[index] = piece;
    return error_of([&] { combine(layout, changed); }).message();
  };
  EXPECT_THAT(refusal(0, {0, 1, head(0), 1996}), AllOf(HasSubstr("nobody wrote"), HasSubstr("'weight', element 499")));
  EXPECT_THAT(refusal(0, {0, 1, head(0), 2004}), AllOf(HasSubstr("overlap"), HasSubstr("'weight', element 500")));
  EXPECT_THAT(refusal(0, {0, 1, head(0) - 1, 2001}), HasSubstr("overlap"));
  EXPECT_THAT(refusal(2, {1, 3, head(1), 24}), AllOf(HasSubstr("nobody wrote"), HasSubstr("'moment', element 0")));
  EXPECT_THAT(refusal(2, {1, 3, head(1), 2005}), HasSubstr("past the file"));
  EXPECT_THAT(refusal(2, {1, 3, head(1), INT64_MAX}), HasSubstr("past the file"));
  EXPECT_THAT(refusal(2, {2, 3, head(1), 2004}), HasSubstr("nobody wrote"));
  pieces.push_back(pieces[2]);  // a replica that two ranks wrote
  EXPECT_THAT(error_of([&] { combine(layout, pieces); }).message(), HasSubstr("overlap"));
  pieces.back() = {5, 0, 0, 1};
  EXPECT_THAT(error_of([&] { combine(layout, pieces); }).message(), HasSubstr("does not exist"));
}

TEST(Checkpoint, AlteredOrCutOnesAreRefusedByNameAndTheOneBeforeIsOffered) {
  const TemporaryFolder folder;
  const fs::path first = save(folder.path(), 50);
  const fs::path middle = save(folder.path(), 70);
  const fs::path last = save(folder.path(), 100);
  const fs::path data = last / "tensors-00001-of-00002.safetensors";
  const std::string whole = read_text(data);

  overwrite(data, 1500, 'x');
  Error error = error_of([&] { verify(last); });
  EXPECT_THAT(error.message(), AllOf(HasSubstr(data.string()), HasSubstr("checksum"), HasSubstr("expected")));
  EXPECT_THAT(error.next_step(), HasSubstr(middle.string()));
  verify(last, Check::sizes);
  EXPECT_EQ(latest_good(folder.path())->step, 70);
  EXPECT_EQ(latest_good(folder.path(), Check::sizes)->step, 100);

  fs::resize_file(data, 1000);
  error = error_of([&] { const CheckpointReader reader(last); });
  EXPECT_THAT(error.message(), AllOf(HasSubstr(data.string()), HasSubstr("1000 bytes"),
                                     HasSubstr("expected " + std::to_string(whole.size()))));
  EXPECT_THAT(error.next_step(), HasSubstr(middle.string()));

  fs::remove(data);
  fs::remove(middle / kManifestName);
  error = error_of([&] { verify(last / ""); });
  EXPECT_THAT(error.message(), AllOf(HasSubstr(data.string()), HasSubstr("missing")));
  EXPECT_THAT(error.next_step(), HasSubstr(first.string()));
  EXPECT_THAT(error_of([&] { verify(middle); }).message(), HasSubstr("never completed"));
  EXPECT_THAT(error_of([&] { verify(folder.path() / "step_00000200"); }).next_step(), HasSubstr(first.string()));

  // The first of all has nothing to offer.
  overwrite(first / "tensors-00002-of-00002.safetensors", 3, 'x');
  EXPECT_THAT(error_of([&] { verify(first); }).next_step(), HasSubstr("no good checkpoint"));
  EXPECT_FALSE(latest_good(folder.path()).has_value());

  write_atomically(data, whole);  // as it was
  verify(last);
}

TEST(Checkpoint, EverySingleChangedByteIsNoticed) {
  const TemporaryFolder folder;
  const fs::path saved = save(folder.path(), 3);
  for (const fs::directory_entry& entry : fs::directory_iterator(saved)) {
    const std::string whole = read_text(entry.path());
    for (size_t at = 0; at<whole.size(); at += whole.size()> 1000 ? 37 : 1) {
      overwrite(entry.path(), static_cast<int64_t>(at), static_cast<char>(whole[at] ^ 4));
      // White space between the manifest's words is not part of what it says, all else is.
      const bool meaningless = entry.path().filename() == kManifestName && std::isspace(whole[at]) != 0;
      if (!meaningless) {
        ASSERT_THROW(verify(saved), Error) << entry.path() << " byte " << at;
      }
      overwrite(entry.path(), static_cast<int64_t>(at), whole[at]);
    }
  }
  verify(saved);
}

TEST(Manifest, EveryTruncationIsRefusedAndPrettyPrintingIsNot) {
  Manifest manifest;
  manifest.step = 12;
  manifest.files = {{"tensors.safetensors", 123, 0xabcdef01}};
  manifest.extra = {{"nan", std::nan("")}, {"tiny", 5e-324}, {"text", "\x80 not UTF-8"}, {"third", 1.0 / 3}};
  const std::string text = to_text(manifest);
  const Manifest back = parse_manifest(text, "m");
  EXPECT_EQ(back.step, 12);
  EXPECT_EQ(back.files[0].crc32c, 0xabcdef01U);
  EXPECT_EQ(back.extra["third"].get<double>(), 1.0 / 3);
  EXPECT_EQ(back.extra["tiny"].get<double>(), 5e-324);
  EXPECT_EQ(parse_manifest(nlohmann::json::parse(text).dump(8), "m").step, 12);
  for (size_t size = 0; size + 1 < text.size(); ++size) {  // the last byte is a line end
    ASSERT_THAT(error_of([&] { parse_manifest(std::string_view(text).substr(0, size), "m.json"); }).message(),
                HasSubstr("m.json"))
        << size;
  }
  EXPECT_THROW(parse_manifest(std::string(100000, '['), "m"), Error);
}

TEST(Manifest, RefusesForeignFilesAndNewerVersions) {
  Manifest manifest;
  for (const std::string name : {"../x", "/etc/passwd", "", "..", "a/b", "manifest.json"}) {
    manifest.files = {{name, 1, 1}};
    EXPECT_THAT(error_of([&] { parse_manifest(to_text(manifest), "m"); }).message(), HasSubstr("outside")) << name;
  }
  manifest.files = {{"a", 1, 1}, {"a", 1, 1}};
  EXPECT_THROW(parse_manifest(to_text(manifest), "m"), Error);
  manifest.files.clear();
  manifest.version = kManifestVersion + 1;
  EXPECT_THAT(error_of([&] { parse_manifest(to_text(manifest), "m"); }).message(), HasSubstr("version"));
}

TEST(Checkpoint, AnInterruptedSaveLeavesNothingThatLooksLikeOne) {
  const TemporaryFolder folder;
  save(folder.path(), 10);
  CheckpointWriter writer(folder.path(), 20, small_layout());
  writer.create();
  EXPECT_TRUE(fs::exists(writer.temporary_folder()));
  EXPECT_EQ(list_checkpoints(folder.path()).size(), 1U);
  EXPECT_THAT(error_of([&] { verify(writer.temporary_folder()); }).next_step(), HasSubstr("step_00000010"));
  const std::vector<float> values = values_of(1);
  writer.write_range("weight", 0, 10, ConstRef(values.data()));
  EXPECT_THROW(writer.commit(writer.finish(), {}), Error);  // not all was written
  EXPECT_FALSE(fs::exists(writer.folder()));
  writer.abort();
  EXPECT_FALSE(fs::exists(writer.temporary_folder()));

  fs::create_directories(folder.path() / "step_00000030.tmp");
  fs::create_directories(folder.path() / "step_00000031.trash");
  fs::create_directories(folder.path() / "mine.tmp");
  remove_leftovers(folder.path());
  EXPECT_FALSE(fs::exists(folder.path() / "step_00000030.tmp"));
  EXPECT_FALSE(fs::exists(folder.path() / "step_00000031.trash"));
  EXPECT_TRUE(fs::exists(folder.path() / "mine.tmp"));
  EXPECT_EQ(list_checkpoints(folder.path()).size(), 1U);
}

TEST(Checkpoint, TheSameStepCanBeSavedAgain) {
  const TemporaryFolder folder;
  const fs::path saved = save(folder.path(), 10);
  overwrite(saved / "tensors-00001-of-00002.safetensors", 1500, 'x');
  EXPECT_THROW(verify(saved), Error);
  save(folder.path(), 10);
  verify(saved);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);
}

TEST(Checkpoint, PruneKeepsTheLastAndTheBest) {
  const TemporaryFolder folder;
  for (const int64_t step : {10, 20, 30, 40, 50}) fs::create_directories(folder.path() / folder_name(step));
  fs::create_directories(folder.path() / "step_7");
  fs::create_directories(folder.path() / "step_00000abc");
  EXPECT_EQ(prune(folder.path(), 9), (std::vector<int64_t>{}));
  const std::vector<int64_t> best{20};
  EXPECT_EQ(prune(folder.path(), 2, best), (std::vector<int64_t>{10, 30}));
  std::vector<int64_t> left;
  for (const CheckpointEntry& entry : list_checkpoints(folder.path())) left.push_back(entry.step);
  EXPECT_EQ(left, (std::vector<int64_t>{20, 40, 50}));
  EXPECT_EQ(prune(folder.path(), 1), (std::vector<int64_t>{20, 40}));
  EXPECT_TRUE(list_checkpoints(folder.path() / "none").empty());
}

TEST(Checkpoint, AFullDiskIsAnErrorBeforeATensorIsWritten) {
  const TemporaryFolder folder;
  const fs::path disk = folder.path() / "disk";
  fs::create_directories(disk);
  if (::mount("none", disk.c_str(), "tmpfs", 0, "size=64k") != 0) {
    GTEST_SKIP() << "a small tmpfs cannot be mounted here: " << std::strerror(errno);
  }
  const fs::path good = save(disk, 1);
  CheckpointWriter writer(disk, 2, plan_layout({{"large", DType::f32, {1 << 20}}}));
  const Error error = error_of([&] { writer.create(); });
  EXPECT_THAT(error.message(), AllOf(HasSubstr("step_00000002.tmp"), HasSubstr("No space")));
  EXPECT_THAT(error.next_step(), HasSubstr("space"));
  EXPECT_FALSE(fs::exists(writer.temporary_folder()));
  verify(good);
  EXPECT_EQ(latest_good(disk)->step, 1);
  ::umount(disk.c_str());
}

}  // namespace
}  // namespace ridgeline::checkpoint
