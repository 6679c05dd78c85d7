#!/bin/bash
# Which data a run sees, and in which order. See support.sh; exit code 77: this machine cannot try it, and why.
#
#   field_order.sh RIDGELINE MPIEXEC CASE
set -uo pipefail
program=$1 mpiexec=$2 case=$3
self=$(realpath "$0")
root=$(dirname "$self")/../..
# shellcheck source=support.sh
source "$(dirname "$self")/support.sh"

# tokens NAME DOCUMENTS: a dataset of documents of 32 tokens below 61, and the options of a small run on it.
tokens() {
  python3 - "$here/$1" "$2" <<'P'
import random, struct, sys
prefix, documents = sys.argv[1], int(sys.argv[2])
random.seed(1)
lengths = [32] * documents
open(prefix + ".bin", "wb").write(b"".join(struct.pack("<32H", *[random.randrange(61) for _ in range(32)]) for _ in lengths))
with open(prefix + ".idx", "wb") as index:
    index.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, documents, documents + 1))
    index.write(struct.pack(f"<{documents}i", *lengths) + struct.pack(f"<{documents}q", *[64 * i for i in range(documents)]))
    index.write(struct.pack(f"<{documents + 1}q", *range(documents + 1)))
P
  run=(train --out "$here/run" --set data.train="$here/$1" model.layers=1 model.width=32 model.heads=2 model.vocab=61 model.context=32
    train.global_batch=3 train.micro_batch=1 train.threads=1 optimizer.warmup_steps=0 optimizer.schedule=constant)
}

# was longer_run: a run made longer at --resume changed the order: of 400 documents 86 were never seen, 24 three times
try_longer_run() {
  tokens data 400
  run+=(data.split=1)
  expect 0 -- "${run[@]}" train.steps=66
  expect 0 -- inspect "$here/run" --samples 100000
  cp "$here/said" "$here/begun"
  exact "samples of the run" 198 "$(wc -l <"$here/begun")"
  expect 0 'the order of samples was begun for 198 and is kept' -- "${run[@]}" train.steps=133 --resume
  expect 0 -- inspect "$here/run" --samples 100000
  cp "$here/said" "$here/longer"
  expect 0 'is kept: after sample 399 \(end of epoch 1\) follow epochs 2 to 2, each in an order of its own' -- \
    "${run[@]}" train.steps=266 --resume
  expect 0 -- inspect "$here/run" --samples 100000
  exact "what was consumed, after one extension" "$(sha256sum <"$here/begun")" "$(head -n 198 "$here/longer" | sha256sum)"
  exact "what was consumed, after two" "$(sha256sum <"$here/longer")" "$(head -n 399 "$here/said" | sha256sum)"
  local seen
  seen=$(python3 - "$here/longer" "$here/said" <<'P'
import collections, json, sys
for epochs, name in ((1, sys.argv[1]), (2, sys.argv[2])):
    tokens = collections.Counter()
    for line in open(name):
        for part, (document, _, count) in enumerate(json.loads(line)["parts"]):
            tokens[document] += count - (part == 0)
    never = sum(tokens[d] == 0 for d in range(400))
    often = sum(tokens[d] > 32 * epochs for d in range(400))
    print(f"{epochs}: {never} never seen, {often} more than {epochs} times, {sum(tokens.values())} tokens;", end=" ")
P
  )
  exact "after each extension" \
    "1: 0 never seen, 0 more than 1 times, 12768 tokens; 2: 0 never seen, 0 more than 2 times, 25536 tokens; " "$seen"
  now "after one and two extensions, epochs: documents: $seen the consumed prefix is the same"
}

# was other_data: --resume with another data file trained along silently
try_other_data() {
  tokens data 60
  expect 0 -- "${run[@]}" train.steps=4
  printf '\7' | dd of="$here/data.bin" bs=1 seek=3000 conv=notrunc 2>/dev/null
  expect 1 'not the data of the checkpoint at step 4: data.train: .*content' 'other-data' -- "${run[@]}" train.steps=8 --resume
  now "$(grep -o 'error: .*' "$here/said" | cut -c1-150)..."
  expect 0 'begins anew: sample 12 of the run' 'finished at step 8' -- "${run[@]}" train.steps=8 --resume --other-data
  expect 0 'finished at step 9' -- "${run[@]}" train.steps=9 --resume
  expect 1 'train.seed: 1234 -> 7' 'other-data' -- "${run[@]}" train.steps=12 train.seed=7 --resume
  expect 1 'documents that train .data.split.: 0 to 58 -> 0 to 29' -- "${run[@]}" train.steps=12 data.split=1,1 --resume
}

