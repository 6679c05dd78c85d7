// Any text as a site's file.
#include "fuzz_driver.h"
#include "ridgeline/base/error.h"
#include "ridgeline/launch/site.h"

using namespace ridgeline;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const launch::Site site = launch::parse_site(text, "input");
    // What was accepted can be counted with.
    RL_REQUIRE(site.node.ranks >= 1 && site.node.ranks <= site.node.cores, "{}", text);
    RL_REQUIRE(site.bytes() > 0 && site.device_bytes() >= 0, "{}", text);
    RL_REQUIRE(site.links.inside > 0 && site.links.between > 0 && site.slurm.signal_before >= 1, "{}", text);
  } catch (const Error&) {
  }
  return 0;
}

std::vector<std::string> seeds() {
  std::vector<std::string> texts;
  for (const launch::KnownSite& known : launch::known_sites()) texts.emplace_back(known.text);
  return texts;
}
