#!/bin/bash
# Ranks that were not started alike, and two processes that write to one place. See support.sh; exit code 77: this machine
# cannot try it, and why.
#
#   field_agree.sh RIDGELINE MPIEXEC CASE
set -uo pipefail
program=$1 mpiexec=$2 case=$3
self=$(realpath "$0")
# shellcheck source=support.sh
source "$(dirname "$self")/support.sh"

# mpi RANKS ODD ARGUMENTS...: trains on RANKS processes; rank ODD gets the arguments, too. Sets status, seconds; what was
# said is in said, on all ranks together.
mpi() {
  local ranks=$1 odd=$2 begun
  if [ -z "$mpiexec" ] || [ "$mpiexec" = none ]; then echo "SKIPPED: $case: built without MPI"; exit 77; fi
  shift 2
  run[2]=$ranks
  rm -f "$here"/code.* "$here/run/ridgeline.lock"
  status=0 begun=$(date +%s%N)
  # shellcheck disable=SC2016
  timeout -s KILL 60 "$mpiexec" -n "$ranks" bash -c '
    rank=${PMI_RANK:-$OMPI_COMM_WORLD_RANK} odd=$1 count=$2
    shift 2
    common=("${@:1:$count}") own=("${@:$((count + 1))}")
    echo $$ >"$0/pid.$rank"
    if [ "$rank" != "$odd" ]; then own=(); fi
    if [ "${own[0]:-}" = --out ]; then common[5]=${own[1]} own=(); fi  # instead of the other
    if [ -n "${RANK_ENVIRONMENT:-}" ] && [ "$rank" = "$odd" ]; then export "$RANK_ENVIRONMENT"; fi
    "${common[@]}" "${own[@]}"
    code=$?
    echo $code >"$0/code.$rank"
    exit $code' "$here" "$odd" $((${#run[@]} + 2)) "$program" "${run[@]}" --quiet "$@" >"$here/said" 2>&1 </dev/null || status=$?
  seconds=$((($(date +%s%N) - begun) / 1000000000))
  rm -f "$here"/pid.*
}

