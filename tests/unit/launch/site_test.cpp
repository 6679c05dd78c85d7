// A site's file: what is read, and what is said about one that makes no sense.
#include "ridgeline/launch/site.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"

namespace ridgeline::launch {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr const char* kPlain = R"(name = "plain"
about = "A cluster"
source = "its page"
[node]
cores = 16
ranks = 2
memory = 30.5
teraflops = 1
[links]
inside = 10
between = 1.5
)";

std::string site_refusal(const std::string& text) {
  try {
    parse_site(text, "my.toml");
  } catch (const Error& error) {
    return error.what();
  }
  return "none";
}

TEST(Site, ReadsKeysListsAndDefaults) {
  const Site site = parse_site(std::string("modules = [\"gcc\"]\n") + kPlain +
                                   "[slurm]\nneeds_account = true\n[[limit]]\nnodes = 4\nhours = 0.5\n"
                                   "[[srun]]\noption = \"--x\"\nwhy = \"y\"\nfor = \"devices\"\n"
                                   "[[environment]]\nname = \"A\"\nvalue = \"1\"\nwhy = \"z\"\n",
                               "my.toml");
  EXPECT_EQ(site.name, "plain");
  EXPECT_EQ(site.modules, std::vector<std::string>{"gcc"});
  EXPECT_EQ(site.node.cores, 16);
  EXPECT_EQ(site.node.cpus_per_core, 1);
  EXPECT_EQ(site.bytes(), int64_t{61} << 29);
  EXPECT_EQ(site.links.between, 1.5);
  EXPECT_TRUE(site.slurm.needs_account);
  ASSERT_EQ(site.limits.size(), 1U);
  EXPECT_EQ(site.limits[0].hours, 0.5);
  ASSERT_EQ(site.srun.size(), 1U);
  EXPECT_EQ(site.srun[0].use, Use::devices);
  ASSERT_EQ(site.environment.size(), 1U);
  EXPECT_EQ(site.environment[0].use, Use::always);
}

TEST(Site, SaysFileLineKeyAndWhatIsNearest) {
  EXPECT_THAT(site_refusal(std::string(kPlain) + "[slurm]\npartion = \"batch\"\n"),
              AllOf(HasSubstr("my.toml:13: slurm.partion: no such key"), HasSubstr("Did you mean slurm.partition?")));
  EXPECT_THAT(site_refusal(std::string(kPlain) + "[[enviroment]]\n"), HasSubstr("Did you mean environment?"));
  EXPECT_THAT(site_refusal(std::string(kPlain) + "[[srun]]\noption = \"--x\"\n"),
              AllOf(HasSubstr("my.toml:12: srun.why: missing")));
  EXPECT_THAT(site_refusal(std::string(kPlain) + "[[srun]]\noption = \"--x\"\nwhy = \"y\"\nfor = \"cards\"\n"),
              AllOf(HasSubstr("my.toml:15: srun.for"), HasSubstr("\"always\" or \"devices\"")));
  EXPECT_THAT(site_refusal("name = \"x\"\nabout = \"y\"\nsource = \"z\"\n"), HasSubstr("node.cores: missing"));
  EXPECT_THAT(site_refusal(std::string(kPlain) + "[slurm]\nsignal_before = 0\n"), HasSubstr("at least 1"));
  EXPECT_THAT(site_refusal("name = 3\n"), HasSubstr("my.toml:1: name: a string is expected"));
  EXPECT_THAT(site_refusal("name = \n"), HasSubstr("my.toml:1: "));
  EXPECT_THAT(site_refusal(std::string(kPlain) + "[environment]\nname = \"A\"\n"),
              HasSubstr("Begin each entry with [[environment]]."));
}

TEST(Site, RefusesWhatKeysMakeTogether) {
  const auto with = [](const std::string& from, const std::string& to) {
    std::string text = kPlain;
    text.replace(text.find(from), from.size(), to);
    return site_refusal(text);
  };
  EXPECT_THAT(with("ranks = 2", "ranks = 17"), HasSubstr("17 ranks on 16 cores"));
  EXPECT_THAT(with("ranks = 2", "ranks = 2\ndevices = 2"), HasSubstr("node.device_memory"));
  EXPECT_THAT(site_refusal(std::string(kPlain) + "[[limit]]\nnodes = 4\nhours = 1\n[[limit]]\nnodes = 4\nhours = 2\n"),
              HasSubstr("ascending"));
  EXPECT_THAT(site_refusal(std::string(kPlain) + "[[environment]]\nname = \"A-B\"\nvalue = \"1\"\nwhy = \"z\"\n"),
              HasSubstr("'A-B' is no name of a variable"));
  EXPECT_THAT(with("\"A cluster\"", "\"A\\nrm -rf x\""), HasSubstr("my.toml:2: about: a line break"));
}

TEST(Site, EveryKnownOneIsItsFileAndComplete) {
  std::vector<std::string> names;
  for (const KnownSite& known : known_sites()) {
    names.emplace_back(known.name);
    const std::string file = RIDGELINE_SOURCE "/launch/sites/" + names.back() + ".toml";
    EXPECT_EQ(read_text(file), known.text) << file;
    const Site site = read_site(names.back());
    EXPECT_EQ(site.name, known.name);
    EXPECT_EQ(read_site(file).about, site.about);
    // A rank per device, with whole cores each.
    EXPECT_TRUE(site.node.devices == 0 || site.node.ranks == site.node.devices) << names.back();
    EXPECT_EQ(site.node.cores % site.node.ranks, 0) << names.back();
    for (const Variable& variable : site.environment) EXPECT_GT(variable.why.size(), 20U) << variable.name;
    for (const SlurmOption& option : site.srun) EXPECT_GT(option.why.size(), 20U) << option.option;
    for (const SlurmOption& option : site.sbatch) EXPECT_GT(option.why.size(), 20U) << option.option;
  }
  EXPECT_THAT(names, testing::ElementsAre("frontier", "generic", "lumi", "perlmutter"));
}

TEST(Site, NamesTheNearestKnownOne) {
  try {
    read_site("perlmuter");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.message(), "--site perlmuter: no such site");
    EXPECT_THAT(error.next_step(), HasSubstr("Did you mean perlmutter?"));
  }
  EXPECT_THROW(read_site("./nowhere.toml"), Error);
}

}  // namespace
}  // namespace ridgeline::launch
