#include "ridgeline/hub/listing.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "ridgeline/base/error.h"

namespace ridgeline::hub {
namespace {

const std::string kSha1(40, 'a'), kSha256(64, 'b');

std::vector<RemoteFile> tree_of(const std::string& json) {
  std::vector<RemoteFile> files;
  parse_tree(json, "tree", files);
  return files;
}

std::string entry(const std::string& path, const std::string& size, const std::string& more = "") {
  return fmt::format(R"([{{"type":"file","oid":"{}","size":{},"path":{}{}}}])", kSha1, size, path, more);
}

TEST(HubListing, ATreeHasSizesAndTheHashesOfContent) {
  const std::string lfs = fmt::format(R"(,"lfs":{{"oid":"{}","size":7,"pointerSize":134}},"xetHash":"x")", kSha256);
  const auto files = tree_of(entry("\"a/b.txt\"", "5"));
  ASSERT_EQ(files.size(), 1);
  EXPECT_EQ(files[0].path, "a/b.txt");
  EXPECT_EQ(files[0].size, 5);
  EXPECT_EQ(files[0].etag, kSha1);
  EXPECT_EQ(files[0].digest(), DigestKind::git_sha1);
  const auto large = tree_of(entry("\"m\"", "134", lfs));
  EXPECT_EQ(large[0].size, 7) << "of the content, not of git's pointer to it";
  EXPECT_EQ(large[0].etag, kSha256);
  EXPECT_TRUE(tree_of(R"([{"type":"directory","path":"../x"}])").empty());
}

TEST(HubListing, WhatASoundHubDoesNotSayIsAnError) {
  for (const char* path : {R"("../x")", R"("/x")", R"("")", R"("a\u0000b")", R"("a\nb")", "5", "null"})
    EXPECT_THROW(tree_of(entry(path, "5")), Error) << path;
  for (const char* size : {"-1", "1.5", "\"5\"", "null", "18446744073709551615", "1e3", "9007199254740993000"})
    EXPECT_THROW(tree_of(entry("\"a\"", size)), Error) << size;
  EXPECT_THROW(tree_of(R"([{"type":"file","oid":"zz","size":1,"path":"a"}])"), Error);
  EXPECT_THROW(tree_of(entry("\"a\"", "5", R"(,"lfs":{"oid":"../../x","size":7})")), Error);
  for (const char* text : {"", "{}", "[1]", "<html>", "[", "{\"error\":\"x\"}"})
    EXPECT_THROW(tree_of(text), Error) << text;
  EXPECT_THROW(tree_of(std::string(100'000, '[')), Error);
}

TEST(HubListing, InfoHasTheCommitAndWhatTheCardSays) {
  const RepositoryInfo info = parse_info(
      fmt::format(R"({{"sha":"{}","siblings":[{{"rfilename":"a"}},{{"rfilename":"b/c"}}],"cardData":{{"configs":[
        {{"config_name":"en","data_files":[{{"split":"train","path":["en/*.gz","x"]}},{{"split":"test","path":"t"}}]}},
        {{"config_name":"de","data_files":"de/*"}},{{"config_name":"fr","data_dir":"fr"}},
        {{"config_name":"it","data_dir":"it","data_files":[{{"split":"train","path":"*.gz"}}]}},7,{{"x":1}}]}}}})",
                  kSha1),
      "info");
  EXPECT_EQ(info.commit, kSha1);
  EXPECT_THAT(info.paths, testing::ElementsAre("a", "b/c"));
  ASSERT_EQ(info.data.size(), 5);
  EXPECT_EQ(info.data[0].split, "train");
  EXPECT_THAT(info.data[0].patterns, testing::ElementsAre("en/*.gz", "x"));
  EXPECT_EQ(info.data[2].config, "de");
  EXPECT_THAT(info.data[3].patterns, testing::ElementsAre("fr/**"));
  EXPECT_THAT(info.data[4].patterns, testing::ElementsAre("it/*.gz")) << "as seen from its folder";
  for (const char* text : {"{}", "[]", R"({"sha":"main"})", R"({"sha":5})"})
    EXPECT_THROW(parse_info(text, "info"), Error) << text;
  EXPECT_THROW(parse_info(fmt::format(R"({{"sha":"{}","siblings":[{{"rfilename":"../a"}}]}})", kSha1), "info"), Error);
}

