// Every subcommand, in the order in which `ridgeline --help` lists them: the one list of them. To add one, write
// <name>.h and <name>.cpp like the others and add a line here and in CMakeLists.txt.
#pragma once

#include <array>

#include "ridgeline/cli/bench.h"
#include "ridgeline/cli/command.h"
#include "ridgeline/cli/eval.h"
#include "ridgeline/cli/export.h"
#include "ridgeline/cli/fetch.h"
#include "ridgeline/cli/generate.h"
#include "ridgeline/cli/inspect.h"
#include "ridgeline/cli/launch.h"
#include "ridgeline/cli/migrate.h"
#include "ridgeline/cli/plan.h"
#include "ridgeline/cli/prepare.h"
#include "ridgeline/cli/tokenizer.h"
#include "ridgeline/cli/train.h"

namespace ridgeline::cli {

struct Entry {
  const char* name;
  void (*add)(const Command& program);
};

inline constexpr std::array kCommands = {
    Entry{"fetch", add_fetch},       Entry{"tokenizer", add_tokenizer}, Entry{"prepare", add_prepare},
    Entry{"plan", add_plan},         Entry{"train", add_train},         Entry{"eval", add_eval},
    Entry{"generate", add_generate}, Entry{"export", add_export},       Entry{"inspect", add_inspect},
    Entry{"launch", add_launch},     Entry{"migrate", add_migrate},
#if RIDGELINE_HAVE_BENCH
    Entry{"bench", add_bench},
#endif
};

}  // namespace ridgeline::cli
