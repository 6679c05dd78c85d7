// The commands `tokenizer` and `prepare`, called as the program calls them.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "ridgeline/cli/command.h"
#include "ridgeline/cli/input_checksums.h"
#include "ridgeline/cli/prepare.h"
#include "ridgeline/cli/tokenizer.h"
#include "ridgeline/data/indexed_dataset.h"
#include "support.h"

namespace ridgeline::cli {
namespace {

using data::test::TemporaryFolder;
using testing::HasSubstr;

// Standard output of the command line.
std::string run(const std::vector<std::string>& arguments) {
  CommandLine line("ridgeline", "", "", [] { return std::string(); });
  line.program().needs_subcommand();
  add_tokenizer(line.program());
  add_prepare(line.program());
  std::vector<const char*> words = {"ridgeline"};
  for (const std::string& argument : arguments) words.push_back(argument.c_str());
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  try {
    line.run(static_cast<int>(words.size()), words.data());
  } catch (...) {
    testing::internal::GetCapturedStdout();
    testing::internal::GetCapturedStderr();
    throw;
  }
  testing::internal::GetCapturedStderr();
  return testing::internal::GetCapturedStdout();
}

TEST(DataCommands, FromTextToDatasetAndBack) {
  const TemporaryFolder folder;
  const std::string tokenizer = folder / "tok", prefix = folder / "data/d";
  const std::string text = folder.write("a.txt", "the cat and the hat\n\nthe bat that is that\n");
  EXPECT_THAT(run({"tokenizer", "train", "--vocab", "262", "--out", tokenizer, text}),
              HasSubstr("a vocabulary of 262"));
  EXPECT_THAT(run({"prepare", "--tokenizer", tokenizer, "--out", prefix, text}), HasSubstr("2 documents"));
  EXPECT_EQ(data::IndexedDataset::open(prefix)->note()->tokenizer, tokenizer);

  const std::string ids = run({"tokenizer", "encode", "--tokenizer", tokenizer, "the cat"});
  std::vector<std::string> decode{"tokenizer", "decode", "--tokenizer", tokenizer};
  std::istringstream words(ids);
  for (std::string id; words >> id;) decode.push_back(id);
  EXPECT_EQ(run(decode), "the cat\n");
}

TEST(DataCommands, BlocksAreReportedWithWhatTheyDrop) {
  const TemporaryFolder folder;
  const std::string tokenizer = data::test::fixture("gpt2_tokenizer"), json = folder / "report.json";
  // Six tokens, three, and one.
  const std::string text = folder.write("a.txt", "one two three four five six\n\none two three\n\none\n");
  const std::string said =
      run({"prepare", "--tokenizer", tokenizer, "--out", folder / "d", "--blocks", "2", "--json", json, text});
  EXPECT_THAT(said, HasSubstr("4 blocks of 2 tokens out of 3 documents; dropped: 2 tokens (20.0 %)"));
  EXPECT_THAT(said, HasSubstr("those of 1 document shorter than one"));
  const auto report = nlohmann::json::parse(read_text(json));
  EXPECT_EQ(report.at("blocks"),
            (nlohmann::json{{"tokens", 2}, {"corpus_documents", 3}, {"short_documents", 1}, {"dropped_tokens", 2}}));
  EXPECT_EQ(data::IndexedDataset::open(folder / "d")->block(), 2);
  EXPECT_ERROR("--blocks", run({"prepare", "--tokenizer", tokenizer, "--out", folder / "e", "--blocks", "1", text}));
  EXPECT_ERROR("--blocks 7 keeps" + std::string(),
               run({"prepare", "--tokenizer", tokenizer, "--out", folder / "e", "--blocks", "99",
                    folder.write("b.txt", "one two three four five six seven\n")}));
}

TEST(DataCommands, SayWhatWasSkippedAndWhatIsSmaller) {
  const TemporaryFolder folder;
  const std::string tokenizer = folder / "tok";
  const std::string lines = folder.write("a.jsonl", "{\"body\": \"ab ab\"}\n{\"body\": \"cut");
  EXPECT_ERROR("1 JSON line gave no document and was skipped",
               run({"tokenizer", "train", "--vocab", "9999", "--key", "body", "--out", tokenizer, lines}));
  EXPECT_ERROR("made of the other 1 document",
               run({"prepare", "--tokenizer", tokenizer, "--out", folder / "d", "--key", "body", "--no-eod", lines}));
  EXPECT_EQ(data::IndexedDataset::open(folder / "d")->note()->end_of_document, -1);

  const std::string whole = folder.write("b.jsonl", "{\"body\": \"ab ab\"}\n");
  EXPECT_THAT(run({"tokenizer", "train", "--vocab", "9999", "--key", "body", "--out", tokenizer, whole}),
              HasSubstr("fewer than the 9999 asked for"));
}

TEST(DataCommands, OscarIsFilteredAndReported) {
  const TemporaryFolder folder;
  const std::string tokenizer = data::test::fixture("gpt2_tokenizer"), json = folder / "report.json";
  std::filesystem::create_directory(folder / "oscar");
  std::filesystem::copy(data::test::fixture("corpora/oscar_2301.jsonl.zst"), folder / "oscar");
  folder.write("oscar/README.md", "no corpus");
  const std::vector<std::string> words = {"prepare",      "--tokenizer",      tokenizer, "--out",
                                          folder / "d",   "--json",           json,      "--drop-quality-warnings",
                                          "noisy,header", "--min-harmful-pp", "100",     "--min-language-probability",
                                          "0.5",          folder / "oscar"};
  const std::string said = run(words);
  EXPECT_THAT(said, HasSubstr("2 documents, 9 tokens"));
  EXPECT_THAT(said, HasSubstr("MB/s of text"));
  EXPECT_THAT(said, HasSubstr("\n   4 …          2  ####"));
  EXPECT_THAT(said, HasSubstr("README.md (not called .txt or .jsonl)"));
  EXPECT_THAT(said, HasSubstr("1 document was dropped: quality warning noisy"));
  EXPECT_THAT(said, HasSubstr("0 documents were dropped: quality warning header"));
  EXPECT_THAT(said, HasSubstr("1 document was kept although its metadata cannot tell: low harmful_pp"));
  const auto report = nlohmann::json::parse(read_text(json));
  EXPECT_EQ(report["documents"], 2);
  EXPECT_EQ(report["tokens"], 9);
  EXPECT_EQ(report["dropped"]["low harmful_pp"], 1);
  EXPECT_EQ(report["passed_over"].size(), 1U);
  EXPECT_EQ(report["documents_by_tokens"],
            nlohmann::json::parse("[{\"tokens\":1,\"documents\":0},{\"tokens\":2,\"documents\":0},"
                                  "{\"tokens\":4,\"documents\":2}]"));
  run(words);  // its own report is replaced
  EXPECT_ERROR("Ridgeline did not write it", run({"prepare", "--tokenizer", tokenizer, "--out", folder / "d", "--json",
                                                  folder.write("mine.json", "{\"mine\": 1}"), folder / "oscar"}));
  EXPECT_ERROR("a name is missing", run({"prepare", "--tokenizer", tokenizer, "--out", folder / "d",
                                         "--drop-quality-warnings", "noisy,,tiny", folder / "oscar"}));
  EXPECT_THAT(run({"tokenizer", "train", "--vocab", "260", "--out", folder / "t", "--drop-quality-warnings", "all",
                   folder / "oscar"}),
              HasSubstr("from 2 documents"));
}

TEST(InputChecksums, AreReadAsOscarAndSha256sumWriteThem) {
  const std::string a(64, 'a'), b(64, 'B');
  const auto sums =
      parse_checksums("af_part_1.txt.gz\t" + a + "\n" + b + "  ./br_meta/br.jsonl.zst\r\n" + a + " *c d.txt\n" +
                      a.substr(1) + "  short.txt\nname\tno\n\n" + a + "\n" + a + "  \ne.txt\t" + b);
  EXPECT_THAT(sums, testing::ElementsAre(testing::Pair("af_part_1.txt.gz", a),
                                         testing::Pair("br.jsonl.zst", std::string(64, 'b')),
                                         testing::Pair("c d.txt", a), testing::Pair("e.txt", std::string(64, 'b'))));
}

TEST(DataCommands, InputsAreComparedWithTheirChecksums) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "af");
  const std::string tokenizer = data::test::fixture("gpt2_tokenizer");
  for (const char* name : {"af/af_part_1.txt", "af/af_part_2.txt", "af/af_part_3.txt"}) folder.write(name, "abc");
  const std::vector<std::string> words = {"prepare",    "--tokenizer", tokenizer,    "--out",
                                          folder / "d", "--verify",    folder / "af"};
  EXPECT_ERROR("have no checksums beside them", run(words));
  const std::string sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";  // of "abc": FIPS 180-2
  folder.write("af/af_sha256.txt", "af_part_1.txt\t" + sum + "\naf_part_2.txt\t" + sum + "\n");
  EXPECT_THAT(run(words), HasSubstr("3 documents"));
  folder.write("af/af_part_2.txt", "abd");
  EXPECT_ERROR("af_part_2.txt' has the SHA-256 a52d159f262b2c6ddb724a61840befc36eb30c88877a4030b65cbe86298449c9, and",
               run(words));
  EXPECT_ERROR("standard input (-) has no checksum",
               run({"prepare", "--tokenizer", tokenizer, "--out", folder / "d", "--verify", "-"}));
}

