// A folder for what a benchmark writes.
#pragma once

#include <filesystem>
#include <string>

namespace ridgeline::bench {

// New and empty; gone with this, and with it all that lies in it.
class Scratch {
 public:
  // In `folder`, which is made; "": the system's for temporary files. Error when it cannot be made.
  explicit Scratch(const std::filesystem::path& folder = {});
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

}  // namespace ridgeline::bench
