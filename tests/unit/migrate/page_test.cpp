// docs/migrate.md shows what the program prints.
#include <gtest/gtest.h>

#include <map>
#include <sstream>

#include "scripts.h"

namespace ridgeline::migrate {
namespace {

TEST(Page, ShowsLinesOfTheScriptTheReportAndTheConfiguration) {
  const std::vector<Source> sources = script_with_files("gpt2_xl_ddp.sh");
  const Migration migration = migrate(sources, {});
  const std::map<std::string, std::string> texts = {{"sh", sources[0].text},
                                                    {"json", script_file("ds_config.json").text},
                                                    {"text", report_text(migration, sources)},
                                                    {"toml", migration.toml}};
  std::istringstream page(read_text(RIDGELINE_PAGE));
  std::map<std::string, int> compared;
  std::string fence;
  for (std::string line; std::getline(page, line);) {
    if (line.starts_with("```")) {
      fence = fence.empty() ? line.substr(3) + " " : "";
      continue;
    }
    const auto text = fence.empty() ? texts.end() : texts.find(fence.substr(0, fence.size() - 1));
    if (text == texts.end()) continue;
    EXPECT_NE(("\n" + text->second).find("\n" + line + "\n"), std::string::npos) << line;
    ++compared[text->first];
  }
  EXPECT_EQ(compared.size(), texts.size());
}

}  // namespace
}  // namespace ridgeline::migrate