TEST(HubListing, NamesThatATerminalWouldTakeForCommandsAreNone) {
  const RepositoryInfo info =
      parse_info(fmt::format(R"({{"sha":"{}","cardData":{{"configs":[{{"config_name":"\u001b[2J","data_files":"a"}},
        {{"config_name":"en","data_files":[{{"split":"\u001b]0;x\u0007","path":"b"}}]}}]}}}})",
                             kSha1),
                 "info");
  ASSERT_EQ(info.data.size(), 1);
  EXPECT_EQ(info.data[0].config, "en");
  EXPECT_EQ(info.data[0].split, "");
  try {
    indexed_files(R"({"weight_map":{"\u001b[2J":5}})", "index");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.message(), R"(index: the file of "\u001b[2J" is none)");
  }
}

TEST(HubListing, PagesAndTags) {
  EXPECT_EQ(next_page(R"(<https://h/a?cursor=x>; rel="next")"), "https://h/a?cursor=x");
  EXPECT_EQ(next_page(R"(<https://h/p>; rel="prev", <https://h/n>; rel="next")"), "https://h/n");
  for (const char* link : {"", "<https://h/p>; rel=\"prev\"", "<https://h", "rel=\"next\"", "<>"})
    EXPECT_EQ(next_page(link), "") << link;
  EXPECT_EQ(plain_etag("W/\"abc\""), "abc");
  EXPECT_EQ(plain_etag("5f3e-1a2b"), "5f3e-1a2b");
  for (const char* etag : {"", "\"\"", "..", "a/b", "\"../../x\"", "a b"}) EXPECT_EQ(plain_etag(etag), "") << etag;
  EXPECT_EQ(plain_etag(std::string(129, 'a')), "");
  EXPECT_THAT(parse_refs(R"({"branches":[{"name":"main"},{"name":"../x"}],"tags":[{"name":"v1"},5]})"),
              testing::ElementsAre("main", "v1"));
  EXPECT_THAT(parse_refs("<html>"), testing::IsEmpty());
}

TEST(HubListing, AKeptTreeIsTakenWhenItIsSound) {
  const auto kept = [](const std::string& entry) {
    return parse_kept_tree(fmt::format(R"({{"format_version":1,"files":{{{}}}}})", entry));
  };
  const auto files = kept(fmt::format(
      R"("a":{{"size":5,"blob_id":"{0}"}},"m":{{"size":7,"blob_id":"{0}","lfs_sha256":"{1}"}})", kSha1, kSha256));
  ASSERT_TRUE(files);
  EXPECT_EQ((*files)[0].etag, kSha1);
  EXPECT_EQ((*files)[1].etag, kSha256);
  EXPECT_FALSE(kept(fmt::format(R"("../a":{{"size":5,"blob_id":"{}"}})", kSha1)));
  EXPECT_FALSE(kept(fmt::format(R"("a":{{"size":-5,"blob_id":"{}"}})", kSha1)));
  EXPECT_FALSE(kept(R"("a":{"size":5,"blob_id":"../x"})"));
  EXPECT_FALSE(kept(R"("a":5)"));
  for (const char* text : {"", "[]", "{}", R"({"format_version":2,"files":{}})"})
    EXPECT_FALSE(parse_kept_tree(text)) << text;
}

TEST(HubListing, AnIndexNamesItsPieces) {
  EXPECT_THAT(indexed_files(R"({"weight_map":{"a":"m-2","b":"m-1","c":"m-2"}})", "index"),
              testing::ElementsAre("m-1", "m-2"));
  for (const char* text : {"{}", "[]", R"({"weight_map":{"a":5}})", R"({"weight_map":{"a":"../x"}})"})
    EXPECT_THROW(indexed_files(text, "index"), Error) << text;
}

}  // namespace
}  // namespace ridgeline::hub
