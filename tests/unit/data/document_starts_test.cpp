// What is found of llm.c's token files is kept, believed when it is theirs, and found by one process.
#include "ridgeline/data/document_starts.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <optional>
#include <thread>

#include "ridgeline/base/checksum.h"
#include "ridgeline/base/file.h"
#include "ridgeline/base/lock_file.h"
#include "ridgeline/data/block_checksums.h"
#include "ridgeline/data/indexed_dataset.h"
#include "support.h"

namespace ridgeline::data {
namespace {

namespace fs = std::filesystem;
using test::bytes_read;
using test::TemporaryFolder;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr int64_t kTokens = 600'000;  // of 2 bytes: more than kLeastKept

// Of llm.c, with GPT-2's ids: documents begin at `starts`, other tokens are 7.
std::string tokens_with(const std::vector<uint32_t>& starts, int64_t tokens = kTokens) {
  std::string bytes(1024, '\0');
  const int32_t header[3] = {20240520, 1, static_cast<int32_t>(tokens)};
  std::memcpy(bytes.data(), header, sizeof header);
  std::vector<uint16_t> ids(static_cast<size_t>(tokens), 7);
  for (const uint32_t start : starts) ids[start] = 50256;
  return bytes.append(reinterpret_cast<const char*>(ids.data()), 2 * ids.size());
}

// What one search did.
struct Found {
  std::vector<DocumentStarts> starts;
  int64_t read = 0;  // bytes
  std::vector<std::string> said;
};

Found find(const std::vector<fs::path>& paths, int threads = 1, bool only_to_keep = false) {
  std::vector<LlmcFile> files;
  for (const fs::path& path : paths) files.push_back(llmc_file(path).value());
  Found found;
  found.starts = document_starts(files, {.threads = threads,
                                         .only_to_keep = only_to_keep,
                                         .progress = [&](int64_t done, int64_t) { found.read = done; },
                                         .say = [&](const std::string& what) { found.said.push_back(what); }});
  return found;
}

void change(const fs::path& file, const std::function<void(std::string&)>& change_bytes) {
  std::string bytes = read_text(file);
  change_bytes(bytes);
  write_atomically(file, bytes);
}

// A folder is the user's cache as long as this lives.
class CacheIn {
 public:
  explicit CacheIn(const fs::path& folder) {
    if (const char* const before = std::getenv("XDG_CACHE_HOME"); before != nullptr) before_ = before;
    ::setenv("XDG_CACHE_HOME", folder.c_str(), 1);
  }
  ~CacheIn() {
    if (before_) {
      ::setenv("XDG_CACHE_HOME", before_->c_str(), 1);
    } else {
      ::unsetenv("XDG_CACHE_HOME");
    }
  }
  CacheIn(const CacheIn&) = delete;
  CacheIn& operator=(const CacheIn&) = delete;

