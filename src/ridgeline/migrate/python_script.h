// What can be seen of a Python training script without running it: a few literals, with their lines. A script may
// decide anything, so what is found is reported with its place, and never more than this is looked for.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ridgeline/migrate/source.h"

namespace ridgeline::migrate {

struct PythonScript {
  struct Model {
    std::string name;  // as it is given to from_pretrained
    int64_t line = 0;
  };
  std::string name;
  std::vector<Model> models;  // every ...Model....from_pretrained("..."), in order
  int64_t block_length = 0;   // of max_length = N or block_size = N
  int64_t block_line = 0;
  int64_t fsdp_line = 0;              // of FSDP(...); 0: none
  bool fsdp_policy = false;           // with auto_wrap_policy
  bool fsdp_mixed_precision = false;  // with mixed_precision
  std::string text;

  // Whether `.name` is read anywhere, as of parsed arguments.
  bool reads(const std::string& member) const;
};

PythonScript read_python_script(const Source& source);

}  // namespace ridgeline::migrate
