// Every subcommand, in the order in which `ridgeline --help` lists them: the one list of them. To add one, write
// <name>.h and <name>.cpp like the others and add a line here and in CMakeLists.txt.
#pragma once

#include <array>

#include "ridgeline/cli/bench.h"
#include "ridgeline/cli/eval.h"
#include "ridgeline/cli/export.h"
#include "ridgeline/cli/generate.h"
#include "ridgeline/cli/inspect.h"
#include "ridgeline/cli/plan.h"
#include "ridgeline/cli/prepare.h"
#include "ridgeline/cli/tokenizer.h"
#include "ridgeline/cli/train.h"

namespace ridgeline::cli {

struct Command {
  const char* name;
  void (*add)(CLI::App& app);
};

inline constexpr std::array kCommands = {
    Command{"tokenizer", add_tokenizer}, Command{"prepare", add_prepare}, Command{"plan", add_plan},
    Command{"train", add_train},         Command{"eval", add_eval},       Command{"generate", add_generate},
    Command{"export", add_export},       Command{"inspect", add_inspect},
#if RIDGELINE_HAVE_BENCH
    Command{"bench", add_bench},
#endif
};

}  // namespace ridgeline::cli