TEST(DataCommands, ReasonsOfSkippedLinesAreCounted) {
  const TemporaryFolder folder;
  const std::string tokenizer = data::test::fixture("gpt2_tokenizer"), json = folder / "report.json";
  const std::string lines =
      folder.write("a.jsonl", "{\"text\": \"a\"}\n{\"text\": 1}\n{\"text\": \"b\n{\"x\": \"\"}\n");
  EXPECT_ERROR("3 JSON lines gave no document",
               run({"prepare", "--tokenizer", tokenizer, "--out", folder / "d", "--json", json, lines}));
  const auto report = nlohmann::json::parse(read_text(json));
  EXPECT_EQ(report["skipped"],
            nlohmann::json::parse("{\"not an object whose 'text' is a string\": 1, \"not valid JSON\": "
                                  "1, \"the object has no 'text'\": 1}"));
  EXPECT_EQ(report["problems"][1]["file"], lines);
  EXPECT_EQ(report["problems"][1]["line"], 3);
  EXPECT_ERROR("a.jsonl:2: a document or JSON line of more than 12 bytes",
               run({"prepare", "--tokenizer", tokenizer, "--out", folder / "d", "--max-document", "12",
                    folder.write("a.jsonl", "{\"text\":\"a\"}\n{\"text\":\"ab\"}\n")}));
}