# was split_rule: 67 documents by 90,8,2 were 61, 5 and 1; Megatron-LM makes 60, 6 and 1 of them since November 2023
try_split_rule() {
  tokens data 67
  run+=(data.split=90,8,2 train.steps=2)
  expect 0 '60, 6 and 1' 'per_share' '61, 5 and 1' -- "${run[@]}"
  expect 0 'documents 60 to 65 of 67' -- eval --checkpoint "$here/run" --data "$here/data"
  now "$(grep '^documents' "$here/said")"
  run[2]=$here/before
  expect 0 -- "${run[@]}" data.split_rule=per_share
  grep -q '^split_rule = "per_share"' "$here/before/config.toml" || complain "the run's config.toml does not record the rule"
  expect 0 'documents 61 to 65 of 67' -- eval --checkpoint "$here/before" --data "$here/data"
  expect 0 'documents 60 to 65 of 67' -- eval --checkpoint "$here/before" --data "$here/data" --split 90,8,2 --split-rule cumulative
  # Resumed without the key, it keeps its rule.
  expect 0 'finished at step 3' -- "${run[@]}" train.steps=3 --resume
  grep -q '^split_rule = "per_share"' "$here/before/config.toml" || complain "a resumed run changed its rule"
}

# was eval_split: eval without --split took 98,2,0 whatever the run's split, and called trained documents held out
try_eval_split() {
  tokens data 60
  expect 0 -- "${run[@]}" data.split=50,50 train.steps=2
  expect 0 "documents 30 to 59 of 60: the validation part of the run's split 50,50" '959 tokens of 30 documents' -- \
    eval --checkpoint "$here/run" --data "$here/data"
  now "$(grep '^documents' "$here/said")"
  expect 0 'not held out: the run trained on 30 of 60 documents read here' -- eval --checkpoint "$here/run" --data "$here/data" --whole
  expect 0 '"trained_documents": 15' -- eval --checkpoint "$here/run" --data "$here/data" --split 25,75 --json
  # Of several datasets: each, and the mean over all their tokens.
  cp "$here/data.bin" "$here/other.bin"
  cp "$here/data.idx" "$here/other.idx"
  expect 0 "$here/data: 959 tokens of 30 documents" "$here/other: 959 tokens of 30 documents" 'all: 1,918 tokens of 60 documents' -- \
    eval --checkpoint "$here/run" --data "$here/data" "$here/other"
  [ "$(grep -c '^model ' "$here/said")" = 3 ] && [ "$(grep '^model ' "$here/said" | uniq | wc -l)" = 1 ] || complain "losses of the same tokens differ"
  expect 0 '"datasets"' '"nats_per_token"' -- eval --checkpoint "$here/run" --data "$here/data" --data "$here/other" --json
  expect 0 -- "${run[@]/$here\/run/$here/all}" data.split=1 train.steps=2
  expect 1 "the run's split 1 .*leaves none of the 60" -- eval --checkpoint "$here/all" --data "$here/data"
}

