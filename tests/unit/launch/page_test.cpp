// docs/launch.md speaks of every option and of every key of a site; `launch` knows every option of `train`.
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <set>
#include <sstream>
#include <string>

#include "ridgeline/base/file.h"
#include "ridgeline/launch/site.h"

namespace ridgeline::launch {
namespace {

std::string printed(const std::string& arguments) {
  FILE* const pipe = ::popen((RIDGELINE_PROGRAM " " + arguments + " 2>&1").c_str(), "r");
  std::string text;
  std::array<char, 4096> part{};
  while (pipe != nullptr && std::fgets(part.data(), part.size(), pipe) != nullptr) text += part.data();
  if (pipe != nullptr) ::pclose(pipe);
  return text;
}

std::set<std::string> options_in(const std::string& help) {
  std::set<std::string> found;
  std::istringstream lines(help);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("  ")) continue;
    // "  --name ..." or "  -n,--name ..."
    const size_t at = line.find("--"), letters = at == std::string::npos ? at : at + 2;
    if (at != 2 && at != 5) continue;
    const size_t end = line.find_first_not_of("abcdefghijklmnopqrstuvwxyz-", letters);
    if (end != letters) found.insert(line.substr(at, end - at));
  }
  found.erase("--help");
  return found;
}

TEST(Page, NamesEveryOptionAndEveryKeyOfASite) {
  const std::string page = read_text(RIDGELINE_SOURCE "/docs/launch.md");
  const std::set<std::string> options = options_in(printed("launch --help"));
  EXPECT_GE(options.size(), 11U);
  for (const std::string& option : options) EXPECT_NE(page.find("`" + option), std::string::npos) << option;
  for (const std::string& key : site_keys()) EXPECT_NE(page.find("`" + key + "`"), std::string::npos) << key;
}

TEST(Page, LaunchKnowsEveryOptionOfTrain) {
  const std::set<std::string> options = options_in(printed("train --help"));
  EXPECT_GE(options.size(), 14U);
  for (const std::string& option : options) {
    const std::string said =
        printed("launch --site frontier --nodes 2 " RIDGELINE_SOURCE "/configs/gpt2_xl_ddp.toml -- " + option + "=1");
    EXPECT_EQ(said.find("no option of train"), std::string::npos) << option << ": " << said;
  }
}

}  // namespace
}  // namespace ridgeline::launch
