#!/bin/bash
# Text from a model. See support.sh; exit code 77: this machine cannot try it, and why.
#
#   field_generate.sh RIDGELINE MPIEXEC CASE
set -uo pipefail
program=$1 mpiexec=$2 case=$3
self=$(realpath "$0")
# shellcheck source=support.sh
source "$(dirname "$self")/support.sh"

# was statistics_line: statistics of `generate` stood on the line of the text
try_statistics_line() {
  prepare
  expect 0 'finished at step 4' -- "${run[@]}"
  expect 0 -- generate --checkpoint "$here/run" --prompt w1 --tokens 4
  tail -n 1 "$here/said" | grep -qE '^[0-9]+ tokens in [0-9.]+ s ' || complain "the last line is not the statistics alone"
  now "a line of its own: $(tail -n 1 "$here/said")"
}

# was sampling_numbers: `--temperature nan` was taken, and drew whatever came
try_sampling_numbers() {
  local option
  prepare
  expect 0 'finished at step 4' -- "${run[@]}"
  for option in '--temperature nan' '--temperature inf' '--top-p nan'; do
    # shellcheck disable=SC2086  # an option and its value
    expect 2 "${option% *}.*${option#* }" -- generate --checkpoint "$here/run" --prompt w1 --tokens 4 $option
  done
  now "$(head -n 1 "$here/said")"
}

run_case
