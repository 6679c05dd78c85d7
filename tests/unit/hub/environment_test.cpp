#include "ridgeline/hub/environment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"

namespace ridgeline::hub {
namespace {

Environment environment_with(std::map<std::string, std::string> variables) {
  variables.emplace("HOME", "/nowhere/me");
  return Environment::of([&](const std::string& name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  });
}

TEST(HubEnvironment, DefaultsAreThoseOfTheHubsOwnClient) {
  const Environment environment = environment_with({});
  EXPECT_EQ(environment.endpoint, "https://huggingface.co");
  EXPECT_EQ(environment.cache, "/nowhere/me/.cache/huggingface/hub");
  EXPECT_EQ(environment.token, "");
  EXPECT_FALSE(environment.offline);
}

TEST(HubEnvironment, TheCacheIsWhereTheVariablesSay) {
  EXPECT_EQ(environment_with({{"XDG_CACHE_HOME", "/x"}}).cache, "/x/huggingface/hub");
  EXPECT_EQ(environment_with({{"HF_HOME", "~/hf"}, {"XDG_CACHE_HOME", "/x"}}).cache, "/nowhere/me/hf/hub");
  EXPECT_EQ(environment_with({{"HF_HOME", "$SCRATCH/hf"}, {"SCRATCH", "/s"}}).cache, "/s/hf/hub");
  EXPECT_EQ(environment_with({{"HF_HOME", "${SCRATCH}x/$NONE"}, {"SCRATCH", "/s"}}).cache, "/sx/$NONE/hub");
  EXPECT_EQ(environment_with({{"HF_HUB_CACHE", "/c"}, {"HF_HOME", "/h"}}).cache, "/c");
  EXPECT_EQ(environment_with({{"HF_HUB_CACHE", "/c"}, {"HOME", ""}}).cache, "/c");
  EXPECT_EQ(environment_with({{"HOME", ""}}).cache, "") << "no error before a cache is wanted";
}

TEST(HubEnvironment, ServersAndSwitches) {
  EXPECT_EQ(environment_with({{"HF_ENDPOINT", "http://localhost:80//"}}).endpoint, "http://localhost:80");
  for (const char* bad : {"hub.example", "ftp://x", "https://a b", "https://x?y", "https://me@x"})
    EXPECT_THROW(environment_with({{"HF_ENDPOINT", bad}}), Error) << bad;
  for (const char* on : {"1", "true", "ON", "Yes"})
    EXPECT_TRUE(environment_with({{"HF_HUB_OFFLINE", on}}).offline) << on;
  EXPECT_FALSE(environment_with({{"HF_HUB_OFFLINE", "0"}, {"TRANSFORMERS_OFFLINE", "1"}}).offline);
  EXPECT_TRUE(environment_with({{"TRANSFORMERS_OFFLINE", "1"}}).offline);
  EXPECT_TRUE(environment_with({}).progress);
  EXPECT_FALSE(environment_with({{"HF_HUB_DISABLE_PROGRESS_BARS", "1"}}).progress);
  EXPECT_EQ(environment_with({{"HF_HUB_DOWNLOAD_TIMEOUT", "5"}}).stall_seconds, 5);
  for (const char* bad : {"0", "x", "5s", "nan", "-1"})
    EXPECT_THROW(environment_with({{"HF_HUB_DOWNLOAD_TIMEOUT", bad}}), Error) << bad;
}

TEST(HubEnvironment, TheTokenIsOneWordFromAKnownPlace) {
  const std::filesystem::path home = std::filesystem::path(testing::TempDir()) / "hub_environment";
  make_folder(home);
  write_atomically(home / "token", "hf_file\n");
  EXPECT_EQ(environment_with({{"HF_HOME", home.string()}}).token, "hf_file");
  EXPECT_THAT(environment_with({{"HF_HOME", home.string()}}).token_source, testing::HasSubstr("hub_environment/token"));
  const Environment set = environment_with({{"HF_HOME", home.string()}, {"HF_TOKEN", " hf_set\n"}});
  EXPECT_EQ(set.token, "hf_set");
  EXPECT_EQ(set.token_source, "HF_TOKEN");
  EXPECT_EQ(environment_with({{"HF_HOME", home.string()}, {"HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"}}).token, "");
  EXPECT_THROW(environment_with({{"HF_TOKEN", "a\r\nHost: evil"}}), Error);
  std::filesystem::remove_all(home);
}

}  // namespace
}  // namespace ridgeline::hub