TEST(DataCommands, NamesOfSpecialTokensInTheTextAreSaid) {
  const TemporaryFolder folder;
  const std::string text = folder.write("a.txt", "one\n<|endoftext|>\ntwo\n<|endoftext|>\n"),
                    tokenizer = folder / "tok";
  const std::string said = "'<|endoftext|>' stands 2 times in the text";
  EXPECT_THAT(run({"tokenizer", "train", "--vocab", "260", "--out", tokenizer, text}), HasSubstr(said));
  EXPECT_THAT(run({"prepare", "--tokenizer", tokenizer, "--out", folder / "d", text}), HasSubstr(said));
  EXPECT_THAT(run({"prepare", "--specials", "--tokenizer", tokenizer, "--out", folder / "d", text}),
              testing::Not(HasSubstr("stands")));
}

TEST(DataCommands, ATokenizerOfOthersIsNotReplaced) {
  const TemporaryFolder folder;
  const std::string text = folder.write("a.txt", "the cat and the hat"), tokenizer = folder / "tok";
  std::filesystem::copy(data::test::fixture("gpt2_tokenizer"), tokenizer, std::filesystem::copy_options::recursive);
  EXPECT_ERROR("Ridgeline did not write it", run({"tokenizer", "train", "--vocab", "260", "--out", tokenizer, text}));
  EXPECT_ERROR("is the input", run({"tokenizer", "train", "--vocab", "260", "--key", "x", "--out", folder / "",
                                    folder.write("vocab.json", "{\"x\": \"the cat\"}")}));
  const std::string own = folder / "own";
  run({"tokenizer", "train", "--vocab", "260", "--out", own, text});
  run({"tokenizer", "train", "--vocab", "261", "--out", own, text});
}

