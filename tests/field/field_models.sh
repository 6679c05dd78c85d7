#!/bin/bash
# Models that other tools wrote. See support.sh; exit code 77: this machine cannot try it, and why.
#
#   field_models.sh RIDGELINE MPIEXEC CASE
set -uo pipefail
program=$1 mpiexec=$2 case=$3
self=$(realpath "$0")
# shellcheck source=support.sh
source "$(dirname "$self")/support.sh"

# model FAMILY [KEY=VALUE...]: a small model as a Hugging Face folder, $here/model, and data to evaluate it on.
model() {
  local family=$1 pair
  local -a more=()
  shift
  prepare
  for pair in "$@"; do more+=(--set "$pair"); done
  expect 0 'finished' -- "${run[@]}" --set "model.family=$family" --set optimizer.learning_rate=0.01 --set model.init_deviation=0.2 \
    "${more[@]}"
  expect 0 -- export --checkpoint "$here/run" --out "$here/model"
}

# change FOLDER <<PYTHON: its config.json is `config`, its tensors are t[name] = [shape, bytes of floats].
change() {
  python3 -c '
import json, struct, sys
from array import array
folder = sys.argv[1]
with open(folder + "/model.safetensors", "rb") as f: data = f.read()
length = struct.unpack("<Q", data[:8])[0]
header = json.loads(data[8:8 + length])
header.pop("__metadata__", None)
t = {k: [v["shape"], data[8 + length + v["data_offsets"][0]:8 + length + v["data_offsets"][1]]] for k, v in header.items()}
config = json.load(open(folder + "/config.json"))
exec(sys.stdin.read())
header, at = {}, 0
for k, (shape, values) in t.items():
    header[k] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + len(values)]}
    at += len(values)
text = json.dumps(header).encode()
with open(folder + "/model.safetensors", "wb") as f: f.write(struct.pack("<Q", len(text)) + text + b"".join(v for _, v in t.values()))
json.dump(config, open(folder + "/config.json", "w"))
' "$1" || complain "the model could not be changed"
}

# loss FOLDER: nats per token on the data; what else was said stays in $here/said.
loss() {
  expect 0 'nats per token' -- eval --checkpoint "$1" --data "$here/data" --whole >&2
  sed -n 's/^model  *\([0-9.]*\) nats.*/\1/p' "$here/said"
}

says() { grep -qE -- "$1" "$here/said" || complain "does not say '$1'"; }

# peak_mebibytes ARGUMENTS: the most that the program had resident.
peak_mebibytes() {
  python3 -c '
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=open("'"$here"'/said", "w"), stderr=subprocess.STDOUT).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
sys.exit(code)' "$program" "$@"
}

# was tied_head: where config.json ties the head but both matrices are stored and differ, the head was dropped silently
try_tied_head() {
  local tied both alone own
  model gpt2
  cp -r "$here/model" "$here/both"
  change "$here/both" <<<'
shape, values = t["transformer.wte.weight"]
head = array("f", values)
for i in range(0, len(head), 7): head[i] += 0.05 * (i % 5 - 2)
t["lm_head.weight"] = [shape, head.tobytes()]'
  cp -r "$here/both" "$here/own"
  change "$here/own" <<<'config["tie_word_embeddings"] = False'
  cp -r "$here/model" "$here/alone"
  change "$here/alone" <<<'t["lm_head.weight"] = t.pop("transformer.wte.weight")'
  tied=$(loss "$here/model")
  alone=$(loss "$here/alone")
  own=$(loss "$here/own")
  both=$(loss "$here/both")
  says "note: .*tie_word_embeddings.*'transformer.wte.weight' and 'lm_head.weight'"
  exact "the head's tensor alone" "$tied" "$alone"
  exact "both stored and different" "$own" "$both"
  [ "$both" != "$tied" ] || complain "the head made no difference"
  expect 0 'note: .*tie_word_embeddings' -- generate --checkpoint "$here/both" --prompt w1 --tokens 2
  expect 0 'note: .*tie_word_embeddings' -- export --checkpoint "$here/both" --out "$here/again"
  grep -q '"tie_word_embeddings": false' "$here/again/config.json" || complain "the export is tied"
  exact "exported again" "$own" "$(loss "$here/again")"
  expect 0 'note: .*tie_word_embeddings' 'finished' -- train --out "$here/tuned" --set train.init_from="$here/both" \
    --set data.train="$here/data" --set train.threads=1 --set train.steps=1 --set train.global_batch=2 --set train.sequence=32 --set optimizer.learning_rate=0 \
    --set optimizer.schedule=constant
  exact "trained with a learning rate of 0" "$own" "$(loss "$here/tuned")"
  now "tied $tied, head alone $alone, both and different $both with a note (untied: $own)"
}

