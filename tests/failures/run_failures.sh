#!/bin/bash
# What goes wrong outside, tried on the program itself: it must say what happened, once, and end with the right code.
#
#   run_failures.sh RIDGELINE MPIEXEC CASE      exit code 77: this machine cannot try it, and why
#
#   missing_file empty_corpus invalid_utf8 cut_json_line large_token_id unknown_key indivisible_ranks
#   logs
#   ctrl_c                          (once, on a terminal and without one)
#   full_disk read_only_output      (root: a small file system is mounted in a mount namespace of the test's own)
#   bounded_document                (a document of 300 MB under a limit on memory)
#   bounded_memory                  (root: four MPI processes, each in a cgroup of its own)
#   bounded_offload          (root: a process in a cgroup)
#   offload_full_disk offload_kill  (root: a small file system is mounted)
#   mpi_kill mpi_stop               (one of two MPI ranks gets SIGKILL or SIGSTOP while it trains)
#   tcp_kill tcp_stop               (the same on two hosts that are pretended, without MPI)
#   rendezvous                      (ranks that do not come together; evaluation and text of those that do)
#   mpi_verify mpi_links            (pretended hosts of two ranks, before anything begins)
#   cut_while_read                  (an input loses its end while it is read)
#   full_shared_memory              (root: a mapped page finds no room, in /dev/shm and in a file elsewhere)
#   prepare_kill                    (SIGKILL at 20 moments; what was done is kept, the bytes are those of no kill)
#   prepare_ranks                   (several processes share a corpus; one meets a bad line)
#   prepare_hang                    (one of two that share a corpus gets SIGSTOP)
#
# Environment: FAILURE_SECONDS (default 15): within how many seconds every process must be gone; slack for a loaded machine.
set -uo pipefail
self=$(realpath "$0")
program=$1 mpiexec=$2 case=$3
seconds_allowed=${FAILURE_SECONDS:-15}
start_ranks=$(dirname "$self")/../unit/comm/start_ranks  # without MPI
# shellcheck source=../field/support.sh
source "$(dirname "$self")/../field/support.sh"

try_missing_file() {
  prepare
  expect 1 /nowhere/text.txt 'No such file' -- tokenizer train --vocab 300 --out "$here/t" /nowhere/text.txt
  expect 1 /nowhere/text.txt -- prepare --tokenizer "$here/tokenizer" --out "$here/d" /nowhere/text.txt
  expect 1 /nowhere/tokenizer -- prepare --tokenizer /nowhere/tokenizer --out "$here/d" "$here/text.txt"
  expect 1 /nowhere/config.toml -- train --config /nowhere/config.toml --out "$here/run"
  expect 1 /nowhere/data -- "${run[@]}" --set data.train=/nowhere/data
  expect 1 'no checkpoint' -- "${run[@]}" --resume
  expect 1 /nowhere/run -- eval --checkpoint /nowhere/run --data "$here/data"
}

try_empty_corpus() {
  prepare
  printf ' \n\n\n' >"$here/empty.txt"
  : >"$here/nothing.jsonl"
  expect 1 'no document' -- prepare --tokenizer "$here/tokenizer" --out "$here/empty" "$here/empty.txt"
  expect 1 'no document' -- prepare --tokenizer "$here/tokenizer" --out "$here/empty" "$here/nothing.jsonl"
  [ ! -e "$here/empty.bin" ] && [ ! -e "$here/empty.idx" ] || complain "files of a failed prepare were left"
}

try_invalid_utf8() {
  prepare
  printf 'good\n\nline\nbad \xff\xfe here\n' >"$here/bad.txt"
  expect 0 'bad.txt:4: byte 0xff' -- prepare --tokenizer "$here/tokenizer" --out "$here/d" "$here/bad.txt"
  expect 1 'bad.txt:4: byte 0xff' -- prepare --strict --tokenizer "$here/tokenizer" --out "$here/strict" "$here/bad.txt"
}

try_cut_json_line() {
  prepare
  printf '{"text": "whole"}\n{"text": "cut in ha' >"$here/cut.jsonl"
  expect 3 '1 JSON lines?' 'cut.jsonl:2: not valid JSON, cut after' -- \
    prepare --tokenizer "$here/tokenizer" --out "$here/d" "$here/cut.jsonl"
  expect 1 'cut.jsonl:2: not valid JSON' -- \
    prepare --strict --tokenizer "$here/tokenizer" --out "$here/strict" "$here/cut.jsonl"
}

