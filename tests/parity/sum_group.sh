#!/bin/bash
# parallel.sum_group decides in which order gradients are added: other values, other bits; the same value, the same bits
# on threads and on two hosts (pretended ones), whether its groups lie on hosts or across them.
#   sum_group.sh RIDGELINE LAUNCHER bits
set -uo pipefail
program=$1 mpiexec=$2 case=$3
# shellcheck source=../field/support.sh
source "$(dirname "$(realpath "$0")")/../field/support.sh"

# train FOLDER SUM_GROUP PRECISION SHARD RANKS PROGRAM...: RANKS are threads, 0 for those of a launcher.
train() {
  local folder=$1 threads=$5 word
  local -a settings=()
  for word in "${sets[@]}" parallel.sum_group="$2" train.precision="$3" parallel.reduce_dtype="$3" parallel.shard="$4"; do
    settings+=(--set "$word")
  done
  if [ "$threads" -gt 0 ]; then settings+=(--ranks "$threads"); fi
  shift 5
  timeout -s KILL 120 "$@" train --quiet --out "$here/$folder" "${settings[@]}" >"$here/said" 2>&1 </dev/null ||
    complain "$folder: exit $?"
}

# Losses and gradient norms, all digits.
figures() { grep -oE '"(loss|grad_norm)": ?[^,}]*' "$here/$1/metrics.jsonl"; }

try_bits() {
  prepare
  local group precision shard name
  for precision in fp32 bf16; do
    for shard in none parameters; do
      for group in 1 2 3; do
        name=${precision}_${shard}_$group
        train "threads_$name" "$group" "$precision" "$shard" 4 "$program"
        [ "$(figures "threads_$name" | wc -l)" -eq 8 ] || complain "threads_$name: not four losses and norms"
        if [ "$mpiexec" = none ]; then continue; fi
        RIDGELINE_RANKS_PER_HOST=2 train "hosts_$name" "$group" "$precision" "$shard" 0 "$mpiexec" -n 4 "$program"
        exact "$name on hosts" "$(figures "threads_$name")" "$(figures "hosts_$name")"
      done
    done
  done
  # In fp32: where a sum is rounded to 16 bits, its order seldom shows.
  for shard in none parameters; do
    [ "$(figures "threads_fp32_${shard}_1")" != "$(figures "threads_fp32_${shard}_2")" ] ||
      complain "$shard: sum groups of 1 and of 2 give the same bits"
  done
}

run_case
