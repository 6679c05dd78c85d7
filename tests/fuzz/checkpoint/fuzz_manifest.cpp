// Any bytes as a checkpoint's manifest: as they are, and as the body of one whose checksum is right. And as a lineage.
#include <fmt/format.h>

#include "fuzz_driver.h"
#include "ridgeline/base/checksum.h"
#include "ridgeline/base/error.h"
#include "ridgeline/checkpoint/lineage.h"
#include "ridgeline/checkpoint/manifest.h"

using namespace ridgeline;
using namespace ridgeline::checkpoint;
using nlohmann::json;

namespace {

void try_manifest(const std::string& text) {
  try {
    const Manifest manifest = parse_manifest(text, "input");
    for (const Manifest::FileRecord& file : manifest.files) {
      RL_REQUIRE(file.name.find('/') == std::string::npos && file.bytes >= 0, "'{}'", file.name);
    }
    // What was accepted can be written and is the same then.
    const std::string again = to_text(manifest);
    RL_REQUIRE(to_text(parse_manifest(again, "again")) == again, "{}", again);
  } catch (const Error&) {
  }
}

void try_lineage(const std::string& text) {
  try {
    const std::string again = to_text(parse_lineage(text, "input"));
    RL_REQUIRE(to_text(parse_lineage(again, "again")) == again, "{}", again);
  } catch (const Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try_manifest(text);
  try_lineage(text);
  int depth = 0;
  for (const char c : text) depth += c == '[' || c == '{';
  if (depth > 1000) return 0;  // the dump below recurses
  const json body = json::parse(text, nullptr, false);
  if (body.is_discarded()) return 0;
  const std::string dumped = body.dump();
  try_manifest(
      fmt::format(R"({{"crc32c":"{:08x}","manifest":{}}})", crc32c(bytes_of(std::string_view(dumped))), dumped));
  return 0;
}

std::vector<std::string> seeds() {
  Manifest manifest;
  manifest.step = 100;
  manifest.files = {{"tensors-00001-of-00002.safetensors", 4096, 0x12345678}, {"b.safetensors", 0, 0}};
  manifest.extra = {
      {"consumed_samples", 12345}, {"loss_scale", 65536.5}, {"config", "a = 1\n"}, {"list", {1, nullptr}}};
  const std::string text = to_text(manifest);
  const Lineage lineage{.branch = 2, .from = "step_00000020", .from_step = 20, .aside = "branch_1", .moving = {40, 60}};
  return {text, json::parse(text).at("manifest").dump(), json::parse(text).at("manifest").dump(1), to_text(lineage)};
}
