#include "ridgeline/train/output_folder.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "ridgeline/base/json.h"
#include "ridgeline/base/output.h"
#include "ridgeline/checkpoint/manifest.h"

namespace ridgeline::train {
namespace {

bool is_run_config(std::string_view start) {
  return start.starts_with(kRunConfigMark);
}
bool is_metrics(std::string_view start) {
  const auto line = parse_json_if_any(start.substr(0, start.find('\n')));
  return line.is_object() && line.contains("step");
}
bool is_failure(std::string_view start) {
  return start.starts_with("rank: ");
}

}  // namespace

void require_replaceable_run(const std::filesystem::path& out, std::span<const std::filesystem::path> inputs) {
  if (!checkpoint::list_checkpoints(out / "checkpoints").empty()) return;
  const std::string option = fmt::format("--out {}", out.string());
  // A run that is started again with its own config.toml writes the same one.
  if (!is_run_config(start_of(out / "config.toml")))
    require_replaceable(out / "config.toml", option, inputs, is_run_config);
  require_replaceable(out / "metrics.jsonl", option, inputs, is_metrics);
  require_replaceable(out / "failure.txt", option, inputs, is_failure);
}

}  // namespace ridgeline::train
