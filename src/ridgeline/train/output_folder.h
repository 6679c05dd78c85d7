// Where a run may be written.
#pragma once

#include <filesystem>
#include <span>
#include <string_view>

namespace ridgeline::train {

// The first line of a run's config.toml, by which it is known.
inline constexpr std::string_view kRunConfigMark = "# The effective configuration of a Ridgeline run.\n\n";

// Error unless a run can begin in `out` without loss: the files that it writes there (config.toml, metrics.jsonl,
// failure.txt) do not exist, or a run wrote them; and none is one of `inputs`. A folder with checkpoints is a run.
void require_replaceable_run(const std::filesystem::path& out, std::span<const std::filesystem::path> inputs);

}  // namespace ridgeline::train