# was stale_index: shards that an old index names were read in place of model.safetensors
try_stale_index() {
  local old new
  model gpt2
  cp -r "$here/model" "$here/old"
  change "$here/old" <<<'
shape, values = t["transformer.wte.weight"]
t["transformer.wte.weight"] = [shape, bytes(len(values))]'
  new=$(loss "$here/model")
  cp "$here/old/model.safetensors" "$here/model/model-00001-of-00001.safetensors"
  python3 -c '
import json, sys
config = open(sys.argv[1] + "/model.safetensors", "rb").read()
names = [k for k in json.loads(config[8:8 + int.from_bytes(config[:8], "little")]) if k != "__metadata__"]
json.dump({"metadata": {}, "weight_map": {k: "model-00001-of-00001.safetensors" for k in names}}, open(sys.argv[1] + "/model.safetensors.index.json", "w"))' "$here/model"
  old=$(loss "$here/model")
  says "note: .*model.safetensors is read.*names other files"
  exact "with a stale index" "$new" "$old"
  now "$old nats per token with and without the index, and a note"
}

# was nan_weights: NaN in the weights gave text of '!' and exit 0
try_nan_weights() {
  model gpt2
  change "$here/model" <<<'
shape, values = t["transformer.ln_f.weight"]
t["transformer.ln_f.weight"] = [shape, struct.pack("<f", float("nan")) + values[4:]]'
  expect 1 'logits are not finite.* final_norm.weight \(element 0\)' -- generate --checkpoint "$here/model" --prompt w1 --tokens 4
  expect 1 'final_norm.weight' -- generate --checkpoint "$here/model" --prompt w1 --tokens 4 --temperature 0 --precision bf16
  now "$(head -n 1 "$here/said")"
}

# was long_context: 4 tokens of a model with a context of 131072 took memory for all of it
try_long_context() {
  local generate eval
  model llama model.layers=8 model.width=64 model.context=131072
  generate=$(peak_mebibytes generate --checkpoint "$here/model" --prompt w1 --tokens 4) || complain "generate: exit $?"
  eval=$(peak_mebibytes eval --checkpoint "$here/model" --data "$here/data" --whole) || complain "eval: exit $?"
  # Keys and values of the whole context are 512 MiB; the program itself has about 30 resident.
  [ "$generate" -lt 120 ] || complain "generate had $generate MiB resident"
  [ "$eval" -lt 250 ] || complain "eval had $eval MiB resident"
  now "$generate MiB resident to generate, $eval to evaluate"
}

# was unknown_tokenizer: a tokenizer that is not known kept its model from being evaluated, exported and trained
try_unknown_tokenizer() {
  model gpt2
  rm -f "$here/model"/{vocab.json,merges.txt,special_tokens_map.json,tokenizer_config.json}
  echo '{"version": "1.0", "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]}}' >"$here/model/tokenizer.json"
  expect 0 'note: .*tokenizer.*Unigram' 'nats per token' -- eval --checkpoint "$here/model" --data "$here/data" --whole
  expect 0 'note: .*tokenizer.*Unigram' -- export --checkpoint "$here/model" --out "$here/again"
  expect 0 'finished' -- train --out "$here/tuned" --set train.init_from="$here/model" --set data.train="$here/data" --set train.threads=1 \
    --set train.steps=1 --set train.global_batch=2 --set train.sequence=32
  expect 1 'Unigram' -- generate --checkpoint "$here/model" --prompt w1 --tokens 4
  now "only generate needs it: $(head -n 1 "$here/said")"
}

