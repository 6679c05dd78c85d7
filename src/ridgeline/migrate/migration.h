// From what users of other trainers have (DeepSpeed's JSON, command lines of Megatron and of Hugging Face's Trainer,
// launch scripts around them) to one configuration, with a report of what became of everything. Pure: no files.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ridgeline/migrate/draft.h"
#include "ridgeline/migrate/source.h"

namespace ridgeline::migrate {

struct MigrationOptions {
  int64_t world = 0;  // ranks; 0: as the launch script says
  std::string model;  // preset, or Hugging Face folder, where the sources name none
};

struct Migration {
  std::string toml;         // the configuration, with a summary as comments; begins with kMark
  std::vector<Item> items;  // what the report says, in its order
  int64_t world = 0;        // ranks that it is for
  // Why `train` would refuse it as it stands (no model, a batch that does not divide); "" when it would not.
  std::string incomplete;
};

inline constexpr std::string_view kMark = "# Written by `ridgeline migrate`";
inline constexpr std::string_view kReportMark = "What `ridgeline migrate` made of";

// Files that a source names and that belong to the same run, as they are spelled there: the JSON behind
// --deepspeed_config or --deepspeed, and the Python program that is started. For whoever reads files.
std::vector<std::string> named_files(const Source& source);

// Error with file and line for sources that cannot be read or that name no training run, and for several runs at once.
Migration migrate(std::span<const Source> sources, const MigrationOptions& options);

// Plain text in sections, a line for each item; begins with kReportMark.
std::string report_text(const Migration& migration, std::span<const Source> sources);

}  // namespace ridgeline::migrate
