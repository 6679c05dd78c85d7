#include "ridgeline/data/corpus_inputs.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ridgeline/data/corpus.h"
#include "support.h"

namespace ridgeline::data {
namespace {

namespace fs = std::filesystem;
using test::fixture;
using test::TemporaryFolder;
using testing::ElementsAre;
using testing::HasSubstr;

// Standard input is a file while it lives.
class StandardInput {
 public:
  explicit StandardInput(const fs::path& path) : before_(::dup(STDIN_FILENO)) {
    const int file = ::open(path.c_str(), O_RDONLY);
    ::dup2(file, STDIN_FILENO);
    ::close(file);
  }
  ~StandardInput() {
    ::dup2(before_, STDIN_FILENO);
    ::close(before_);
  }
  StandardInput(const StandardInput&) = delete;
  StandardInput& operator=(const StandardInput&) = delete;

 private:
  int before_;
};

std::vector<std::string> all_documents(const std::vector<fs::path>& named, int files_ahead = 1) {
  CorpusReader reader(named, {}, files_ahead);
  std::vector<std::string> documents;
  for (DocumentBatch batch; reader.next(batch); batch = {}) {
    reader.parse(batch);
    reader.add(batch);
    for (size_t i = 0; i < batch.size(); ++i) documents.emplace_back(batch[i]);
  }
  if (reader.bytes_total() != 0) {
    EXPECT_EQ(reader.bytes_done(), reader.bytes_total());
  }
  return documents;
}

std::vector<std::string> names_in(const TemporaryFolder& folder, const CorpusInputs& inputs) {
  std::vector<std::string> names;
  for (const CorpusFile& file : inputs.files) names.push_back(fs::relative(file.path, folder / "").string());
  return names;
}

TEST(CorpusInputs, CompressedFilesGiveTheDocumentsOfThePlainOne) {
  const std::vector<std::string> expected = all_documents({fixture("corpora/pages.txt")});
  EXPECT_THAT(expected, ElementsAre("A first document,\nof two lines.",
                                    "  The second: Übergröße, 漢字.\nIt ends without a blank line."));
  for (const char* name :
       {"pages.txt.gz", "members.txt.gz", "pages.txt.zst", "frames.txt.zst", "pages.txt.xz", "streams.txt.xz"})
    EXPECT_EQ(all_documents({fixture("corpora/" + std::string(name))}), expected) << name;
  // By content: the name says only what is inside.
  const TemporaryFolder folder;
  fs::copy(fixture("corpora/pages.txt.zst"), folder / "pages.txt");
  fs::copy(fixture("corpora/pages.txt.xz"), folder / "pages.txt.gz");
  EXPECT_EQ(all_documents({folder / "pages.txt"}), expected);
  EXPECT_EQ(all_documents({folder / "pages.txt.gz"}), expected);
}

TEST(CorpusInputs, ManyFilesAheadKeepTheirOrder) {
  const TemporaryFolder folder;
  std::vector<fs::path> files;
  std::vector<std::string> expected;
  for (int i = 0; i < 30; ++i) {
    const std::string text = std::to_string(i);
    files.push_back(i % 3 == 0 ? folder.write(text + ".txt", text) : fixture("corpora/members.txt.gz"));
    for (const std::string& document : all_documents({files.back()})) expected.push_back(document);
  }
  for (const int ahead : {0, 1, 7, 100}) EXPECT_EQ(all_documents(files, ahead), expected);
}

TEST(CorpusInputs, DamageIsAnErrorAfterTheDocumentsBeforeIt) {
  const TemporaryFolder folder;
  const std::string bytes = read_text(fixture("corpora/pages.txt.zst"));
  std::string many;
  while (many.size() < (size_t{4} << 20)) many += bytes;
  const auto cut = folder.write("cut.txt.zst", many.substr(0, many.size() - 5));
  EXPECT_ERROR("cut.txt.zst' is cut: it ends at byte " + std::to_string(many.size() - 5), all_documents({cut}));
  CorpusReader reader({cut}, {});
  DocumentBatch batch;
  EXPECT_TRUE(reader.next(batch));
}  // and a reader that is left in the middle ends its thread

TEST(CorpusInputs, FoldersAreReadInOrderAndWhatIsPassedOverIsSaid) {
  const TemporaryFolder folder;
  fs::create_directories(folder / "b/.hidden");
  fs::create_directories(folder / "a");
  folder.write("b/2.jsonl", "{\"text\": \"two\"}");
  folder.write("b/.hidden/x.txt", "no");
  folder.write("a/1.txt", "one");
  fs::copy(fixture("corpora/pages.txt.gz"), folder / "c.txt.gz");
  folder.write("README.md", "no");
  folder.write(".x.txt", "no");
  folder.write("en_sha256.txt", "abc\ten.txt");
  folder.write(
      "d.json",
      "{\"tokens\": 1, \"documents\": 1, \"vocabulary\": 1, \"end_of_document\": 1, \"tokenizer_hash\": \"\"}");
  folder.write("en_meta.jsonl", "{\"headers\": {}, \"offset\": 0, \"nb_sentences\": 2}\n");
  fs::create_directory_symlink(folder / "a", folder / "link");
  const std::vector<fs::path> named = {folder / ""};
  const CorpusInputs inputs = look_at_inputs(named);
  EXPECT_THAT(names_in(folder, inputs), ElementsAre("a/1.txt", "b/2.jsonl", "c.txt.gz"));
  EXPECT_THAT(inputs.passed_over,
              testing::UnorderedElementsAre(
                  HasSubstr(".hidden (hidden)"), HasSubstr("README.md (not called"), HasSubstr(".x.txt (hidden)"),
                  HasSubstr("en_sha256.txt (checksums)"), HasSubstr("d.json (the note of a token dataset)"),
                  HasSubstr("en_meta.jsonl (OSCAR's metadata"), HasSubstr("link (a link to a folder)")));
  EXPECT_THAT(all_documents({folder / "b"}), ElementsAre("two"));
  EXPECT_ERROR("has the metadata of OSCAR 21.09", all_documents({folder / "en_meta.jsonl"}));
  fs::create_directory(folder / "empty");
  EXPECT_ERROR("is a folder with 0 files, and none is a corpus", all_documents({folder / "empty"}));
}

TEST(CorpusInputs, FilesThatAreNamedTwiceAreReadTwiceAndSaid) {
  const TemporaryFolder folder;
  folder.write("1.txt", "one");
  folder.write("2.txt", "two");
  fs::create_symlink("1.txt", folder / "3.txt");
  fs::create_hard_link(folder / "2.txt", folder / "4.txt");
  const std::vector<fs::path> named = {folder / "", folder / "./1.txt"};
  const CorpusInputs inputs = look_at_inputs(named);
  EXPECT_EQ(inputs.files.size(), 5U);
  EXPECT_THAT(inputs.repeated, ElementsAre(HasSubstr("3.txt ("), HasSubstr("4.txt ("), HasSubstr("./1.txt (")));
  EXPECT_THAT(inputs.repeated[1], HasSubstr("2.txt)"));
}

TEST(CorpusInputs, PatternsAreExpandedWhenNoFileHasThatName) {
  const TemporaryFolder folder;
  for (const char* name : {"p2.txt", "p1.txt", "p10.txt", "q.txt", "p[1].txt"}) folder.write(name, name);
  EXPECT_THAT(all_documents({folder / "p*.txt"}), ElementsAre("p1.txt", "p10.txt", "p2.txt", "p[1].txt"));
  EXPECT_THAT(all_documents({folder / "p[1].txt"}), ElementsAre("p[1].txt"));
  EXPECT_THAT(all_documents({folder / "p[2].txt", folder / "q.txt"}), ElementsAre("p2.txt", "q.txt"));
  EXPECT_ERROR("no file matches", all_documents({folder / "z*"}));
}

TEST(CorpusInputs, StandardInputIsKnownByItsContent) {
  const TemporaryFolder folder;
  const std::vector<std::string> pages = all_documents({fixture("corpora/pages.txt")});
  for (const char* name : {"pages.txt", "pages.txt.gz", "frames.txt.zst", "streams.txt.xz"}) {
    const StandardInput input(fixture("corpora/" + std::string(name)));
    EXPECT_EQ(all_documents({"-"}), pages) << name;
  }
  {
    const StandardInput input(folder.write("lines", " \n{ \"text\": \"one\"}\n{\"text\": \"two\"}"));
    EXPECT_THAT(all_documents({"-"}), ElementsAre("one", "two"));
  }
  {
    const StandardInput input(folder.write("big", std::string(size_t{3} << 20, 'x') + "\n\nlast"));
    EXPECT_THAT(all_documents({"-", fixture("corpora/pages.txt.gz")}).size(), 4U);
  }
  {
    const StandardInput input(folder.write("parquet", std::string_view("PAR1\x15\0\xff", 7)));
    EXPECT_ERROR("pandas.read_parquet", all_documents({"-"}));
  }
  const StandardInput input(fixture("corpora/pages.txt"));
  EXPECT_ERROR("named twice", all_documents({"-", "-"}));
}

TEST(CorpusInputs, WhatIsInsideIsLookedAt) {
  const TemporaryFolder folder;
  EXPECT_ERROR("no input files", look_at_inputs({}));
  fs::copy(fixture("corpora/pages.txt.gz"), folder / "pages.csv.gz");
  EXPECT_ERROR("not from '.csv'", all_documents({folder / "pages.csv.gz"}));
  fs::copy(fixture("corpora/pages.txt.gz"), folder / "pages");
  EXPECT_EQ(all_documents({folder / "pages"}).size(), 2U) << "no name: known by the first line";
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_ERROR("is not a regular file", all_documents({folder / "pipe"}));
}

}  // namespace
}  // namespace ridgeline::data