TEST(DataCommands, TheReportIsNoFileOfTheDataset) {
  const TemporaryFolder folder;
  const std::string tokenizer = data::test::fixture("gpt2_tokenizer"), text = folder.write("a.txt", "a");
  const auto prepare = [&](const std::filesystem::path& out, const std::filesystem::path& json) {
    return run({"prepare", "--tokenizer", tokenizer, "--out", out, "--json", json, text});
  };
  for (const char* suffix : {".bin", ".idx", ".json", ".lock"}) {
    EXPECT_ERROR("a file of the dataset", prepare(folder / "d", folder / ("./d" + std::string(suffix))));
    EXPECT_EQ(folder.files(), 1U) << "nothing was begun";
  }
  EXPECT_THAT(prepare(folder / "d.bin", folder / "r.json"), HasSubstr((folder / "d").string() + ".bin, "))
      << "not d.bin.bin";
  EXPECT_EQ(data::IndexedDataset::open(folder / "d")->documents(), 1);
  std::filesystem::create_symlink(folder / "d.idx", folder / "link");
  EXPECT_ERROR("a file of the dataset", prepare(folder / "d", folder / "link"));
}

TEST(DataCommands, FilesThatAreNamedTwiceAreSaid) {
  const TemporaryFolder folder;
  const std::string tokenizer = data::test::fixture("gpt2_tokenizer"), text = folder.write("a.txt", "a");
  const std::string json = folder / "r.json";
  const auto expect_said = [&](const std::string& said) {
    EXPECT_THAT(said, HasSubstr("2 documents"));
    EXPECT_THAT(said, HasSubstr("1 of the input files is the same as another one before it"));
    EXPECT_EQ(nlohmann::json::parse(read_text(json))["repeated"].size(), 1U);
  };
  expect_said(run({"prepare", "--tokenizer", tokenizer, "--out", folder / "d", "--json", json, text, text}));
  run({"prepare", "--tokenizer", tokenizer, "--out", folder / "d", text});
  expect_said(run(
      {"prepare", "--tokenizer", tokenizer, "--out", folder / "e", "--json", json, folder / "d", folder / "d.bin"}));
}

TEST(DataCommands, OptionsOfTextAreNoneOfTokenIds) {
  const TemporaryFolder folder;
  const std::string tokenizer = data::test::fixture("gpt2_tokenizer"), text = folder.write("a.txt", "a");
  run({"prepare", "--tokenizer", tokenizer, "--out", folder / "d", text});
  EXPECT_ERROR("--verify: the inputs are token ids",
               run({"prepare", "--tokenizer", tokenizer, "--out", folder / "e", "--verify", folder / "d"}));
  EXPECT_ERROR("--max-document: the inputs are token ids",
               run({"prepare", "--tokenizer", tokenizer, "--out", folder / "e", "--max-document", "5", folder / "d"}));
}

TEST(DataCommands, ErrorsReachTheCaller) {
  const TemporaryFolder folder;
  const std::string text = folder.write("a.txt", "a");
  EXPECT_ERROR("no tokenizer in", run({"prepare", "--tokenizer", folder / "none", "--out", folder / "d", text}));
  EXPECT_ERROR("--vocab: 5 is out of range", run({"tokenizer", "train", "--vocab", "5", "--out", folder / "t", text}));
  EXPECT_ERROR("bad.jsonl:1:", run({"prepare", "--tokenizer", data::test::fixture("gpt2_tokenizer"), "--out",
                                    folder / "d", "--strict", folder.write("bad.jsonl", "{")}));
  EXPECT_THROW(run({"prepare", text}), UsageError);
  EXPECT_THROW(run({"tokenizer"}), UsageError);
}

}  // namespace
}  // namespace ridgeline::cli
