#!/bin/bash
# Runs that stop, die, and go on. See support.sh.
#
#   field_runs.sh RIDGELINE MPIEXEC CASE
set -uo pipefail
program=$1 mpiexec=$2 case=$3
self=$(realpath "$0")
# shellcheck source=support.sh
source "$(dirname "$self")/support.sh"

# begin OPTIONS...: options of a run on one rank.
begin() {
  prepare
  run[2]=1
  run+=(--set data.split=80,20,0 data.tokenizer="$here/tokenizer" "$@")
}

tree() { (cd "$1" && find . -type f -exec md5sum {} + | sort -k2 && find . -type d | sort); }
steps_of() { sed 's/^{"step": \([0-9]*\),.*/\1/' "$1" | tr '\n' ' ' | sed 's/ $//'; }

# stop_in_evaluation COMMAND...: starts the run, and asks the process in pid.0 to stop when it has evaluated for a while.
stop_in_evaluation() {
  # Several seconds of evaluation.
  for _ in $(seq 400); do cat "$here/text.txt"; done >"$here/long.txt"
  "$program" prepare --tokenizer "$here/tokenizer" --out "$here/long" "$here/long.txt" >"$here/said" 2>&1
  run+=(--set data.valid="$here/long")
  # The shells become the ranks, so their process numbers are known.
  # shellcheck disable=SC2016
  "$@" bash -c 'echo $$ >"$0/pid.${PMI_RANK:-${OMPI_COMM_WORLD_RANK:-0}}"; exec "$@"' "$here" "$program" "${run[@]}" \
    >"$here/said" 2>&1 </dev/null &
  local process=$! begun status=0 milliseconds
  for _ in $(seq 600); do
    if grep -q '"step": 2,' "$here/run/metrics.jsonl" 2>/dev/null; then break; fi
    sleep 0.02
  done
  sleep 0.5  # step 3 takes milliseconds
  begun=$(date +%s%N)
  kill -TERM "$(cat "$here/pid.0")"
  wait $process || status=$?
  milliseconds=$((($(date +%s%N) - begun) / 1000000))
  [ $status -eq 75 ] || complain "exit $status"
  grep -q 'stopped at step 3' "$here/said" || complain "did not stop at step 3"
  grep -q 'begins with the evaluation of this step' "$here/said" || complain "does not say that an evaluation is due"
  [ -e "$here/run/checkpoints/step_00000003/manifest.json" ] || complain "nothing was saved"
  ! grep -q validation_loss "$here/run/metrics.jsonl" || complain "the evaluation was not interrupted"
  # A shorter one is made up.
  expect 0 'step 3: validation loss' 'finished at step 6' -- "${run[@]}" --set train.eval_samples=8 --resume
  exact "records" "1 2 3 4 5 6" "$(steps_of "$here/run/metrics.jsonl")"
  exact "evaluated steps" "3 6" "$(grep validation_loss "$here/run/metrics.jsonl" | steps_of /dev/stdin)"
  now "stopped and saved $milliseconds ms after the signal; the evaluation is made up at resume"
}

# was stop_in_evaluation: SIGTERM inside an evaluation was answered after 66 s, and before any save
try_stop_in_evaluation() {
  begin train.eval_every=3 train.save_every=0 train.steps=6
  stop_in_evaluation
}

# was stop_of_one_rank: the same over MPI, where a signal may reach one rank alone
try_stop_of_one_rank() {
  if [ -z "$mpiexec" ] || [ "$mpiexec" = none ]; then echo "SKIPPED: $case: built without MPI"; exit 77; fi
  begin train.eval_every=3 train.save_every=0 train.steps=6
  run[2]=2
  stop_in_evaluation "$mpiexec" -n 2
}

# was queued_again: a run that stopped before its time limit ended with 0 like a finished one, --resume failed where
# nothing was saved yet, and a start without it where something was: no batch script could queue itself again
try_queued_again() {
  begin train.save_every=0 train.steps=1500 train.eval_every=0
  for _ in 1 2; do
    local status=0
    "$program" "${run[@]}" --resume-or-start --max-time 0.3s >"$here/said" 2>&1 </dev/null || status=$?
    exact "exit code of a stop" 75 $status
    grep -q 'stopped before the time limit' "$here/said" || complain "does not say why it stopped"
    ! grep -q 'error' "$here/said" || complain "takes a stop for an error"
  done
  expect 0 'finished at step 1500' -- "${run[@]}" --resume-or-start
  exact "steps" "$(seq -s ' ' 1500)" "$(steps_of "$here/run/metrics.jsonl")"
  expect 0 'nothing to do' -- "${run[@]}" --resume-or-start
  now "exit 75 while there is more to do, and every step once"
}

# was nan_validation: a validation loss that was no number at the last step ended with exit 0
try_nan_validation() {
  begin train.steps=1 train.save_every=0 optimizer.learning_rate=1000 optimizer.weight_decay=1 optimizer.clip=0 \
    optimizer.schedule=constant optimizer.warmup_steps=0
  expect 1 'the validation loss is not finite' 'first seen in' -- "${run[@]}"
  [ ! -e "$here/run/checkpoints/step_00000001" ] || complain "it was saved"
  now "exit 1: $(grep -o 'the validation loss is not finite; first seen in [^;(]*' "$here/said")"
}