# differs RANKS ODD PATTERN ARGUMENTS...: that start must be refused with PATTERN, once, on every rank, within seconds.
differs() {
  local ranks=$1 odd=$2 pattern=$3
  shift 3
  mpi "$ranks" "$odd" "$@"
  echo "rank $odd with $*: exit $status after $seconds s: $(grep -A 2 '^ridgeline: error' "$here/said" | tr -s '\n ' ' ')"
  [ $status -ne 0 ] || complain "exit 0"
  [ $seconds -lt 15 ] || complain "took $seconds s"
  [ "$(grep -c '^ridgeline: error: ' "$here/said")" -eq 1 ] || complain "not said exactly once"
  grep -qE -- "$pattern" "$here/said" || complain "does not say '$pattern'"
  [ ! -e "$here/run/metrics.jsonl" ] || complain "a rank trained"
  grep -qx 0 "$here"/code.* 2>/dev/null && complain "a rank ended with exit 0"
  # A rank that the launcher killed with SIGKILL (it then wrote no code) may leave the file, which is nobody's lock.
  local codes=("$here"/code.*)
  [ ${#codes[@]} -lt "$ranks" ] || [ ! -e "$here/run/ridgeline.lock" ] || complain "the lock was left"
}

# was mpi_learning_rate: one of three MPI ranks with another learning rate trained along to exit 0
try_mpi_learning_rate() {
  prepare
  run+=(--set train.global_batch=12)
  differs 3 1 'optimizer.learning_rate: 0.001 on ranks 0, 2; 0.002 on rank 1 \(host ' --set optimizer.learning_rate=0.002
  now "refused in $seconds s: $(grep -o 'optimizer.learning_rate: .*' "$here/said")"
  mpi 3 none
  [ $status -eq 0 ] || complain "equal ranks do not train: exit $status"
}

# was mpi_seed: a rank with another seed trained along to exit 0
try_mpi_seed() {
  prepare
  differs 2 1 'train.seed: 1234 on rank 0 \(host .*\); 7 on rank 1 \(host ' --set train.seed=7
  now "refused: $(grep -o 'train.seed: .*' "$here/said")"
}

# was mpi_global_batch: a rank with another global batch trained along, or hung
try_mpi_global_batch() {
  prepare
  differs 2 0 'train.global_batch: 16 on rank 0 \(host .*\); 8 on rank 1' --set train.global_batch=16
  now "refused: $(grep -o 'train.global_batch: .*' "$here/said")"
}

# was mpi_precision: a rank with another precision trained along to exit 0
try_mpi_precision() {
  prepare
  differs 2 1 'train.precision: "fp32" on rank 0 .*; "bf16" on rank 1' --set train.precision=bf16
  now "refused: $(grep -o 'train.precision: .*' "$here/said")"
}

# was mpi_shard: a rank with another sharding level hung for ever
try_mpi_shard() {
  prepare
  differs 2 1 'parallel.shard: "none" on rank 0 .*; "parameters" on rank 1' --set parallel.shard=parameters
  now "refused in $seconds s: $(grep -o 'parallel.shard: .*' "$here/said")"
}

# was mpi_data_byte: a rank whose copy of the data has one flipped byte trained along to exit 0
try_mpi_data_byte() {
  prepare
  local file
  for file in bin idx json; do cp "$here/data.$file" "$here/copy.$file"; done
  python3 - "$here/copy.bin" <<'PYTHON'
import sys
path = sys.argv[1]
data = bytearray(open(path, "rb").read())
data[len(data) // 2 & ~1] ^= 1
open(path, "wb").write(data)
PYTHON
  differs 2 1 'data.train \(content\): .*content [0-9a-f]{8} on rank 0 .*content [0-9a-f]{8} on rank 1' --set data.train="$here/copy"
  now "refused: $(grep -o 'data.train (content).*' "$here/said")"
  # Another place with the same content is the same data.
  cp "$here/data.bin" "$here/copy.bin"
  mpi 2 1 --set data.train="$here/copy"
  [ $status -eq 0 ] || complain "an equal copy is refused"
}

# was mpi_tokenizer: a rank with another tokenizer trained along to exit 0
try_mpi_tokenizer() {
  prepare
  head -c 3000 "$here/text.txt" >"$here/other.txt"
  rm "$here/data.json"
  "$program" tokenizer train --vocab 300 --out "$here/other" "$here/other.txt" >"$here/said" 2>&1 || complain "no other tokenizer"
  run+=(--set data.tokenizer="$here/tokenizer")
  differs 2 1 'data.tokenizer \(content\): hash [0-9a-f]+ on rank 0 .*; hash [0-9a-f]+ on rank 1' --set data.tokenizer="$here/other"
  now "refused: $(grep -o 'data.tokenizer (content).*' "$here/said")"
}

# was mpi_resume: a rank started without --resume, or from another checkpoint, trained along or hung
try_mpi_resume() {
  prepare
  "$program" "${run[@]}" --quiet >"$here/said" 2>&1 || complain "the first run fails"
  rm "$here/run/metrics.jsonl"
  differs 2 1 '--resume: not given on rank 0 .*; given on rank 1' --resume
  run+=(--set train.steps=6 --resume)
  differs 2 1 "checkpoint to go on from: 'step_00000004', .*; 'step_00000002', .* on rank 1" \
    --resume-from "$here/run/checkpoints/step_00000002"
  now "refused: $(grep -o 'checkpoint to go on from: .*' "$here/said")"
}

# was mpi_environment: a rank with RIDGELINE_ISA of its own computed other bits than its peers, without a word
try_mpi_environment() {
  prepare
  RANK_ENVIRONMENT=RIDGELINE_ISA=portable differs 2 1 'instruction set \(RIDGELINE_ISA\): .* on rank 0 .*; portable on rank 1'
  now "refused: $(grep -o 'instruction set .*' "$here/said")"
}

# was mpi_out: ranks that were given different folders wrote into both
try_mpi_out() {
  prepare
  differs 2 1 "--out: $here/run on rank 0 .*; $here/elsewhere on rank 1" --out "$here/elsewhere"
  [ ! -e "$here/elsewhere" ] || complain "another folder was made"
  now "refused: $(grep -o -- '--out: .*' "$here/said")"
}

# was mpi_one_bad_key: a mistake on the command line of one rank left the others waiting, or was said without its rank
try_mpi_one_bad_key() {
  prepare
  differs 2 1 'error: rank 1: --set: train.stpes: no such key' --set train.stpes=4
  now "$(grep -o 'error: rank 1.*' "$here/said")"
  run+=(--set train.stpes=4)
  differs 2 none 'error: --set: train.stpes: no such key'
}

# was mpi_usage: an option that one rank does not know left the others waiting for ever
try_mpi_usage() {
  prepare
  differs 2 1 'error: .*--frobnicate' --frobnicate
  now "after $seconds s: $(grep -o 'error: .*' "$here/said")"
  run+=(--frobnicate)
  differs 2 none 'error: .*--frobnicate'
}

# refused_beside WHAT [launched]: starts the command in `second` while WHAT is held writing; sets milliseconds. The second must
# be refused. Launched: a launcher that sees one rank end may kill the others, and end with what became of those.
refused_beside() {
  local begun status=0
  begun=$(date +%s%N)
  timeout -s KILL 60 "${second[@]}" >"$here/said" 2>&1 </dev/null || status=$?
  milliseconds=$((($(date +%s%N) - begun) / 1000000))
  echo "the second: exit $status after $milliseconds ms: $(cat "$here/said")"
  if [ $# -eq 1 ]; then
    [ $status -eq 1 ] || complain "exit $status instead of 1"
  else
    [ $status -ne 0 ] || complain "exit 0"
  fi
  grep -qE "is being written by process $(cat "$here/pid.first") on host $(hostname) \($1\) since 20" "$here/said" ||
    complain "does not name who was first"
}

# begin FILE COMMAND...: starts the first process and waits until FILE is there.
begin() {
  local file=$1
  shift
  "$@" >"$here/first" 2>&1 </dev/null &
  echo $! >"$here/pid.first"
  for _ in $(seq 600); do
    if [ -s "$file" ]; then return; fi
    sleep 0.05
  done
  complain "the first process does not begin: $(cat "$here/first")"
}

# was two_runs: two processes on one run folder tore metrics.jsonl, or both died
try_two_runs() {
  prepare
  begin "$here/run/metrics.jsonl" "$program" "${run[@]}" --set train.steps=1000000 --set train.save_every=0 --quiet
  second=("$program" "${run[@]}" --quiet)
  refused_beside 'ridgeline train'
  now "refused after $milliseconds ms: $(head -1 "$here/said")"
  second=("$program" "${run[@]}" --quiet --resume)  # which finds no checkpoint there
  refused_beside 'ridgeline train'
  if [ "$mpiexec" != none ] && [ -n "$mpiexec" ]; then
    second=("$mpiexec" -n 2 "$program" "${run[@]}" --quiet)
    refused_beside 'ridgeline train' launched
    [ "$(grep -c '^ridgeline: error: ' "$here/said")" -eq 1 ] || complain "MPI: not said exactly once"
  fi
  [ ! -e "$here/run/failure.txt" ] || complain "the refused wrote failure.txt into the other's folder"
  # A crash leaves no lock behind.
  kill -KILL "$(cat "$here/pid.first")"
  wait 2>/dev/null
  [ -e "$here/run/ridgeline.lock" ] || complain "no lock file"
  python3 -c 'import json, sys; [json.loads(line) for line in open(sys.argv[1])]' "$here/run/metrics.jsonl" ||
    complain "metrics.jsonl is torn"
  rm -rf "$here/run/checkpoints"
  expect 0 'finished at step 4' -- "${run[@]}"
  [ ! -e "$here/run/ridgeline.lock" ] || complain "the lock file is left"
}

# was two_writers: two processes that wrote one dataset, model folder or tokenizer mixed their files
try_two_writers() {
  prepare
  expect 0 'finished at step 4' -- "${run[@]}" --set data.tokenizer="$here/tokenizer"
  # A holder that stays as long as it takes: the kernel's lock and the text of one.
  cat >"$here/hold.py" <<'PYTHON'
import fcntl, os, struct, sys, time
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
OFD_SETLK = 37
fcntl.fcntl(file, OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
text = f"beat: 0000000000\nprocess: {os.getpid()}\nhost: {os.uname().nodename}\ncommand: {sys.argv[2]}\n"
os.pwrite(file, (text + "since: 2026-01-01 00:00:00 UTC\nbegun: 1\nmachine: x\ntoken: 1\nend: .\n").encode(), 0)
time.sleep(60)
PYTHON
  mkdir "$here/model"
  begin "$here/data2.lock" python3 "$here/hold.py" "$here/data2.lock" 'ridgeline prepare'
  second=("$program" prepare --tokenizer "$here/tokenizer" --out "$here/data2" "$here/text.txt")
  refused_beside 'ridgeline prepare'
  kill "$(cat "$here/pid.first")"
  begin "$here/model/ridgeline.lock" python3 "$here/hold.py" "$here/model/ridgeline.lock" 'ridgeline export'
  second=("$program" export --checkpoint "$here/run" --out "$here/model")
  refused_beside 'ridgeline export'
  second=("$program" tokenizer train --vocab 300 --out "$here/model" "$here/text.txt")
  refused_beside 'ridgeline export'
  now "each is refused by name: $(head -1 "$here/said")"
  kill "$(cat "$here/pid.first")"
  wait 2>/dev/null
  expect 0 -- "${second[@]:1}"
  expect 0 -- prepare --tokenizer "$here/tokenizer" --out "$here/data2" "$here/text.txt"
  [ ! -e "$here/data2.lock" ] && [ ! -e "$here/model/ridgeline.lock" ] || complain "a lock file is left"
}

run_case