# was dropout_rates: a model whose dropout rates differ could not even be evaluated
try_dropout_rates() {
  local before
  model gpt2
  before=$(loss "$here/model")
  change "$here/model" <<<'config["attn_pdrop"] = 0.25'
  exact "evaluated" "$before" "$(loss "$here/model")"
  expect 0 -- generate --checkpoint "$here/model" --prompt w1 --tokens 2
  expect 0 -- export --checkpoint "$here/model" --out "$here/again"
  grep -q '"attn_pdrop": 0.25' "$here/again/config.json" || complain "the export lost a rate"
  tune=(train --out "$here/tuned" --set train.init_from="$here/model" --set data.train="$here/data" --set train.threads=1 --set train.steps=1
    --set train.global_batch=2 --set train.sequence=32)
  expect 1 'attn_pdrop = 0.25.*model.dropout' 'set model.dropout=0.25' -- "${tune[@]}"
  cp "$here/said" "$here/refusal"
  expect 0 'finished' -- "${tune[@]}" --set model.dropout=0.25
  now "loads; training: $(head -n 1 "$here/refusal" | sed "s|$here/||")"
}

# was partial_rotary: partial_rotary_factor of a LLaMA config was refused although the block can turn a part of a head
try_partial_rotary() {
  local whole half
  model llama
  whole=$(loss "$here/model")
  change "$here/model" <<<'config["partial_rotary_factor"] = 0.5'
  half=$(loss "$here/model")
  says 'note: .*partial_rotary_factor: the first 8 of'
  [ "$half" != "$whole" ] || complain "the factor makes no difference"
  expect 0 -- export --checkpoint "$here/model" --out "$here/again"
  grep -q '"partial_rotary_factor": 0.5' "$here/again/config.json" || complain "the export lost the factor"
  exact "exported again" "$half" "$(loss "$here/again")"
  change "$here/model" <<<'
del config["partial_rotary_factor"], config["rope_theta"]
config["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}'
  exact "in rope_parameters" "$half" "$(loss "$here/model")"
  now "$half nats per token with half of each head turning, $whole with all"
}

# was foreign_model: a refusal of another family named its model_type alone, and weights as pytorch_model.bin had no way out
try_foreign_model() {
  model gpt2
  mv "$here/model/model.safetensors" "$here/model/pytorch_model.bin"
  expect 1 "its weights are in 'pytorch_model.bin'" 'python3 -c .*from_pretrained.*save_pretrained' -- \
    generate --checkpoint "$here/model" --prompt w1
  echo '{"model_type": "qwen3_moe", "num_experts": 128, "sliding_window": null}' >"$here/model/config.json"
  expect 1 'model_type = "qwen3_moe".*norms of queries and keys.*a mixture of experts \(num_experts = 128\)' -- \
    eval --checkpoint "$here/model" --data "$here/data"
  cp "$here/said" "$here/refusal"
  echo '{"model_type": "gpt2", "activation_function": "quick_gelu"}' >"$here/model/config.json"
  expect 1 'activation_function = "quick_gelu": this version runs gelu_new' -- eval --checkpoint "$here/model" --data "$here/data"
  now "$(head -n 1 "$here/refusal" | sed "s|$here/||")"
}

# was new_option: a checkpoint from before an option of the model was unreadable ("the model lacks ...")
try_new_option() {
  local before
  prepare
  expect 0 'finished' -- "${run[@]}"
  before=$(loss "$here/run")
  python3 - "$here/run/checkpoints"/step_*4/manifest.json <<'P' || complain "the manifest could not be changed"
import json, sys
table = []
for i in range(256):
    for _ in range(8): i = i >> 1 ^ 0x82F63B78 if i & 1 else i >> 1
    table.append(i)
document = json.load(open(sys.argv[1]))
for option in ["head_bias", "rotary_pairing", "init_deviation", "kv_heads", "mlp"]: del document["manifest"]["extra"]["model"][option]
crc = 0xFFFFFFFF
for byte in json.dumps(document["manifest"], sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(): crc = table[(crc ^ byte) & 255] ^ crc >> 8
document["crc32c"] = "%08x" % (crc ^ 0xFFFFFFFF)
json.dump(document, open(sys.argv[1], "w"))
P
  exact "evaluated" "$before" "$(loss "$here/run")"
  expect 0 'finished at step 6' -- "${run[@]}" --resume --set train.steps=6
  now "read and resumed without five options"
}

run_case
