// A job as a script for sbatch. Pure.
#pragma once

#include <string>
#include <string_view>

#include "ridgeline/launch/job.h"

namespace ridgeline::launch {

inline constexpr std::string_view kScriptMark = "#!/bin/bash\n# Written by `ridgeline launch ";

// Bash, which shellcheck accepts; every setting with its reason. It starts or resumes the run; where that stops with
// more to do (exit code 75) and a newer checkpoint than it began with, the job queues itself again.
std::string job_script(const Site& site, const Job& job);

// As a word of a shell: quoted where it has to be.
std::string shell_word(std::string_view text);

}  // namespace ridgeline::launch
