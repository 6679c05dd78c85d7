#!/bin/bash
# Which checkpoint a run goes on from, and which are kept. See support.sh.
#
#   field_checkpoints.sh RIDGELINE MPIEXEC CASE
set -uo pipefail
program=$1 mpiexec=$2 case=$3
self=$(realpath "$0")
# shellcheck source=support.sh
source "$(dirname "$self")/support.sh"

# begin OPTIONS...: a run of 12 steps on one rank, saved at 4, 8 and 12.
begin() {
  prepare
  run[2]=1
  run+=(--set train.steps=12 train.save_every=4 train.keep_last=0 data.split=80,20,0 data.tokenizer="$here/tokenizer" "$@")
  expect 0 'finished at step 12' -- "${run[@]}"
}

# The steps of the checkpoints in a folder, and of the records of a file of metrics.
saved() { ls "$1" | sed -n 's/^step_0*\([0-9]*\)$/\1/p' | tr '\n' ' ' | sed 's/ $//'; }
steps_of() { sed 's/^{"step": \([0-9]*\),.*/\1/' "$1" | tr '\n' ' ' | sed 's/ $//'; }

# was abandoned_branch: after --resume-from step 20 a stop at 27 was pruned behind steps 40 and 60 of the old branch, and --resume went on at 60
try_abandoned_branch() {
  begin
  local checkpoints=$here/run/checkpoints
  expect 0 'finished at step 6' 'step_00000008, step_00000012 .* kept in .*/checkpoints/branch_0' -- \
    "${run[@]}" --set train.steps=6 train.keep_last=1 --resume-from "$checkpoints/step_00000004"
  exact "checkpoints of the new branch" "6" "$(saved "$checkpoints")"
  exact "checkpoints of the old one" "8 12" "$(saved "$checkpoints/branch_0")"
  exact "metrics of the old one" "$(seq -s ' ' 12)" "$(steps_of "$checkpoints/branch_0/metrics.jsonl")"
  expect 0 'step +6,' 'branch 1, after step 4' -- inspect "$here/run"
  expect 0 -- eval --checkpoint "$here/run" --data "$here/data" --json
  grep -q '"step": 6' "$here/said" || complain "eval takes another checkpoint"
  expect 0 'resumed at step 6' 'finished at step 8' -- "${run[@]}" --set train.steps=8 --resume
  exact "records" "$(seq -s ' ' 8)" "$(steps_of "$here/run/metrics.jsonl")"
  # Back into the old branch.
  expect 0 'resumed at step 12' 'finished at step 14' -- \
    "${run[@]}" --set train.steps=14 --resume-from "$checkpoints/branch_0/step_00000012"
  exact "checkpoints" "14" "$(saved "$checkpoints")"
  exact "records" "$(seq -s ' ' 14)" "$(steps_of "$here/run/metrics.jsonl")"
  expect 0 'resumed at step 14' 'finished at step 15' -- "${run[@]}" --set train.steps=15 --resume
  now "the branch's own step 6 is kept, shown and resumed; steps 8 and 12 lie in checkpoints/branch_0"
}

# was killed_branch: a branch that was killed before its first save was forgotten: --resume went on with the old one
try_killed_branch() {
  begin
  "$program" "${run[@]}" --set train.steps=20000 train.save_every=0 --resume-from "$here/run/checkpoints/step_00000004" \
    >"$here/said" 2>&1 </dev/null &
  local process=$!
  echo $process >"$here/pid.0"
  for _ in $(seq 600); do
    if grep -q '"step": 20,' "$here/run/metrics.jsonl"; then break; fi
    sleep 0.02
  done
  kill -KILL $process
  wait $process 2>/dev/null
  expect 0 'resumed at step 4' 'finished at step 9' -- "${run[@]}" --set train.steps=9 --resume
  now "--resume goes on from step 4, where the branch began"
}

# was best_lost: the best step by validation was named by inspect and had no checkpoint, when evaluations and saves fell on different steps
try_best_lost() {
  # A learning rate that rises until the loss does, too: the first evaluation is the best.
  begin train.eval_every=5 train.keep_last=1 optimizer.learning_rate=5 optimizer.warmup_steps=11 optimizer.schedule=constant
  local best
  best=$(python3 - "$here/run/metrics.jsonl" <<'P'
import json, sys
records = [json.loads(line) for line in open(sys.argv[1])]
print(min((r["validation_loss"], r["step"]) for r in records if "validation_loss" in r)[1])
P
  )
  [ -e "$here/run/checkpoints/step_$(printf %08d "$best")/manifest.json" ] || complain "no checkpoint of the best step, $best"
  expect 0 "best .* at step $best" -- inspect "$here/run"
  exact "best step" 5 "$best"
  expect 0 'finished at step 22' -- "${run[@]}" --set train.steps=22 --resume
  exact "checkpoints" "$best 22" "$(saved "$here/run/checkpoints")"
  now "step $best, the best, was saved when it was evaluated and kept"
}

# was diverged_is_last_good: an update that diverged was saved and called the last good checkpoint; with keep_last = 1 nothing else was left
try_diverged_is_last_good() {
  begin data.split=1 train.keep_last=1
  local good
  expect 1 'not finite' 'last good checkpoint is' -- "${run[@]}" --set train.steps=60 train.save_every=1 optimizer.clip=0 \
    optimizer.learning_rate=1000 optimizer.weight_decay=1 optimizer.schedule=constant optimizer.warmup_steps=0 --resume
  good=$(sed -n "s/.*last good checkpoint is '\([^']*\)'.*/\1/p" "$here/said")
  [ -e "$good/manifest.json" ] || complain "'$good' is not there"
  [ -e "$here/run/failure.txt" ] || complain "no note of the failure"
  expect 0 "resumed at step" 'finished at step 60' -- "${run[@]}" --set train.steps=60 optimizer.learning_rate=1e-6 \
    optimizer.weight_decay=0 --resume
  [ ! -e "$here/run/failure.txt" ] || complain "the note of the failure is still there"
  now "an update whose forward pass is not finite is not saved; $(basename "$good") is good, and resumes to the end"
}

run_case