# was finished_resume: --resume of a finished run said "loss 0.0000" and rewrote config.toml
try_finished_resume() {
  begin
  expect 0 'finished at step 4' -- "${run[@]}"
  tree "$here/run" >"$here/before"
  expect 0 'nothing to do' 'step 4 of train.steps = 4' -- "${run[@]}" --set train.keep_last=1 train.eval_every=2 --resume
  ! grep -q 'loss' "$here/said" || complain "speaks of a loss"
  tree "$here/run" >"$here/after"
  cmp -s "$here/before" "$here/after" || complain "the folder changed: $(diff "$here/before" "$here/after")"
  now "$(grep -o 'nothing to do' "$here/said"), and no file changes"
}

# was nothing_to_evaluate: an evaluation without a single prediction gave 0.0000 nats per token and exit 0
try_nothing_to_evaluate() {
  begin
  printf 'w\n' >"$here/one.txt"
  expect 0 -- prepare --tokenizer "$here/tokenizer" --out "$here/one" --no-eod "$here/one.txt"
  expect 0 'finished at step 4' -- "${run[@]}"
  expect 1 'nothing to evaluate' -- eval --checkpoint "$here/run" --data "$here/one" --whole
  expect 0 -- prepare --tokenizer "$here/tokenizer" --out "$here/data_no_eod" --no-eod "$here/text.txt"
  run[4]=$here/other
  expect 1 'nothing to evaluate' -- "${run[@]}" --set data.train="$here/data_no_eod" data.valid="$here/one"
  now "an error of eval and of train"
}

# was init_from_needed: a resumed run needed the folder that it once began from
try_init_from_needed() {
  begin
  expect 0 'finished at step 4' -- "${run[@]}"
  expect 0 -- export --checkpoint "$here/run" --out "$here/folder"
  local -a tuned=(train --ranks 1 --out "$here/tuned")
  local -a keys=(train.init_from="$here/folder" data.train="$here/data" train.global_batch=4 train.micro_batch=2 train.threads=1)
  expect 0 'finished at step 3' -- "${tuned[@]}" --set "${keys[@]}" train.steps=3
  mv "$here/folder" "$here/gone"
  expect 0 'finished at step 6' -- "${tuned[@]}" --config "$here/tuned/config.toml" --set train.steps=6 --resume
  expect 0 'finished at step 8' -- "${tuned[@]}" --set "${keys[@]}" train.steps=8 --resume
  expect 1 'model.layers = 3: the model in the checkpoint' -- "${tuned[@]}" --set "${keys[@]}" model.layers=3 train.steps=9 --resume
  expect 1 "$here/folder" -- train --ranks 1 --out "$here/anew" --set "${keys[@]}" train.steps=3
  now "it goes on without"
}

# was silent_start: nothing was said until the first step had ended; a run without a checkpoint was 'neither … nor a run'
try_silent_start() {
  begin train.steps=100000 train.save_every=0
  "$program" "${run[@]}" >"$here/said" 2>&1 </dev/null &
  local pid=$!
  echo $pid >"$here/pid.run"
  for _ in $(seq 300); do
    if [ -s "$here/run/metrics.jsonl" ]; then break; fi
    sleep 0.1
  done
  expect 1 'has no checkpoint yet' 'train.save_every steps' -- eval --checkpoint "$here/run" --data "$here/data"
  expect 1 'neither a checkpoint' 'ridgeline inspect' -- eval --checkpoint "$here/text.txt" --data "$here/data"
  kill -INT $pid
  wait $pid
  [ $? = 75 ] || complain "not stopped"
  rm "$here/pid.run"
  run[4]=$here/short
  expect 0 'parameters in fp32 on 1 rank of 1 thread; 4 steps of 8 sequences of 32 tokens; a checkpoint at the end only' 'finished' -- \
    "${run[@]}" --set train.steps=4
  now "what begins is said first; a run without a checkpoint is called so"
}

# was leftovers: a start left config.toml.*.tmp, a stale failure.txt, and one checkpoint too many of a run that was killed
try_leftovers() {
  begin train.keep_last=1
  expect 0 'finished at step 4' -- "${run[@]}"
  local checkpoints=$here/run/checkpoints file
  local -a left=("$here/run/config.toml.71.0.tmp" "$here/run/metrics.jsonl.71.3.tmp" "$here/run/failure.txt"
    "$checkpoints/lineage.json.71.1.tmp" "$checkpoints/step_00000004/manifest.json.71.2.tmp")
  plant() {
    for file in "${left[@]}"; do echo left >"$file"; done
    mkdir -p "$checkpoints/step_00000003.tmp" "$checkpoints/step_00000001.trash"
    cp -r "$checkpoints/step_00000004" "$checkpoints/step_00000002"  # stands for one that was not yet pruned
  }
  gone() {
    for file in "${left[@]}" "$checkpoints"/step_0000000[123]*; do
      if [ -e "$file" ]; then complain "$1: $file is left"; fi
    done
  }
  plant
  echo mine >"$here/run/config.toml.tmp"
  expect 0 'nothing to do' -- "${run[@]}" --resume
  gone "a finished run"
  plant
  expect 0 'finished at step 6' -- "${run[@]}" --set train.steps=6 train.save_every=0 --resume
  gone "a resumed run"
  [ -e "$here/run/config.toml.tmp" ] || complain "a file of the user's was removed"
  now "a start clears them, and leaves what is none of the run's"
}

# was killed: of 342 runs that were killed 40 lacked records of steps before their checkpoint, 2 kept a checkpoint too many
try_killed() {
  begin train.steps=40 train.save_every=4 train.eval_every=6 train.keep_last=2 train.eval_samples=4 --quiet
  python3 "$(dirname "$self")/kill_runs.py" "$program" "$here" "${run[@]}" >"$here/said" 2>&1 || complain "a killed run is not the run that was not"
  now "$(tail -1 "$here/said")"
}

run_case