 private:
  std::optional<std::string> before_;
};

TEST(DocumentStarts, AreFoundOnceAndKeptBesideTheFile) {
  const TemporaryFolder folder;
  const std::vector<uint32_t> starts = {0, 300, 301, 599'999};
  const std::string bytes = tokens_with(starts);
  const fs::path file = folder.write("a.bin", bytes), kept = folder / ".ridgeline" / "a.bin.documents";
  const Found first = find({file}), second = find({file});
  ASSERT_EQ(first.starts.size(), 1U);
  EXPECT_EQ(first.starts[0].starts, starts);
  EXPECT_THAT(first.starts[0].checksums, ElementsAre(crc32c(bytes_of(bytes))));
  EXPECT_EQ(first.read, std::ssize(bytes));
  EXPECT_EQ(second.read, 0);
  EXPECT_EQ(second.starts, first.starts);
  EXPECT_THAT(second.said, IsEmpty());
  EXPECT_TRUE(fs::exists(kept));
  EXPECT_FALSE(fs::exists(lock_file_of(kept.parent_path())));

  // A small file is read, whoever asks, and nothing is left beside it.
  const TemporaryFolder other;
  const fs::path small = other.write("a.bin", tokens_with({5}, 10));
  EXPECT_EQ(find({small}, 1, true).read, 0);
  EXPECT_EQ(find({small}).starts[0].starts, (std::vector<uint32_t>{5}));
  EXPECT_EQ(find({small}).read, 1044);
  EXPECT_EQ(other.files(), 1U);
}

TEST(DocumentStarts, DoNotDependOnThreadsAndBlocks) {
  const TemporaryFolder folder;
  // Two files; the first is of two blocks of checksums, with documents around their border.
  const int64_t border = (kChecksumBlock - 1024) / 2;
  const std::vector<uint32_t> starts = {1, static_cast<uint32_t>(border - 1), static_cast<uint32_t>(border),
                                        static_cast<uint32_t>(border + 9)};
  const std::string bytes = tokens_with(starts, border + 10);
  const std::vector<fs::path> files = {folder.write("a.bin", bytes), folder.write("b.bin", tokens_with({3}))};
  const Found three = find(files, 3);
  EXPECT_EQ(three.starts[0].starts, starts);
  const std::span<const std::byte> all = bytes_of(bytes);
  EXPECT_THAT(three.starts[0].checksums,
              ElementsAre(crc32c(all.first(kChecksumBlock)), crc32c(all.subspan(kChecksumBlock))));
  EXPECT_EQ(three.starts[1].starts, (std::vector<uint32_t>{3}));
  fs::remove_all(folder / ".ridgeline");
  const Found one = find(files, 1);
  EXPECT_EQ(one.starts, three.starts);
  EXPECT_EQ(one.read, static_cast<int64_t>(fs::file_size(files[0]) + fs::file_size(files[1])));
}

TEST(DocumentStarts, AreFoundAgainWhereWhatIsKeptIsNotTheFiles) {
  const TemporaryFolder folder;
  const fs::path file = folder.write("a.bin", tokens_with({10, 20})), kept = folder / ".ridgeline" / "a.bin.documents";
  find({file});
  const std::string whole = read_text(kept);
  // Damaged anywhere: a bit in each of its fields, and cut.
  for (const size_t at :
       {size_t{0}, size_t{9}, size_t{17}, size_t{25}, size_t{30}, size_t{38}, size_t{45}, whole.size() - 1}) {
    change(kept, [&](std::string& bytes) { bytes[at] = static_cast<char>(bytes[at] ^ 4); });
    const Found again = find({file});
    EXPECT_THAT(again.said, ElementsAre(HasSubstr("a.bin.documents' is damaged: it is read again"))) << at;
    EXPECT_EQ(again.starts[0].starts, (std::vector<uint32_t>{10, 20}));
    EXPECT_EQ(read_text(kept), whole) << at;
  }
  change(kept, [](std::string& bytes) { bytes.resize(bytes.size() / 2); });
  EXPECT_THAT(find({file}).said, ElementsAre(HasSubstr("is damaged")));

  // Other tokens under the name: at once, of the same size, and even with the same time.
  const fs::file_time_type time = fs::last_write_time(file);
  const auto is_read_again = [&](const std::vector<uint32_t>& starts) {
    const Found again = find({file});
    EXPECT_THAT(again.said, ElementsAre(HasSubstr("a.bin' has changed since its documents were found")));
    EXPECT_EQ(again.starts[0].starts, starts);
  };
  folder.write("a.bin", tokens_with({10, 30}));
  is_read_again({10, 30});
  folder.write("a.bin", tokens_with({10, 30}, kTokens + 1));
  is_read_again({10, 30});
  folder.write("a.bin", tokens_with({10, 30}));
  fs::last_write_time(file, time);
  is_read_again({10, 30});
  folder.write("a.bin", tokens_with({11}));
  fs::last_write_time(file, time);
  is_read_again({11});
}

TEST(DocumentStarts, AreKeptInTheCacheWhereTheFolderCannotBeWritten) {
  const TemporaryFolder folder, cache;
  const CacheIn use(cache / "user");
  const fs::path file = folder.write("a.bin", tokens_with({10, 20}));
  folder.write(".ridgeline", "a file where the folder would be: that stops root, too");
  const Found first = find({file}), second = find({file});
  EXPECT_EQ(first.read, static_cast<int64_t>(fs::file_size(file)));
  EXPECT_EQ(second.read, 0);
  EXPECT_EQ(second.starts, first.starts);
  EXPECT_TRUE(fs::exists(cache / "user" / "ridgeline" / "documents" / fs::canonical(folder / "").relative_path() /
                         "a.bin.documents"));
  // Nowhere.
  cache.write("file", "");
  const CacheIn nowhere(cache / "file");
  const Found third = find({file}), fourth = find({file}, 1, true);
  EXPECT_EQ(third.starts, first.starts);
  EXPECT_EQ(third.read, first.read);
  EXPECT_THAT(third.said, ElementsAre(HasSubstr("set XDG_CACHE_HOME")));
  EXPECT_EQ(fourth.read, 0) << "asked only to keep it";
}

TEST(DocumentStarts, AreFoundByOneOfSeveral) {
  const TemporaryFolder folder;
  const std::vector<fs::path> files = {folder.write("a.bin", tokens_with({1, 2})),
                                       folder.write("b.bin", tokens_with({3}))};
  std::vector<Found> found(4);
  const int64_t before = bytes_read();
  std::vector<std::thread> threads;
  for (Found& each : found) threads.emplace_back([&each, &files] { each = find(files); });
  for (std::thread& thread : threads) thread.join();
  int64_t read = 0;
  for (const Found& each : found) {
    EXPECT_EQ(each.starts, found[0].starts);
    read += each.read;
  }
  const auto bytes = static_cast<int64_t>(fs::file_size(files[0]) + fs::file_size(files[1]));
  EXPECT_EQ(read, bytes);
  if (before < 0) GTEST_SKIP() << "no /proc/self/io";
  EXPECT_GE(bytes_read() - before, bytes);
  EXPECT_LT(bytes_read() - before, bytes + bytes / 2) << "of four: one reads the files, the others what it kept";
}

TEST(DocumentStarts, OfDatasetsAreFoundBefore) {
  const TemporaryFolder folder;
  folder.write("a1.bin", tokens_with({0, 10}));
  folder.write("a2.bin", tokens_with({20}));
  int64_t read = 0;
  const FindingStarts finding{.progress = [&](int64_t done, int64_t) { read = done; }};
  IndexedDataset::find_documents(folder / "nothing", finding);
  EXPECT_EQ(read, 0);
  IndexedDataset::find_documents(folder / "a*.bin", finding);
  EXPECT_EQ(read, 2 * (1024 + 2 * kTokens));
  const auto dataset = IndexedDataset::open(folder / "a*");
  EXPECT_THAT(dataset->lengths(), ElementsAre(10, kTokens - 10 + 20, kTokens - 20)) << "nothing kept matches a*";
  EXPECT_THAT(dataset->checksums(1), ElementsAre(crc32c(bytes_of(tokens_with({20})))));
  EXPECT_EQ(IndexedDataset::open(folder / "a2.bin")->documents(), 2);
}

}  // namespace
}  // namespace ridgeline::data
