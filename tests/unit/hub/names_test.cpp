#include "ridgeline/hub/names.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "ridgeline/base/error.h"
#include "ridgeline/hub/http.h"
#include "ridgeline/hub/retry.h"

namespace ridgeline::hub {
namespace {

TEST(HubNames, RepositoriesHaveOneOrTwoWords) {
  for (const char* name : {"gpt2", "gpt2-xl", "EleutherAI/gpt-j-6b", "oscar-corpus/OSCAR-2301", "a.b/c_d"})
    EXPECT_EQ(repository(RepositoryKind::model, name).name, name);
  for (const char* name : {"", "/", "a/", "/b", "a/b/c", "../x", "a/..", "a..b", "a--b", "a b", "a\nb", "-a", "a.",
                           ".a", "a%2e", "a\\b", "http://x"})
    EXPECT_THROW(repository(RepositoryKind::model, name), Error) << name;
  EXPECT_THROW(repository(RepositoryKind::model, std::string(97, 'a')), Error);
}

TEST(HubNames, AddressesAreThoseOfTheHub) {
  const Repository model{RepositoryKind::model, "EleutherAI/gpt-j-6b"};
  const Repository dataset{RepositoryKind::dataset, "oscar"};
  EXPECT_EQ(file_url("http://h", model, "refs/pr/1", "a b/ü.txt"),
            "http://h/EleutherAI/gpt-j-6b/resolve/refs%2Fpr%2F1/a%20b/%C3%BC.txt");
  EXPECT_EQ(file_url("http://h", dataset, "main", "x?y#z"), "http://h/datasets/oscar/resolve/main/x%3Fy%23z");
  EXPECT_EQ(api_url("http://h", dataset), "http://h/api/datasets/oscar");
  EXPECT_EQ(api_url("http://h", model), "http://h/api/models/EleutherAI/gpt-j-6b");
}

TEST(HubNames, OnlyPathsInsideAFolderAreSafe) {
  for (const char* path : {"a", "a/b.txt", ".gitattributes", "a..b", "...", "ü/日本"})
    EXPECT_TRUE(safe_path(path)) << path;
  for (const char* path :
       {"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a\nb", "a\x1b[2J", "a\x7f"})
    EXPECT_FALSE(safe_path(path)) << path;
  EXPECT_FALSE(safe_path(std::string_view("a\0b", 3)));
  EXPECT_TRUE(safe_path(std::string(255, 'a')));
  EXPECT_FALSE(safe_path(std::string(256, 'a')));
}

TEST(HubNames, CommitsAreFortyHexadecimalDigits) {
  EXPECT_TRUE(is_commit("0123456789abcdef0123456789abcdef01234567"));
  EXPECT_FALSE(is_commit("0123456789abcdef0123456789abcdef0123456"));
  EXPECT_FALSE(is_commit("0123456789ABCDEF0123456789abcdef01234567"));
  EXPECT_FALSE(is_commit("main"));
}

TEST(HubNames, PatternsAreThoseOfAShellAcrossFolders) {
  EXPECT_TRUE(matches("*.json", "a/b.json"));
  EXPECT_TRUE(matches("onnx/", "onnx/a/b"));
  EXPECT_FALSE(matches("onnx/", "onnx"));
  EXPECT_TRUE(matches("model-?-of-*", "model-1-of-2"));
  EXPECT_FALSE(matches("*.json", "a.jsonl"));
}

TEST(HubAddresses, RedirectsAreTakenAsSeenFromWhereTheyCome) {
  EXPECT_EQ(Http::resolved("https://h/a/b", "/c?d=e"), "https://h/c?d=e");
  EXPECT_EQ(Http::resolved("https://h/a/b", "c"), "https://h/a/c");
  EXPECT_EQ(Http::resolved("http://h/a", "https://other:1/x"), "https://other:1/x");
  EXPECT_EQ(Http::resolved("https://h/a", "http://h/a"), "") << "from https to http";
  for (const char* address : {"file:///etc/passwd", "ftp://h/x", "https://user@h/x", "https://"})
    EXPECT_EQ(Http::resolved("https://h/a", address), "") << address;
  EXPECT_EQ(without_query("https://h/a?Signature=secret"), "https://h/a");
}

TEST(HubAddresses, TheHubIsOneOrigin) {
  Environment environment;
  environment.endpoint = "https://Hub.example/mirror";
  const Http http(environment);
  EXPECT_TRUE(http.is_hub("https://hub.example:443/x"));
  for (const char* url : {"http://hub.example/x", "https://hub.example:444/x", "https://hub.example.evil.com/x",
                          "https://cdn.hub.example/", "https://evil.com/hub.example", "nothing"})
    EXPECT_FALSE(http.is_hub(url)) << url;
}

TEST(HubRetry, WhatFollowsFromAnAnswer) {
  for (const int status : {200, 206}) EXPECT_EQ(next_after(status, true), Next::done);
  for (const int status : {0, 408, 429, 500, 502, 503, 504}) {
    EXPECT_EQ(next_after(status, true), Next::again) << status;
    EXPECT_EQ(next_after(status, false), Next::again) << status;
  }
  for (const int status : {400, 401, 403, 404, 410, 416}) {
    EXPECT_EQ(next_after(status, true), Next::give_up) << status;
    EXPECT_EQ(next_after(status, false), Next::resolve_again) << status;
  }
}

TEST(HubRetry, PausesGrowToHalfAMinute) {
  EXPECT_EQ(pause_after(1, 0), 0.5);
  EXPECT_EQ(pause_after(1, 1), 0.25);
  EXPECT_EQ(pause_after(4, 0), 4);
  EXPECT_EQ(pause_after(100, 0), 30);
}

TEST(HubRetry, RetryAfterIsSecondsOrADate) {
  EXPECT_EQ(retry_after("120", 0), 120);
  EXPECT_EQ(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", 784111777 - 5), 5);
  EXPECT_EQ(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", 784111777 + 5), 0);
  for (const char* text : {"", "soon", "-1"}) EXPECT_EQ(retry_after(text, 0), std::nullopt) << text;
}

TEST(HubRetry, ALimitThatIsReachedSaysWhenItEnds) {
  EXPECT_EQ(limit_reset("\"api\";r=0;t=55"), 55);
  EXPECT_EQ(limit_reset("\"resolvers\"; r = 0 ; t = 5"), 5);
  for (const char* text : {"", "\"api\";r=3;t=55", "\"api\";r=0", "t=55", "r=0;t=", "r=0;t=-5", ";;", "r=;t=5"})
    EXPECT_EQ(limit_reset(text), std::nullopt) << text;
}

}  // namespace
}  // namespace ridgeline::hub
