#!/bin/bash
# The program with the threads that it takes by itself, on the processors there are and on more that are pretended
# (RIDGELINE_PROCESSORS), every buffer watched (RIDGELINE_GUARD): the bits of one thread. And what ends a run that hangs.
# See support.sh; exit code 77: this machine cannot try it, and why.
#
#   field_threads.sh RIDGELINE MPIEXEC CASE
set -uo pipefail
program=$1 mpiexec=$2 case=$3
self=$(realpath "$0")
# shellcheck source=support.sh
source "$(dirname "$self")/support.sh"
unset RIDGELINE_PROCESSORS RIDGELINE_GUARD

# A corpus, and `model`: a model of which every product and attention is cut between two threads and more.
small_model() {
  local word
  prepare
  model=()
  for word in data.train="$here/data" model.layers=2 model.width=96 model.heads=4 model.vocab=300 model.context=48 \
    train.sequence=48 train.global_batch=12 train.micro_batch=2 train.steps=3 train.save_every=3 train.head_chunk=40 \
    train.eval_every=3 data.split=90,10,0 optimizer.warmup_steps=1 optimizer.learning_rate=0.003 "$@"; do
    model+=(--set "$word")
  done
}

# Losses, gradient norms and validation losses of a run, all digits.
numbers_of() {
  python3 -c '
import json, sys
for line in open(sys.argv[1]):
    row = json.loads(line)
    print(row["step"], *(repr(row.get(key)) for key in ("loss", "grad_norm", "validation_loss")))' "$1/metrics.jsonl"
}

