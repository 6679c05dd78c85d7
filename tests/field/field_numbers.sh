#!/bin/bash
# Numbers that nobody means: of keys and of the command line. Each is a run or an error by name, at once. See support.sh.
#
#   field_numbers.sh RIDGELINE MPIEXEC CASE
set -uo pipefail
program=$1 mpiexec=$2 case=$3
self=$(realpath "$0")
# shellcheck source=support.sh
source "$(dirname "$self")/support.sh"

# refused PATTERN COMMAND...: an error with PATTERN, within seconds of processor time and little memory.
refused() {
  local pattern=$1 status=0
  shift
  (
    ulimit -t 5
    ulimit -v $((4 << 20))
    timeout -s KILL 60 "$program" "$@"
  ) >"$here/said" 2>&1 </dev/null || status=$?
  echo "$*: exit $status: $(head -c 300 "$here/said" | tr '\n' ' ')"
  [ $status -eq 1 ] || [ $status -eq 2 ] || complain "exit $status"
  [ "$(grep -c '^ridgeline: error: ' "$here/said")" -eq 1 ] || complain "not said once"
  grep -qE -- "$pattern" "$here/said" || complain "does not say '$pattern'"
}

# was keep_last_beyond_32_bits: train.keep_last = 4294967296 aborted on a broken invariant when the first checkpoint was pruned
try_keep_last_beyond_32_bits() {
  prepare
  expect 0 'finished at step 4' -- "${run[@]}" --set train.keep_last=4294967296
  now "$(tail -1 "$here/said"), all checkpoints kept: $(ls "$here/run/checkpoints" | tr '\n' ' ')"
  run[4]=$here/other
  refused 'train.keep_last = 1000000000000000000: must be at most 9007199254740992' "${run[@]}" \
    --set train.keep_last=1000000000000000000
}

# was steps_beyond_all: train.steps = 1e18 ended as "unexpected: vector::_M_default_append"
try_steps_beyond_all() {
  prepare
  refused 'train.steps = 1000000000000000000: must be at most 9007199254740992' "${run[@]}" --set train.steps=1000000000000000000
  now "$(head -1 "$here/said")"
  refused 'train.steps|fewer steps' "${run[@]}" --set train.steps=9007199254740992 --set optimizer.schedule=constant
  refused 'train.steps|fewer steps' "${run[@]}" --set train.steps=100000000000 --set optimizer.schedule=constant
}

# was products_of_keys: keys whose product no number holds hung, or wrapped around to a plan of nonsense
try_products_of_keys() {
  prepare
  run[2]=1
  refused 'train.micro_batch = 1073741824, train.sequence = 32: together 3.44e\+10 tokens at once' "${run[@]}" \
    --set train.global_batch=1073741824 --set train.micro_batch=1073741824
  refused 'model.layers = 10000, model.width = 4194304, .*weights' plan "${run[@]:5}" \
    --set model.layers=10000 --set model.width=4194304 --set model.heads=65536
  now "$(head -1 "$here/said")"
  refused 'train.global_batch = 1073741824, train.micro_batch = 1, model.layers = 2: .*operations of a step' plan "${run[@]:5}" \
    --set train.global_batch=1073741824 --set train.micro_batch=1
}

# was too_large_for_memory: what no machine holds was refused without the keys that ask for it
try_too_large_for_memory() {
  prepare
  refused 'need.*GiB.*most of it.*model.vocab = 16000000' "${run[@]}" --set model.vocab=16000000 --set model.width=8192 --set model.heads=64
  now "$(head -1 "$here/said")"
}

# was many_threads: --threads 100000 ended in `terminate called`, train.threads=4096 on 1000 ranks hung
try_many_threads() {
  prepare
  expect 0 -- "${run[@]}"
  refused '--threads' generate --checkpoint "$here/run" --tokenizer "$here/tokenizer" --prompt w1 --threads 100000
  now "$(head -1 "$here/said")"
  refused '--threads' eval --checkpoint "$here/run" --data "$here/data" --threads 100000
  refused '--ranks 1000' eval --checkpoint "$here/run" --data "$here/data" --ranks 1000 --threads 1000
  run[2]=1000 run[4]=$here/other
  refused '--ranks 1000.*train.threads = 4096' "${run[@]}" --set train.threads=4096 --set train.global_batch=2000
  [ ! -e "$here/other" ] || complain "a folder was made"
}

# was many_ranks: `train --ranks 100000` and `plan --ranks 100000` hung
try_many_ranks() {
  prepare
  expect 0 -- "${run[@]}"
  run[2]=100000 run[4]=$here/other
  refused '--ranks.*100000' "${run[@]}" --set train.global_batch=200000
  now "$(head -1 "$here/said")"
  refused '--ranks' eval --checkpoint "$here/run" --data "$here/data" --ranks 100000
  # A plan for as many is one of the things that plans are for.
  (
    ulimit -t 5
    "$program" plan "${run[@]:5}" --ranks 100000 --ranks-per-host 8 --memory 64GiB --set train.global_batch=200000 \
      --set parallel.shard=parameters
  ) >"$here/said" 2>&1 || complain "no plan for 100000 ranks"
  grep -q 'fits: ' "$here/said" || complain "the plan does not end"
}

# was large_evaluation: `eval --micro-batch 1000000000` asked for terabytes and hung in touching them
try_large_evaluation() {
  prepare
  expect 0 -- "${run[@]}"
  refused '--micro-batch' eval --checkpoint "$here/run" --data "$here/data" --micro-batch 1000000000
  now "$(head -1 "$here/said")"
  # No more windows at once than there are.
  expect 0 'nats per token' -- eval --checkpoint "$here/run" --data "$here/data" --micro-batch 1000000
  refused '--sequence' eval --checkpoint "$here/run" --data "$here/data" --sequence 1000000000000
}

# was every_number_of_the_command_line: extreme values of options wrapped around, hung or ended the program from within
try_every_number_of_the_command_line() {
  prepare
  expect 0 -- "${run[@]}" --set data.tokenizer="$here/tokenizer"
  python3 "$(dirname "$self")/every_number.py" "$program" "$here" "${sets[@]}" >"$here/said" 2>&1 || complain "see below"
  now "$(tail -1 "$here/said")"
  tail -3 "$here/said"
}

# was bench_names: `bench` with a name that nothing has measured the machine, and printed a table of nothing
try_bench_names() {
  expect 1 "--rows: no race's name contains 'fp32_onw'" fp32_own,.*bf16_pipeline_1f1b -- bench train --threads 2 --rows fp32_own,fp32_onw
  expect 1 "--filter: no operator's name contains 'atention'" attention -- bench ops --filter atention
  now "$(head -1 "$here/said")"
  expect 1 '--bytes: 7 bytes are no number for each of 2 ranks' 'at least 8' -- bench comm --ranks 2 --bytes 7
  local name
  prepare
  for name in english code cjk; do cp "$here/text.txt" "$here/$name.txt"; done
  expect 1 '`/nowhere/bin/python .* ended before it answered' 'by hand' -- bench tokenize --rounds 1 --corpora "$here" \
    --tokenizer "$here/tokenizer" --peers /nowhere
}

run_case