# A document of 300 MB on one line: made into tokens with a few times its size of memory, or refused with much less.
try_bounded_document() {
  prepare
  python3 - "$here" <<'P'
import sys
here = sys.argv[1]
words = 'the cat and the hat and the bat; that is that, '
with open(here + '/long.jsonl', 'w') as out:
    out.write('{"text": "first"}\n{"text": "')
    for _ in range(100): out.write(words * (3_000_000 // len(words)))
    out.write('"}\n')
P
  gzip -1 -c "$here/long.jsonl" >"$here/long.jsonl.gz"
  local file
  for file in long.jsonl long.jsonl.gz; do
    peak_below 200 -- prepare --tokenizer "$here/tokenizer" --threads 2 --max-document 64MiB --out "$here/d" "$here/$file"
    grep -q "$file:2: a document or JSON line of more than 67108864 bytes begins here" "$here/said" ||
      complain "$file: not refused with its line"
  done
  peak_below 2600 -- prepare --tokenizer "$here/tokenizer" --threads 2 --out "$here/d" "$here/long.jsonl.gz"
  grep -q '2 documents' "$here/said" || complain "the document is not read"
}
# peak_below MEBIBYTES -- ARGUMENTS...: runs the program; its memory, mapped files apart, never goes beyond.
peak_below() {
  local mebibytes=$1 peak
  shift 2
  peak=$(python3 - "$program" "$@" 2>"$here/said" <<'P'
import subprocess, sys, threading
process = subprocess.Popen(sys.argv[1:], stdout=sys.stderr, stdin=subprocess.DEVNULL)
most, done = 0, threading.Event()
def watch():
    global most
    while not done.wait(0.005):
        try: lines = open(f'/proc/{process.pid}/status').read().split('\n')
        except OSError: return
        most = max([most] + [int(line.split()[1]) for line in lines if line.startswith('RssAnon')])
watcher = threading.Thread(target=watch)
watcher.start()
process.wait()
done.set()
watcher.join()
print(most // 1024)
P
  )
  echo "at most $peak MiB"
  [ "$peak" -lt "$mebibytes" ] || complain "$peak MiB of memory instead of less than $mebibytes"
}

try_large_token_id() {
  prepare
  expect 1 'outside the vocabulary of 64' 'token id [0-9]+' -- "${run[@]}" --set model.vocab=64 --set data.tokenizer=
  expect 1 'model.vocab = 64 is smaller' -- "${run[@]}" --set model.vocab=64 --set data.tokenizer="$here/tokenizer"
}

try_unknown_key() {
  prepare
  expect 1 'train.stpes' 'Did you mean train.steps' -- "${run[@]}" --set train.stpes=3
  printf '[train]\nsteps = 3\n\n[optimizer]\nlerning_rate = 1\n' >"$here/config.toml"
  expect 1 'config.toml:5' 'optimizer.lerning_rate' 'optimizer.learning_rate' -- "${run[@]}" --config "$here/config.toml"
}

try_indivisible_ranks() {
  prepare
  run[2]=3
  expect 1 'train.global_batch' 3 -- "${run[@]}"
  [ ! -e "$here/run/metrics.jsonl" ] || complain "the run began"
}

# A line per step and rank, of every start; without --logs nothing.
try_logs() {
  prepare
  expect 0 'finished at step 4' -- "${run[@]}"
  [ ! -e "$here/run/logs" ] || complain "there are logs without --logs"
  expect 0 'finished at step 6' -- "${run[@]}" --set train.steps=6 --resume --logs
  expect 0 'finished at step 8' -- "${run[@]}" --set train.steps=8 --resume --logs
  local rank seconds='[0-9]+\.[0-9]{6}'
  for rank in 0 1; do
    cp "$here/run/logs/rank-000$rank.log" "$here/said"
    exact "lines of rank $rank" 6 "$(wc -l <"$here/said")"
    exact "steps of rank $rank" '5 6 7 8 ' "$(sed -n 's/.*Z step \([0-9]*\):.*/\1/p' "$here/said" | tr '\n' ' ')"
    grep -qE "Z rank $rank of 2 on host [^ ]+, process [0-9]+\$" "$here/said" || complain "no word of whose log it is"
    grep -qE "Z step 5: $seconds s: data $seconds, gather $seconds, forward $seconds, loss $seconds, backward $seconds, " \
      "$here/said" || complain "no word of where the time went"
  done
}

# mounted OPTIONS: a file system at $here/disk, seen by this process alone.
mounted() {
  if ! mount -t tmpfs -o "$1" none "$here/disk" 2>"$here/said"; then
    echo "SKIPPED: $case: cannot mount a file system here: $(cat "$here/said")"
    exit 77
  fi
}
in_own_namespace() {
  if [ -n "${FAILURE_NAMESPACE:-}" ]; then return; fi
  if ! unshare --mount true 2>/dev/null; then
    echo "SKIPPED: $case: needs root (a small file system is mounted)"
    exit 77
  fi
  rm -rf "$here"
  FAILURE_NAMESPACE=1 exec unshare --mount --propagation private "$self" "$program" "$mpiexec" "$case"
}

try_full_disk() {
  in_own_namespace
  prepare
  mkdir "$here/disk"
  # Room for the first checkpoint's weights and moments, not for the second beside it.
  "$program" "${run[@]}" --set train.steps=2 >"$here/said" 2>&1 || complain "the run does not work at all"
  local kilobytes
  kilobytes=$(du -sk "$here/run" | cut -f1)
  mounted size=$((kilobytes * 3 / 2))k
  run[4]=$here/disk/run
  expect 1 'No space left' step_00000004 -- "${run[@]}"
  grep -q '^rank: ' "$here/disk/run/failure.txt" || echo "(no room for failure.txt either)"
  # What was saved before is whole, and a run with room goes on from it.
  expect 0 'step.*2' -- inspect "$here/disk/run/checkpoints/step_00000002"
  mount -o "remount,size=$((kilobytes * 8))k" "$here/disk"
  expect 0 'resumed at step 2' 'finished at step 4' -- "${run[@]}" --resume
}

try_read_only_output() {
  prepare
  mkdir "$here/disk"
  if [ "$(id -u)" = 0 ]; then
    if [ -z "${FAILURE_NAMESPACE:-}" ]; then in_own_namespace; fi
    mounted ro
  else
    chmod a-w "$here/disk"
  fi
  local reason='Read-only file system|Permission denied'
  run[4]=$here/disk/run
  expect 1 "$here/disk/run" "$reason" -- "${run[@]}"
  expect 1 "$here/disk/t" "$reason" -- tokenizer train --vocab 300 --out "$here/disk/t" "$here/text.txt"
  expect 1 "$here/disk/d" "$reason" -- prepare --tokenizer "$here/tokenizer" --out "$here/disk/d" "$here/text.txt"
}

needs_mpi() {
  if [ -z "$mpiexec" ] || [ "$mpiexec" = none ]; then echo "SKIPPED: $case: built without MPI"; exit 77; fi
}

# on_hosts CODE PATTERN... -- ARGUMENTS: two pretended hosts of two ranks; `other_host` holds what those of the second
# are given beside that.
on_hosts() {
  local code=$1 status=0 pattern
  local -a patterns=()
  shift
  while [ "$1" != -- ]; do patterns+=("$1"); shift; done
  shift
  RIDGELINE_RANKS_PER_HOST=2 timeout -s KILL 120 "$mpiexec" -n 2 "$program" "$@" : \
    -n 2 "$program" "$@" "${other_host[@]}" >"$here/said" 2>&1 </dev/null || status=$?
  echo "four ranks on two hosts: exit $status"
  sed 's/^/    /' "$here/said"
  if [ "$code" = 0 ]; then [ $status -eq 0 ] || complain "exit $status"; else [ $status -ne 0 ] || complain "exit 0"; fi
  for pattern in "${patterns[@]}"; do
    grep -qE -- "$pattern" "$here/said" || complain "does not say '$pattern'"
  done
  [ "$(grep -c '^ridgeline: error: ' "$here/said")" -eq "$code" ] || complain "not $code errors"
}

# A dataset of 80 MB, which is more than fingerprints read: PREFIX
large_dataset() {
  python3 - "$1" <<'PYTHON'
import array, struct, sys
tokens = array.array("H", range(1, 300)) * 134000
with open(sys.argv[1] + ".bin", "wb") as file:
    tokens.tofile(file)
with open(sys.argv[1] + ".idx", "wb") as file:
    file.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, 100, 101))
    file.write(struct.pack("<100i", *[len(tokens) // 100] * 100))
    file.write(struct.pack("<100q", *range(0, 2 * len(tokens), len(tokens) // 50)))
    file.write(struct.pack("<101q", *range(101)))
PYTHON
}

# A byte that fingerprints do not see differs on one host.
try_mpi_verify() {
  needs_mpi
  prepare
  large_dataset "$here/large"
  cp "$here/large.bin" "$here/other.bin"
  cp "$here/large.idx" "$here/other.idx"
  run+=(--set "data.train=$here/large" --set data.tokenizer= --set data.split=100,0,0)
  local -a other_host=(--set "data.train=$here/other")
  on_hosts 0 'data.train: prepare left no checksums beside it; all 76.4 MiB are the same on each of 2 hosts' \
    'finished at step 4' -- "${run[@]}" --verify-data
  rm -rf "$here/run"
  # Between two of the 256 samples of 256 KiB, in the second block.
  printf '\x01' | dd of="$here/other.bin" bs=1 seek=72330000 conv=notrunc status=none
  on_hosts 0 'finished at step 4' -- "${run[@]}" --set train.save_every=0
  rm -rf "$here/run"
  on_hosts 1 'data.train \(all of it\): what rank 0 reads on ranks 0, 1 \(host ' \
    "not what rank 0 reads in bytes 67,108,864 to 80,131,999 of '$here/other.bin' on ranks 2, 3 \\(host " -- \
    "${run[@]}" --verify-data
  [ ! -s "$here/run/metrics.jsonl" ] || complain "the run began"
  other_host=(--verify-data)
  on_hosts 1 '--verify-data: not given on ranks 0, 1 .*; given on ranks 2, 3' -- "${run[@]}"
}

try_mpi_links() {
  needs_mpi
  local -a other_host=()
  on_hosts 0 '^2 hosts, 1 link measured: [0-9.e+]+ MB/s each way, [0-9]+ us' '\(rank 2\) .* \(rank 0\)' -- train --check-links
  other_host=(--set train.steps=3)
  on_hosts 0 '^2 hosts' -- train --check-links
  expect 1 'there is one process' srun -- train --check-links
}

# rank_gets SIGNAL LAUNCHER: one of two ranks gets a signal in the middle of training.
rank_gets() {
  local signal=$1 launch=$2 rank begun status=0 seconds
  if [ -z "$launch" ] || [ "$launch" = none ]; then echo "SKIPPED: $case: built without MPI"; exit 77; fi
  prepare
  run[2]=2
  # The shells become the ranks, so their process numbers are known.
  # shellcheck disable=SC2016
  timeout -s KILL 120 "$launch" -n 2 bash -c 'echo $$ >"$0/pid.${RIDGELINE_RANK:-${PMI_RANK:-$OMPI_COMM_WORLD_RANK}}"; exec "$@"' "$here" \
    "$program" "${run[@]}" --set train.steps=1000000 --set train.save_every=0 --set parallel.timeout=2 --quiet \
    >"$here/said" 2>&1 </dev/null &
  local launcher=$!
  for _ in $(seq 900); do
    if [ -s "$here/run/metrics.jsonl" ]; then break; fi
    sleep 0.1
  done
  [ -s "$here/run/metrics.jsonl" ] || { complain "the run does not begin"; return; }
  begun=$(date +%s%N)
  kill "-$signal" "$(cat "$here/pid.1")"
  wait $launcher || status=$?
  seconds=$((($(date +%s%N) - begun) / 1000000000))
  echo "SIG$signal of rank 1: all ended with $status after $seconds s (timeout of the run: 2 s)"
  [ $status -ne 0 ] || complain "exit 0"
  [ $seconds -lt "$seconds_allowed" ] || complain "took $seconds s"
  [ "$(grep -c '^ridgeline: error: ' "$here/said")" -eq 1 ] || complain "not said exactly once"
  grep -q '^ridgeline: error: .*rank 1' "$here/said" || complain "rank 1 is not named"
  grep -q '^rank: 1$' "$here/run/failure.txt" || complain "failure.txt does not name rank 1"
  grep -qF "What it did last: $here/run/logs/rank-0001.log" "$here/said" || complain "the log is not named"
  for rank in 0 1; do
    if kill -0 "$(cat "$here/pid.$rank")" 2>/dev/null; then complain "rank $rank still runs"; fi
    grep -qE '^ +[0-9.]+  .*, step [0-9]+\)? on communicator' "$here/run/logs/rank-000$rank.log" ||
      complain "no operations in the log of rank $rank"
  done
}

# memory_groups COUNT MEBIBYTES: cgroups $groups.0, … with that limit; `bash -c "$in_group" "$groups" COMMAND…` runs a rank
# in its own.
memory_groups() {
  local root=/sys/fs/cgroup/memory limit=memory.limit_in_bytes number
  most=memory.max_usage_in_bytes
  if ! [ -e $root/$limit ]; then root=/sys/fs/cgroup limit=memory.max most=memory.peak; fi
  groups=$root/ridgeline_test_$$
  # shellcheck disable=SC2016
  in_group='echo $$ >"$0.${PMI_RANK:-${OMPI_COMM_WORLD_RANK:-0}}/cgroup.procs" && exec "$@"'
  for ((number = 0; number < $1; ++number)); do
    if ! { mkdir "$groups.$number" && echo $(($2 << 20)) >"$groups.$number/$limit"; } 2>"$here/said"; then
      rmdir "$groups".* 2>/dev/null
      echo "SKIPPED: $case: no cgroup with a memory limit can be made here"
      exit 77
    fi
  done
}

# Four processes at level `parameters` train what one process under the same limit cannot. The limit counts private and
# shared bytes: a cgroup per process. 600 MiB, because of 57 million parameters x 16 bytes one process needs 0.9 GiB, and
# each of four 260 MiB and what MPI and code take. RLIMIT_AS would not do for the four: addresses that MPI ranks only
# reserve count there, 512 MiB per rank of the host.
try_bounded_memory() {
  needs_mpi
  local rank mebibytes=600 status=0
  prepare
  memory_groups 4 $mebibytes
  local -a large=("${run[@]}" --quiet) size
  for size in model.layers=32 model.width=384 model.context=16 train.sequence=16 train.global_batch=4 train.micro_batch=1 \
    train.steps=2 train.save_every=0 parallel.shard=parameters; do large+=(--set "$size"); done
  large[2]=4
  timeout -s KILL 120 "$mpiexec" -n 4 bash -c "$in_group" "$groups" "$program" "${large[@]}" >"$here/said" 2>&1 </dev/null ||
    complain "four processes do not train under $mebibytes MiB each"
  grep -q 'finished at step 2' "$here/said" || complain "four processes did not finish"
  for rank in 0 1 2 3; do echo "rank $rank: at most $(cat "$groups.$rank/$most" 2>/dev/null) bytes"; done
  # One process: refused by the plan, in the same kind of cgroup.
  large[2]=1 large[4]=$here/alone
  bash -c "$in_group" "$groups" "$program" "${large[@]}" >"$here/said" 2>&1 </dev/null || status=$?
  [ $status -eq 1 ] || complain "one process: exit $status instead of 1"
  grep -q "a rank needs 0.88 GiB, but only 0.[345][0-9] GiB of the cgroup's memory are free" "$here/said" ||
    complain "the plan does not refuse one process"
  cat "$here/said"
  # Started all the same, with as many addresses, it must end with an error of its own.
  ulimit -v $((mebibytes << 10))
  expect 1 'cannot reserve [0-9.]+ GiB of memory: Cannot allocate memory' -- "${large[@]}" --ignore-plan
  cat "$here/said"
}

# 57 million parameters in bf16: 12 bytes each of optimizer state are 652 MiB, more than the limit. With them in a file a
# process trains, saves, and goes on.
try_bounded_offload() {
  local mebibytes=500
  prepare
  memory_groups 1 $mebibytes
  local -a large=("${run[@]}" --quiet) size
  for size in model.layers=32 model.width=384 model.context=16 train.sequence=16 train.global_batch=4 train.micro_batch=1 \
    train.steps=2 train.save_every=0 train.precision=bf16; do large+=(--set "$size"); done
  large[2]=1
  inside() { timeout -s KILL 120 bash -c "$in_group" "$groups" "$program" "$@" >"$here/said" 2>&1 </dev/null; }
  inside "${large[@]}" && complain "trains without offload"
  grep -q "a rank needs 0.9[0-9] GiB, but only 0.4[0-9] GiB of the cgroup's memory are free" "$here/said" ||
    complain "the plan does not refuse it without offload"
  grep -q 'nearest that fits: optimizer.offload = "file", with 0.39 GiB per rank' "$here/said" ||
    complain "the plan does not name offload"
  cat "$here/said"
  large+=(--set optimizer.offload=file)
  inside "${large[@]}" || complain "does not train with offload"
  grep -q 'finished at step 2' "$here/said" || complain "did not finish"
  inside "${large[@]}" --set train.steps=3 --resume || complain "does not go on with offload"
  grep -q 'finished at step 3' "$here/said" || complain "did not go on"
  echo "under $mebibytes MiB: at most $(cat "$groups.0/$most" 2>/dev/null) bytes, cached files included"
  size=$(stat -c %s "$here/run/checkpoints/step_00000003/state.safetensors")
  [ "$size" -gt $((mebibytes << 20)) ] || complain "the state is only $size bytes"
  echo "the optimizer's state: $size bytes"
}

try_offload_full_disk() {
  in_own_namespace
  prepare
  mkdir "$here/disk"
  mounted size=256k
  run+=(--set optimizer.offload=file --set optimizer.offload_directory="$here/disk/scratch")
  expect 1 "the offload file of rank [01] in '$here/disk/scratch' needs [0-9]+ bytes, but only [0-9]+ are free there" \
    optimizer.offload_directory parallel.shard -- "${run[@]}"
  mount -o remount,size=64m "$here/disk"
  rm -rf "$here/run"
  expect 0 'finished at step 4' -- "${run[@]}"
}

# Nothing stays on the disk of a run that is killed.
try_offload_kill() {
  in_own_namespace
  prepare
  mkdir "$here/disk"
  mounted size=64m
  local empty
  empty=$(df --output=used "$here/disk" | tail -1)
  "$program" "${run[@]}" --set train.steps=1000000 --set train.save_every=0 --set optimizer.offload=file \
    --set optimizer.offload_directory="$here/disk" --quiet >"$here/said" 2>&1 </dev/null &
  echo $! >"$here/pid.0"
  for _ in $(seq 300); do
    if [ -s "$here/run/metrics.jsonl" ]; then break; fi
    sleep 0.1
  done
  [ -s "$here/run/metrics.jsonl" ] || complain "the run does not begin"
  echo "while it runs: $(df --output=used "$here/disk" | tail -1) KiB"
  [ "$(df --output=used "$here/disk" | tail -1)" -gt "$empty" ] || complain "nothing is offloaded"
  [ -z "$(ls -A "$here/disk")" ] || complain "the file has a name: $(ls -A "$here/disk")"
  kill -KILL "$(cat "$here/pid.0")"
  wait 2>/dev/null
  echo "killed: $(df --output=used "$here/disk" | tail -1) KiB"
  [ "$(df --output=used "$here/disk" | tail -1)" -eq "$empty" ] || complain "something is left"
}

try_mpi_kill() { rank_gets KILL "$mpiexec"; }
try_mpi_stop() { rank_gets STOP "$mpiexec"; }
try_tcp_kill() { RIDGELINE_RANKS_PER_HOST=1 rank_gets KILL "$start_ranks"; }
try_tcp_stop() { RIDGELINE_RANKS_PER_HOST=1 rank_gets STOP "$start_ranks"; }

# on_two FILE ARGUMENTS...: the program as two ranks on two hosts, its standard output to FILE.
on_two() {
  local file=$1
  shift
  RIDGELINE_RANKS_PER_HOST=1 timeout -s KILL 120 "$start_ranks" -n 2 "$program" "$@" >"$file" 2>"$here/said" </dev/null ||
    complain "$* over TCP: exit $?"
}

# missing WORDS RANK...: these of three start alone, each on a host of its own: what a host says once goes by the parent.
missing() {
  local words=$1 rank status
  shift
  rm -rf "$here/run"
  : >"$here/said"
  for rank in "$@"; do
    (
      RIDGELINE_RANK=$rank RIDGELINE_WORLD_SIZE=3 timeout -s KILL 60 "$program" "${run[@]}" --rendezvous "$place" \
        --set parallel.timeout=1 >>"$here/said" 2>&1 </dev/null
      echo $? >"$here/status.$rank"
    ) &
  done
  wait
  for rank in "$@"; do
    status=$(<"$here/status.$rank")
    [ "$status" = 1 ] || complain "without others rank $rank exits with $status"
  done
  [ "$(grep -c '^ridgeline: error: ' "$here/said")" -eq 1 ] || complain "not said once: $(<"$here/said")"
  grep -q "^ridgeline: error: $words" "$here/said" || complain "no '$words': $(<"$here/said")"
  grep -q "^failure: $words" "$here/run/failure.txt" || complain "no '$words' in failure.txt"
}

try_rendezvous() {
  prepare
  local place=127.0.0.1:$((20000 + $$ % 12000)) status=0
  unset RANK WORLD_SIZE PMI_RANK OMPI_COMM_WORLD_RANK SLURM_PROCID
  expect 1 "'nowhere': not a host and a port" 'node1:29400' -- "${run[@]}" --rendezvous nowhere
  expect 1 'not which rank' RIDGELINE_WORLD_SIZE -- "${run[@]}" --rendezvous "$place"
  # Whoever is missing is named once, in the output and in the file, although the others are on two hosts.
  missing 'rank 0 is missing: nobody answers' 1 2
  missing 'rank 1 of 3 did not come' 0 2
  # One rank has another command line: said once, for both.
  # shellcheck disable=SC2016
  timeout -s KILL 120 "$start_ranks" -n 2 bash -c 'if [ "$RIDGELINE_RANK" = 1 ]; then set -- "$@" --no-such-option; fi; exec "$@"' - \
    "$program" "${run[@]}" >"$here/said" 2>&1 </dev/null || status=$?
  [ $status -ne 0 ] || complain "exit 0 with another command line"
  [ "$(grep -c '^ridgeline: error: .*no-such-option' "$here/said")" -eq 1 ] || complain "the option is not named once"
  # What both compute is what threads compute.
  on_two "$here/out" "${run[@]}" --quiet
  grep -q 'finished at step 4' "$here/out" || complain "two hosts do not finish"
  # One rank has no checkpoint: said once, for both.
  for words in "eval --data $here/data" "generate --tensor 2 --prompt w1"; do
    status=0
    # shellcheck disable=SC2016,SC2086
    timeout -s KILL 120 "$start_ranks" -n 2 bash -c 'if [ "$RIDGELINE_RANK" = 1 ]; then set -- "$@" --checkpoint /nowhere; else set -- "$@" --checkpoint "$0"; fi; exec "$@"' \
      "$here/run" "$program" $words >"$here/said" 2>&1 </dev/null || status=$?
    [ $status -eq 1 ] || complain "exit $status of $words with another checkpoint"
    [ "$(grep -c "^ridgeline: error: .*'/nowhere' does not exist" "$here/said")" -eq 1 ] || complain "the checkpoint is not named once"
  done
  for words in "eval --data $here/data --ranks 2 --json" "generate --tensor 2 --prompt w1 --tokens 12"; do
    # shellcheck disable=SC2086
    "$program" $words --checkpoint "$here/run" >"$here/threads" 2>"$here/said" || complain "$words: exit $?"
    # shellcheck disable=SC2086
    on_two "$here/hosts" $words --checkpoint "$here/run"
    cmp "$here/threads" "$here/hosts" || complain "$words differs between threads and hosts"
  done
}

# The first Ctrl-C is answered on a terminal, so that nobody presses again and loses what was to be saved.
try_ctrl_c() {
  prepare
  python3 - "$here" "$program" "${run[@]}" --set train.steps=100000 --set train.save_every=0 >"$here/said" 2>&1 <<'P' ||
import os, signal, subprocess, sys, time
here, program, *words = sys.argv[1:]
def stopped(terminal):
    ours, theirs = os.openpty() if terminal else os.pipe()
    out = f'{here}/run_{terminal}'
    words[words.index('--out') + 1] = out
    run = subprocess.Popen([program, *words, '--quiet'], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    metrics = out + '/metrics.jsonl'
    while run.poll() is None and not (os.path.exists(metrics) and os.path.getsize(metrics)): time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    said = b''
    while True:
        try: more = os.read(ours, 4096)
        except OSError: break  # a terminal whose last process is gone
        if not more: break
        said += more
    return run.wait(), said.decode()
code, said = stopped(True)
print(code, said)
assert code == 75 and said.count('once more quits at once, without saving') == 1
code, said = stopped(False)
print(code, said)
assert code == 75 and 'Ctrl-C' not in said
P
    complain "Ctrl-C is not answered as it should be"
}

# Several files of a corpus, about a megabyte together.
several_files() {
  prepare
  mkdir "$here/corpus"
  python3 - "$here/corpus" <<'P'
import gzip, random, sys
folder = sys.argv[1]
random.seed(5)
def words(count): return ' '.join(f'w{random.randrange(97)}' for _ in range(count))
for number in range(4):
    with open(f'{folder}/text_{number}.txt', 'w') as out:
        for _ in range(300 * (number + 1)): out.write(words(random.randrange(1, 90)) + '\n\n')
with open(f'{folder}/lines.jsonl', 'w') as out:
    for _ in range(900): out.write('{"text": "' + words(random.randrange(1, 90)) + '"}\n')
with gzip.open(f'{folder}/packed.jsonl.gz', 'wt') as out:
    for _ in range(900): out.write('{"text": "' + words(random.randrange(1, 90)) + '"}\n')
P
  made=(prepare --tokenizer "$here/tokenizer" --threads 1 --part 30kB)
  expect 0 -- "${made[@]}" --out "$here/whole" "$here/corpus"
}

# same_dataset PREFIX: that it is what one process makes at once, and nothing else is left.
same_dataset() {
  local suffix
  for suffix in bin idx json; do cmp "$here/whole.$suffix" "$1.$suffix" || complain "$1.$suffix differs"; done
  if [ -e "$1.partial" ] || [ -e "$1.lock" ]; then complain "something is left beside $1"; fi
  rm -f "$1".bin "$1".idx "$1".json
}

# Standard input comes first, and keeps the file behind it, which is mapped by then, waiting.
try_cut_while_read() {
  prepare
  for _ in $(seq 1500); do cat "$here/text.txt"; done >"$here/a.txt"
  mkfifo "$here/pipe"
  "$program" prepare --tokenizer "$here/tokenizer" --threads 2 --out "$here/d" - "$here/a.txt" \
    <"$here/pipe" >"$here/said" 2>&1 &
  local process=$! status=0
  exec 3>"$here/pipe"
  head -c 200000 "$here/a.txt" >&3
  until grep -qs "$here/a.txt" "/proc/$process/maps" || ! kill -0 $process 2>/dev/null; do sleep 0.01; done
  truncate -s 100 "$here/a.txt"
  exec 3>&-
  wait $process 2>/dev/null || status=$?
  [ $status -eq 135 ] || complain "exit $status"
  grep -q "error: '$here/a.txt' became shorter while it was read" "$here/said" || complain "it does not say why"
}

# A hole of a file in a full file system of memory is such a page.
try_full_shared_memory() {
  in_own_namespace
  prepare
  mkdir "$here/disk"
  mounted size=256k
  mount --bind "$here/disk" /dev/shm
  local folder said status
  while read -r folder said; do
    for _ in $(seq 12); do cat "$here/text.txt"; done >"$folder/a.txt"
    truncate -s 10M "$folder/a.txt"
    status=0
    "$program" prepare --tokenizer "$here/tokenizer" --out "$here/d" "$folder/a.txt" >"$here/said" 2>&1 || status=$?
    [ $status -eq 135 ] || complain "exit $status"
    grep -q "error: $said" "$here/said" || complain "it does not say '$said'"
  done <<END
/dev/shm there is no room for the shared memory '/dev/shm/a.txt'
$here/disk '$here/disk/a.txt' cannot be read or written where it is mapped
END
}
try_prepare_kill() {
  several_files
  python3 "$(dirname "$self")/kill_prepare.py" "$program" "$here" "${made[@]}" >"$here/said" 2>&1 || complain "see above"
  tail -n 1 "$here/said"
}

# shared COUNT ARGUMENTS...: as processes on as many hosts.
shared() {
  local count=$1
  shift
  RIDGELINE_RANKS_PER_HOST=1 timeout -s KILL 120 "$start_ranks" -n "$count" "$program" "$@" >"$here/said" 2>&1 </dev/null
}

try_prepare_ranks() {
  several_files
  local status=0 count
  unset RANK WORLD_SIZE PMI_RANK OMPI_COMM_WORLD_RANK SLURM_PROCID
  for count in 2 5; do
    shared $count "${made[@]}" --out "$here/d" "$here/corpus" || complain "$count processes: exit $?"
    [ "$(grep -c 'bytes per token' "$here/said")" -eq 1 ] || complain "the report is not printed once"
    same_dataset "$here/d"
  done
  if [ "$mpiexec" != none ]; then
    timeout -s KILL 120 "$mpiexec" -n 2 "$program" "${made[@]}" --out "$here/d" "$here/corpus" >"$here/said" 2>&1 </dev/null ||
      complain "two MPI processes: exit $?"
    same_dataset "$here/d"
  fi
  # One meets a bad line: all end, it is named once, and what was done is kept.
  echo '{"text": "cut' >"$here/corpus/zz_bad.jsonl"
  shared 3 "${made[@]}" --strict --out "$here/d" "$here/corpus" || status=$?
  [ $status -eq 1 ] || complain "exit $status after a bad line"
  [ "$(grep -c '^ridgeline: error: .*zz_bad.jsonl:1: not valid JSON' "$here/said")" -eq 1 ] || complain "the line is not named once"
  [ -e "$here/d.partial" ] || complain "nothing was kept"
  rm "$here/corpus/zz_bad.jsonl"
  expect 1 'there were 7 input files, and are 6' '--fresh' -- "${made[@]}" --strict --out "$here/d" "$here/corpus"
  expect 0 -- "${made[@]}" --fresh --out "$here/d" "$here/corpus"
  same_dataset "$here/d"
  # One has no tokenizer: the others hear of it, and do not wait for it to come.
  local begun=$SECONDS
  # shellcheck disable=SC2016
  timeout -s KILL 120 "$start_ranks" -n 2 bash -c 'if [ "$RIDGELINE_RANK" = 1 ]; then set -- "$@" --tokenizer /nowhere; else set -- "$@" --tokenizer "$0"; fi; exec "$@"' \
    "$here/tokenizer" "$program" prepare --out "$here/n" "$here/corpus" >"$here/said" 2>&1 </dev/null
  [ $((SECONDS - begun)) -le "$seconds_allowed" ] || complain "they ended after $((SECONDS - begun)) s"
  [ "$(grep -c "^ridgeline: error: .*no tokenizer in '/nowhere'" "$here/said")" -eq 1 ] || complain "the tokenizer is not named once"
  # Standard input has no parts to share.
  status=0
  shared 2 "${made[@]}" --out "$here/d" - || status=$?
  if [ $status -ne 1 ] || ! grep -q 'cannot be shared' "$here/said"; then complain "standard input is shared: exit $status"; fi
}

try_prepare_hang() {
  prepare
  mkdir "$here/corpus"
  for _ in $(seq 1500); do cat "$here/text.txt"; done >"$here/corpus/a.txt"
  cp "$here/corpus/a.txt" "$here/corpus/b.txt"
  local -a made=(prepare --tokenizer "$here/tokenizer" --threads 1 --part 4MB --out "$here/d" "$here/corpus")
  local -x RIDGELINE_RENDEZVOUS=127.0.0.1:$((20000 + $$ % 12000)) RIDGELINE_WORLD_SIZE=2
  local rank status=0 begun
  unset RANK WORLD_SIZE PMI_RANK OMPI_COMM_WORLD_RANK SLURM_PROCID
  for rank in 0 1; do
    RIDGELINE_RANK=$rank "$program" "${made[@]}" --rank-timeout 4 >"$here/said.$rank" 2>&1 </dev/null &
    echo $! >"$here/pid.$rank"
  done
  until [ -e "$here/d.partial/lock-0001" ] || ! kill -0 "$(cat "$here/pid.1")" 2>/dev/null; do sleep 0.01; done
  kill -STOP "$(cat "$here/pid.1")"
  begun=$SECONDS
  wait "$(cat "$here/pid.0")" || status=$?
  cp "$here/said.0" "$here/said"
  [ $status -eq 1 ] || complain "exit $status of the rank that goes on"
  [ $((SECONDS - begun)) -le $((4 + seconds_allowed)) ] || complain "noticed after $((SECONDS - begun)) s"
  grep -q '^ridgeline: error: .*rank 1' "$here/said" || complain "the rank that hangs is not named"
  grep -q 'the same command goes on there' "$here/said" || complain "what was done is not kept"
  kill -KILL "$(cat "$here/pid.1")"
  wait "$(cat "$here/pid.1")" 2>/dev/null
  unset RIDGELINE_RENDEZVOUS RIDGELINE_WORLD_SIZE
  expect 0 'parts are done and verified' -- "${made[@]}"
}

run_case
