// Any text as a launch script, a command line, a Python program or DeepSpeed's JSON, alone and beside sound ones.
#include <algorithm>
#include <filesystem>

#include "fuzz_driver.h"
#include "ridgeline/base/error.h"
#include "ridgeline/base/file.h"
#include "ridgeline/migrate/migration.h"
#include "ridgeline/train/config.h"

using namespace ridgeline;

namespace {

const migrate::Source& sound_script() {
  static const migrate::Source kScript = {"gpt_22b_3d.sh",
                                          read_text(std::filesystem::path(RIDGELINE_SCRIPTS) / "gpt_22b_3d.sh")};
  return kScript;
}

void try_sources(const std::vector<migrate::Source>& sources) {
  try {
    for (const migrate::Source& source : sources) migrate::named_files(source);
    const migrate::Migration migration = migrate::migrate(sources, {});
    RL_REQUIRE(migration.toml.starts_with(migrate::kMark), "{}", migration.toml);
    // What is called complete is accepted.
    if (migration.incomplete.empty())
      train::check(train::parse_config_text(migration.toml, "migrated"), static_cast<int>(migration.world));
    migrate::report_text(migration, sources);
  } catch (const Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try_sources({{"input", text}});
  try_sources({sound_script(), {"ds_config_4N_22B.json", text}});
  return 0;
}

std::vector<std::string> seeds() {
  std::vector<std::string> texts;
  for (const auto& file : std::filesystem::directory_iterator(RIDGELINE_SCRIPTS))
    texts.push_back(read_text(file.path()));
  std::sort(texts.begin(), texts.end());
  texts.emplace_back(
      "A=(--lr 1e-3 'x y')\nif true; then B=$((2*(3+4)%5)); fi\ncat <<-'EOF' > ds.json\n\t{\"bf16\": {\"enabled\": "
      "true}}\nEOF\nexport C=${D:-7} E=`date`\ntorchrun --nproc_per_node $C run.py \"${A[@]}\" --deepspeed ds.json "
      "--output_dir $(mktemp) # end\n");
  return texts;
}