# same FOLDER OTHER: the same losses, norms, and bytes of every checkpoint.
same() {
  exact "numbers of $1" "$(numbers_of "$here/$2")" "$(numbers_of "$here/$1")"
  local file
  for file in "$here/$2"/checkpoints/step_*/*.safetensors; do
    cmp "$file" "${file/"$here/$2"/"$here/$1"}" || complain "$1 and $2 differ in $(basename "$file")"
  done
  [ -n "${file:-}" ] && [ -e "$file" ] || complain "$2 has no checkpoint"
}

# matrix PROCESSORS SETTING...: default threads on 1, 2 and 3 ranks beside one thread. PROCESSORS "": those there are.
matrix() {
  local processors=$1 ranks
  shift
  small_model "$@"
  for ranks in 1 2 3; do
    expect 0 'finished at step 3' -- train --ranks $ranks --out "$here/one_$ranks" "${model[@]}" --set train.threads=1
    [ -z "$processors" ] || export RIDGELINE_PROCESSORS=$processors
    RIDGELINE_GUARD=1 expect 0 'finished at step 3' 'guard mode' -- train --ranks $ranks --out "$here/all_$ranks" "${model[@]}"
    unset RIDGELINE_PROCESSORS
    same all_$ranks one_$ranks
  done
  now "losses, norms and weights of one thread, on 1, 2 and 3 ranks"
}

# was default_threads: a run with the threads it takes by itself computed NaN, crashed or hung on two processors
try_default_threads() { matrix ''; }

# was default_threads_bf16: the same in bf16
try_default_threads_bf16() { matrix '' train.precision=bf16; }

# was default_threads_of_4: on four processors the second rank's threads wrote over the first's
try_default_threads_of_4() {
  matrix 4
  [ "$mpiexec" != none ] || return
  RIDGELINE_PROCESSORS=4 RIDGELINE_GUARD=1 timeout -s KILL 120 "$mpiexec" -n 2 "$program" train --out "$here/mpi" \
    "${model[@]}" >"$here/said" 2>&1 || complain "exit $? under MPI"
  same mpi one_2
  now "and two processes of two threads"
}

# was default_threads_of_4_bf16: the same in bf16
try_default_threads_of_4_bf16() { matrix 4 train.precision=bf16; }

# was default_threads_of_8: on eight processors every rank of three wrote over its neighbours
try_default_threads_of_8() { matrix 8 parallel.shard=gradients; }

# was default_threads_of_8_bf16: the same in bf16, weights sharded and activations recomputed
try_default_threads_of_8_bf16() { matrix 8 train.precision=bf16 parallel.shard=parameters train.recompute=selective; }

# The loss of `eval` and the text of `generate`, with the threads that they take by themselves and with one.
same_without_training() {
  local processors precision one all
  expect 0 'finished at step 3' -- train --out "$here/run" "${model[@]}" --set data.tokenizer="$here/tokenizer"
  for precision in fp32 bf16; do
    expect 0 -- eval --checkpoint "$here/run" --data "$here/data" --split 90,10,0 --precision $precision --json --threads 1
    cp "$here/said" "$here/eval"
    expect 0 -- generate --checkpoint "$here/run" --prompt w1 --tokens 24 --precision $precision --threads 1
    one=$(head -n -1 "$here/said")
    for processors in 3 8; do
      export RIDGELINE_PROCESSORS=$processors
      RIDGELINE_GUARD=1 expect 0 -- eval --checkpoint "$here/run" --data "$here/data" --split 90,10,0 --precision $precision --json
      cmp -s "$here/said" "$here/eval" || complain "eval in $precision on $processors processors differs"
      expect 0 -- generate --checkpoint "$here/run" --prompt w1 --tokens 24 --precision $precision
      all=$(head -n -1 "$here/said")
      unset RIDGELINE_PROCESSORS
      exact "text in $precision on $processors processors" "$one" "$all"
    done
  done
}

# was pretended_processors: there was no way to try what a larger machine would do
try_pretended_processors() {
  local value
  small_model
  same_without_training
  RIDGELINE_PROCESSORS=8 expect 0 '2 ranks, 4 threads each' -- plan --ranks 2 "${model[@]}"
  for value in 0 -1 two 4097 ''; do
    RIDGELINE_PROCESSORS=$value expect 1 "RIDGELINE_PROCESSORS=$value: no number from 1 to 4096" -- plan "${model[@]}"
  done
  RIDGELINE_GUARD=yes expect 1 'RIDGELINE_GUARD=yes: neither 0 nor 1' -- train --out "$here/run" "${model[@]}"
  now "RIDGELINE_PROCESSORS=8: 2 ranks of 4 threads; eval and generate give what one thread gives; no number: refused"
}

# Starts a run whose first step takes minutes, and waits until it is in it.
endless_step() {
  local word
  small_model
  model=(--set "data.train=$here/data")
  for word in model.layers=2 model.width=256 model.heads=4 model.vocab=512 model.context=256 train.sequence=256 \
    train.global_batch=8192 train.micro_batch=16 train.steps=2 data.split=100,0,0 train.eval_every=0; do
    model+=(--set "$word")
  done
  "$program" train --out "$here/run" "${model[@]}" >"$here/said" 2>&1 </dev/null &
  run=$!
  echo $run >"$here/pid.run"
  for _ in $(seq 300); do
    [ -e "$here/run/metrics.jsonl" ] && break
    kill -0 $run 2>/dev/null || break
    sleep 0.1
  done
  [ -e "$here/run/metrics.jsonl" ] || complain "the run did not begin"
}

# was second_sigterm: SIGTERM could not end a process whose step did not end, however often it came
try_second_sigterm() {
  local status=0 begin
  endless_step
  kill -TERM $run
  sleep 0.5
  kill -0 $run 2>/dev/null || complain "the first SIGTERM ended it"
  begin=$(date +%s%N)
  kill -TERM $run
  (sleep 10 && kill -KILL $run) 2>/dev/null &
  wait $run || status=$?
  exact "exit code after the second SIGTERM" 143 "$status"
  grep -q 'second SIGTERM, quitting without saving' "$here/said" || complain "does not say that it quits"
  rm -f "$here/pid.run"
  now "exit $status $((($(date +%s%N) - begin) / 1000000)) ms after the second one"
}

run_case