# was inspect_samples: nobody could see the order of samples, to compare it with Megatron's
try_inspect_samples() {
  tokens data 60
  printf '[data]\ntrain = "%s"\nsplit = "1"\n[model]\nlayers = 1\nwidth = 32\nheads = 2\nvocab = 61\ncontext = 32\n' "$here/data" >"$here/c.toml"
  expect 0 -- inspect "$here/c.toml" --set train.global_batch=8 train.micro_batch=2 train.steps=5 --ranks 2 --samples 1000
  python3 - "$here/said" >"$here/checked" 2>&1 <<'P' || complain "$(cat "$here/checked")"
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
assert [line["sample"] for line in lines] == list(range(40)), "samples"
assert sorted(line["place"] for line in lines[:59]) != [line["place"] for line in lines[:59]], "not shuffled"
for line in lines:
    assert sum(tokens for _, _, tokens in line["parts"]) == 33, line
    within = line["sample"] % 8
    expected = (line["sample"] // 8 + 1, within // 4, within // 2 % 2, within % 2)
    assert (line["step"], line["micro_batch"], line["rank"], line["row"]) == expected, line
P
  now "$(head -n 1 "$here/said")"
  expect 0 -- inspect "$here/c.toml" --set train.global_batch=8 train.steps=5 --samples 1 --first-sample 39
  grep -q '^{"sample":39,"step":5,' "$here/said" || complain "sample 39 is not that of step 5"
  expect 1 'this run has samples 0 to 39' -- inspect "$here/c.toml" --set train.global_batch=8 train.steps=5 --samples 1 --first-sample 40
}

# was order_memory: train.steps = 1e18 ended as "unexpected: vector::_M_default_append"
try_order_memory() {
  tokens data 60
  run[0]=plan
  run=("${run[@]:0:1}" "${run[@]:3}")
  local steps
  for steps in 9000000000000000000 1000000000000000000 1000000000000000 100000000000; do
    expect 1 "train.steps" -- "${run[@]}" train.steps=$steps
    expect 1 "train.steps" -- train --out "$here/run" "${run[@]:1}" train.steps=$steps
    now "$(grep -o 'error: .*' "$here/said")"
  done
  # Countable, but not within 3 GB of addresses: 6 GB for 300 million samples.
  (
    ulimit -v 3000000
    expect 1 'train.steps = 100000000: the order of its samples takes .* only .* of the process' 'About [0-9]+ steps fit' -- \
      train --out "$here/run" "${run[@]:1}" train.steps=100000000
    now "$(grep -o 'error: .*' "$here/said")"
    exit $failed
  ) || failed=1
  [ ! -e "$here/run/checkpoints" ] || complain "the run began"
  expect 0 'beside the ranks, per process: [0-9,]+ bytes .* for the order of 3,008 samples .51 epochs' -- "${run[@]}" train.steps=1000
}

# was trace_micro_batch: events of a trace were named "micro 0" in every micro-batch
try_trace_micro_batch() {
  tokens data 60
  expect 0 -- "${run[@]}" train.steps=2 --trace "$here/trace.json" --trace-first 1 --trace-last 1
  python3 - "$here/trace.json" >"$here/said" 2>&1 <<'P' || complain "events are misnamed"
import collections, json, re, sys
names = collections.Counter()
for event in json.load(open(sys.argv[1]))["traceEvents"]:
    micro = re.search(r" micro (\d+)$", event["name"])
    if not micro:
        continue
    assert int(micro[1]) == event["args"]["n"], event
    names[event["name"]] += 1
for kind in ("forward block 0", "backward block 0", "forward embedding", "loss"):
    for micro in range(3):
        assert names[f"{kind} micro {micro}"] == 1, (kind, micro, names)
print(", ".join(name for name in sorted(names) if name.startswith("forward block")))
P
  now "$(cat "$here/said")"
}

# was trace_hosts: in a trace of two hosts one lay behind the other by as much as it had been started later
try_trace_hosts() {
  tokens data 60
  unshare --time --monotonic 100000 --fork true 2>"$here/said" || { echo "SKIPPED: no other clock: $(<"$here/said")"; exit 77; }
  run+=(train.steps=3 train.micro_batch=3 train.global_batch=6 --trace "$here/trace.json" --rendezvous 127.0.0.1:$((20000 + $$ % 12000)))
  export RIDGELINE_WORLD_SIZE=2
  RIDGELINE_RANK=1 unshare --time --monotonic 100000 --fork timeout -s KILL 60 "$program" "${run[@]}" >"$here/other" 2>&1 </dev/null &
  RIDGELINE_RANK=0 expect 0 -- "${run[@]}"
  wait $! || complain "the other rank: $(<"$here/other")"
  python3 - "$here/trace.json" >"$here/said" 2>&1 <<'P' || complain "the ranks lie apart"
import json, sys
began = {}
for event in json.load(open(sys.argv[1]))["traceEvents"]:
    if event["ph"] == "X":
        began[event["pid"]] = min(event["ts"], began.get(event["pid"], event["ts"]))
print("begin of each rank, us:", began)
assert sorted(began) == [0, 1] and max(began.values()) < 60e6, began
P
  now "$(cat "$here/said")"
}

# was tensorboard_list: docs/run_folder.md did not say which metrics TensorBoard holds
try_tensorboard_list() {
  tokens data 60
  expect 0 -- "${run[@]}" train.steps=2 data.split=90,10
  python3 - "$root/docs/run_folder.md" "$here"/run/tensorboard/* >"$here/said" 2>&1 <<'P' || complain "docs and event files differ"
import re, struct, sys
def fields(data):
    at = 0
    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]; at += 1
            value |= (byte & 127) << shift; shift += 7
            if byte < 128: return value
    while at < len(data):
        key = varint()
        if key & 7 == 0: yield key >> 3, varint()
        else:
            size = {1: 8, 5: 4}.get(key & 7) or varint()
            yield key >> 3, data[at:at + size]; at += size
written = set()
for name in sys.argv[2:]:
    data, at = open(name, "rb").read(), 0
    while at < len(data):
        size = struct.unpack_from("<Q", data, at)[0]
        for number, summary in fields(data[at + 12:at + 12 + size]):
            if number == 5:
                for _, value in fields(summary): written |= {text.decode() for n, text in fields(value) if n == 1}
        at += size + 16
section = re.search(r"\n## TensorBoard\n(.*?)\n## ", open(sys.argv[1]).read(), re.S)[1]
told = set(re.findall(r"`([a-z_]+/[a-z_]+)`", section))
# Needs a tokenizer, which this run has not.
assert written | {"validation/bits_per_byte"} == told, (sorted(written), sorted(told))
print(", ".join(sorted(told)))
P
  now "$(cat "$here/said")"
}

# on_four NAME ARGUMENTS...: trains on four processes, as if two and two were hosts, in $here/NAME; ranks from $odd on, 2
# unless it is set, get the arguments, too. Sets read: how many bytes they read together. With $refused each must end with
# an error instead, which is said once, with this pattern.
on_four() {
  local name=$1 rank place=127.0.0.1:$((20000 + RANDOM % 10000)) bytes total=0 status
  local -a ranks=() own=()
  shift
  for rank in 0 1 2 3; do
    if [ $rank = "${odd:-2}" ]; then own=("$@"); fi
    # The bytes of a shell are those of what it waited for, too.
    # shellcheck disable=SC2016
    RIDGELINE_RANKS_PER_HOST=2 RIDGELINE_RANK=$rank RIDGELINE_WORLD_SIZE=4 timeout -s KILL 60 bash -c '
      "${@:2}"
      code=$?
      read -r _ bytes </proc/$$/io
      echo "$bytes" >"$1"
      exit $code' - "$here/read.$rank" "$program" "${run[@]}" "${own[@]}" --out "$here/$name" --rendezvous "$place" \
      >"$here/said.$rank" 2>&1 </dev/null &
    ranks+=($!)
  done
  for rank in 0 1 2 3; do
    status=0
    wait "${ranks[rank]}" || status=$?
    cp "$here/said.$rank" "$here/said"
    if [ -z "${refused:-}" ]; then
      [ $status -eq 0 ] || complain "rank $rank of $name did not train"
    else
      [ $status -eq 1 ] || complain "rank $rank of $name ended with $status instead of 1"
    fi
    read -r bytes <"$here/read.$rank"
    total=$((total + bytes))
  done
  read=$total
  [ -n "${refused:-}" ] || return
  cat "$here"/said.[0-3] >"$here/said"
  [ "$(grep -c '^ridgeline: error: ' "$here/said")" -eq 1 ] || complain "$name: not said exactly once"
  grep -qE -- "$refused" "$here/said" || complain "$name does not say '$refused'"
}

# was llmc_read_by_all: each process read all token files of llm.c at every start
try_llmc_read_by_all() {
  [ -r /proc/self/io ] || { echo "SKIPPED: $case: no /proc/self/io"; exit 77; }
  python3 - "$here" <<'P'
import array, struct, sys
for name in "ab":
    tokens = array.array("H", [50256] + [7] * 999) * 4000
    with open(f"{sys.argv[1]}/x_{name}.bin", "wb") as file:
        file.write(struct.pack("<256i", 20240520, 1, len(tokens), *[0] * 253) + tokens.tobytes())
P
  local bytes first
  bytes=$(($(stat -c %s "$here/x_a.bin") + $(stat -c %s "$here/x_b.bin")))
  run=(train --set data.train="$here/x_*.bin" model.layers=1 model.width=16 model.heads=2 model.vocab=50257 model.context=32
    train.sequence=32 train.global_batch=4 train.micro_batch=1 train.threads=1 train.steps=1 train.save_every=0 train.eval_every=0
    data.split=1,0,0 optimizer.warmup_steps=0)
  on_four first
  first=$read
  on_four second
  # Each host reads samples, which are all of files so small.
  if [ "$first" -lt $((3 * bytes)) ] || [ "$first" -gt $((7 * bytes / 2)) ]; then complain "the first start read $first bytes of files of $bytes"; fi
  [ "$read" -lt $((5 * bytes / 2)) ] || complain "the second start read $read bytes of files of $bytes"
  exact "losses" "$(grep -o '"loss":[^,]*' "$here/first/metrics.jsonl")" "$(grep -o '"loss":[^,]*' "$here/second/metrics.jsonl")"
  now "of files of $bytes bytes four processes read $first together, and $read when they start again"
  mkdir "$here/disk2"
  cp "$here"/x_?.bin "$here/disk2"
  on_four third --set data.train="$here/disk2/x_*.bin"
  if [ "$read" -lt $((3 * bytes)) ] || [ "$read" -gt $((7 * bytes / 2)) ]; then complain "a host with a disk of its own read $read bytes of files of $bytes"; fi
  now "and $read when one of two hosts has them on a disk of its own"
  # The same tokens as a pair are the same data: one host has documents to find, the other none.
  tail -c +1025 "$here/x_a.bin" >"$here/pair.bin"
  python3 - "$here/pair.idx" <<'P'
import struct, sys
with open(sys.argv[1], "wb") as index:
    index.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, 4000, 4001) + struct.pack("<4000i", *[1000] * 4000))
    index.write(struct.pack("<4000q", *range(0, 8000000, 2000)) + struct.pack("<4001q", *range(4001)))
P
  rm -r "$here/disk2/.ridgeline"
  bytes=$(stat -c %s "$here/x_a.bin")
  run+=(data.train="$here/pair")
  on_four fourth --set data.train="$here/disk2/x_a.bin"
  if [ "$read" -lt $((3 * bytes)) ] || [ "$read" -gt $((7 * bytes / 2)) ]; then
    complain "samples of two hosts and the documents of one took $read bytes of files of $bytes"
  fi
}

# was samples_read_by_all: each process read up to 64 MiB of samples of every dataset, twice at every start
try_samples_read_by_all() {
  [ -r /proc/self/io ] || { echo "SKIPPED: $case: no /proc/self/io"; exit 77; }
  local mebibyte=$((1 << 20)) sampled=$((64 << 20)) same='data.train .content.: .*content [0-9a-f]{8}'
  tokens data 1
  run=("${run[@]:0:1}" "${run[@]:3}" train.global_batch=4 train.steps=1 train.save_every=0 train.eval_every=0 data.split=1,0,0)
  python3 - "$here/data" <<'P'
import array, struct, sys
documents, length = 40, 1 << 20
open(sys.argv[1] + ".bin", "wb").write((array.array("H", range(60)) * (documents * length // 60 + 1))[:documents * length].tobytes())
with open(sys.argv[1] + ".idx", "wb") as index:
    index.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, documents, documents + 1) + struct.pack(f"<{documents}i", *[length] * documents))
    index.write(struct.pack(f"<{2 * documents + 1}q", *[2 * length * i for i in range(documents)], *range(documents + 1)))
P
  on_four first
  if [ "$read" -lt $((2 * sampled)) ] || [ "$read" -gt $((2 * sampled + 16 * mebibyte)) ]; then
    complain "two hosts of two processes read $read bytes, and the samples are $sampled"
  fi
  now "of samples of $sampled bytes two hosts of two processes read $read together"
  # Another file is read, whether another host has it or another process of the host, and what is in it compared.
  cp "$here/data.bin" "$here/copy.bin"
  cp "$here/data.idx" "$here/copy.idx"
  odd=3 on_four second --set data.train="$here/copy"
  [ "$read" -ge $((3 * sampled)) ] || complain "with a copy of the data $read bytes are read"
  exact "losses" "$(grep -o '"loss":[^,]*' "$here/first/metrics.jsonl")" "$(grep -o '"loss":[^,]*' "$here/second/metrics.jsonl")"
  printf '\7' | dd of="$here/copy.bin" bs=1 seek=1000 conv=notrunc 2>/dev/null
  refused="$same on ranks 0-2; .*content [0-9a-f]{8} on rank 3" odd=3 on_four third --set data.train="$here/copy"
  refused="$same on ranks 0, 1 .*; .*content [0-9a-f]{8} on ranks 2, 3" on_four fourth --set data.train="$here/copy"
  now "other data are refused: $(grep -o 'data.train (content).*' "$here/said")"
  refused="rank 2: no dataset at '$here/none'" on_four fifth --set data.train="$here/none"
}

run_case
