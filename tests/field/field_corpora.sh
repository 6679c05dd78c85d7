#!/bin/bash
# Corpora: what is read, what is refused, and what must never be lost. See support.sh.
#
#   field_corpora.sh RIDGELINE MPIEXEC CASE
set -uo pipefail
program=$1 mpiexec=$2 case=$3
self=$(realpath "$0")
# shellcheck source=support.sh
source "$(dirname "$self")/support.sh"

# A tokenizer of 300 ids.
tokenizer() {
  printf 'Once upon a time there was a cat.\n\nThe cat  sat on   the mat.\n' >"$here/text.txt"
  "$program" tokenizer train --vocab 300 --out "$here/tok" "$here/text.txt" >"$here/said" 2>&1 ||
    complain "no tokenizer could be trained"
}
# untouched FILE...: their contents are those of `remember FILE...`.
remember() { sha256sum "$@" >"$here/remembered"; }
untouched() { sha256sum --quiet -c "$here/remembered" >"$here/said" 2>&1 || complain "a file that was not to be touched changed"; }
# documents PREFIX: how many `inspect` counts there.
documents() { "$program" inspect "$1" 2>/dev/null | sed -n 's/^ *documents *//p'; }

# was corpus_overwritten: prepare --out web web.json replaced the corpus by its own note of 200 bytes, exit 0
try_corpus_overwritten() {
  tokenizer
  printf '{"text": "one"}\n{"text": "two"}\n' >"$here/web.json"
  ln -s web.json "$here/soft.json"
  ln "$here/web.json" "$here/hard.json"
  remember "$here/web.json"
  expect 1 "web.json' would be written, and is the input" -- prepare --tokenizer "$here/tok" --out "$here/web" "$here/web.json"
  expect 1 'is the input' -- prepare --tokenizer "$here/tok" --out "$here/soft" "$here/web.json"
  expect 1 'is the input' -- prepare --tokenizer "$here/tok" --out "$here/web" "$here/hard.json"
  untouched
  cp "$here/text.txt" "$here/vocab.json"
  expect 1 'is the input' -- tokenizer train --vocab 300 --out "$here" "$here/vocab.json"
  now "refused by name, also through symbolic and hard links; the corpus is unchanged"
}

# was foreign_files_overwritten: files of other tools were replaced without a word wherever an --out met them
try_foreign_files_overwritten() {
  tokenizer
  # Datasets: one without a note of ours, a corpus beside the prefix, and ours, which may be prepared again.
  expect 0 -- prepare --tokenizer "$here/tok" --out "$here/d" "$here/text.txt"
  expect 0 -- prepare --tokenizer "$here/tok" --out "$here/d" "$here/text.txt"
  cp "$here/d.bin" "$here/megatron.bin"
  cp "$here/d.idx" "$here/megatron.idx"
  printf '{"text": "my corpus"}\n' >"$here/n.json"
  # A tokenizer as Hugging Face's tools write it.
  mkdir "$here/theirs"
  python3 -c 'import json, sys; json.dump(json.load(open(sys.argv[1])), open(sys.argv[2], "w"), indent=2)' \
    "$here/tok/tokenizer.json" "$here/theirs/tokenizer.json"
  remember "$here"/megatron.* "$here/n.json" "$here/theirs/tokenizer.json"
  local foreign='exists, and Ridgeline did not write it'
  expect 1 "$foreign" -- prepare --tokenizer "$here/tok" --out "$here/megatron" "$here/text.txt"
  expect 1 "$foreign" -- prepare --tokenizer "$here/tok" --out "$here/n" "$here/text.txt"
  expect 1 "$foreign" -- prepare --tokenizer "$here/tok" --out "$here/tok/tokenizer" "$here/text.txt"
  expect 1 "$foreign" -- tokenizer train --vocab 300 --out "$here/theirs" "$here/text.txt"
  expect 0 -- tokenizer train --vocab 290 --out "$here/tok" "$here/text.txt"
  untouched
  now "refused; what Ridgeline itself wrote is replaced as before"
}

# was out_is_a_folder: prepare --out dir/ wrote the hidden files dir/.bin, .idx, .json
try_out_is_a_folder() {
  tokenizer
  mkdir "$here/dir"
  expect 1 'names a folder' "--out $here/dir/text" -- prepare --tokenizer "$here/tok" --out "$here/dir/" "$here/text.txt"
  expect 1 'names a folder' -- prepare --tokenizer "$here/tok" --out "$here/dir/." "$here/text.txt"
  exact "files in the folder" "" "$(ls -A "$here/dir")"
  now "refused with what to write: --out dir/text"
}

# was numbers_of_python: three of four JSON lines with NaN, -Infinity or 1e999 in other members were lost, exit 0
try_numbers_of_python() {
  tokenizer
  printf '{"text": "one", "ppl": NaN}\n{"text": "two", "ppl": -Infinity}\n{"text": "three", "ppl": 1e999}\n{"text": "four"}\n' \
    >"$here/nan.jsonl"
  expect 0 '4 documents' -- prepare --strict --tokenizer "$here/tok" --out "$here/nan" "$here/nan.jsonl"
  # As many again, written by Python's json, with every oddity together.
  python3 - "$here/py.jsonl" <<'P'
import json, random, sys
random.seed(7)
odd = [float('nan'), float('inf'), -float('inf'), 10**400, -1.5e-300, 0, 'NaN', [float('nan'), {'Infinity': -float('inf')}]]
with open(sys.argv[1], 'w') as out:
    for i in range(500):
        members = [('text', f'd{i} NaN "Infinity", \\ 1e999 \u00e9\U0001F600'), ('a', random.choice(odd)), ('b', random.choice(odd))]
        random.shuffle(members)
        out.write(json.dumps(dict(members), ensure_ascii=random.random() < 0.5) + '\n')
P
  expect 0 '500 documents' -- prepare --strict --tokenizer "$here/tok" --out "$here/py" "$here/py.jsonl"
  exact "document 17" "d17 NaN \"Infinity\", \\ 1e999 é😀" \
    "$("$program" inspect "$here/py" --document 17 --tokenizer "$here/tok" | tail -n 1 | sed 's/<|endoftext|>$//')"
  now "4 of 4 lines, and 500 of 500 that Python's json wrote"
}

# was skipped_records: JSON lines without a document were skipped with exit 0
try_skipped_records() {
  tokenizer
  printf '{"text": "one"}\n{"text": "cut\n{"body": "x"}\n{"text": "four"}\n' >"$here/bad.jsonl"
  expect 3 '2 JSON lines gave no document and were skipped; the result is made of the other 2' 'bad.jsonl:2: not valid JSON' -- \
    prepare --tokenizer "$here/tok" --out "$here/bad" "$here/bad.jsonl"
  tail -n 2 "$here/said" | grep -q 'gave no document' || complain "the last lines do not say it"
  exact "documents" 2 "$(documents "$here/bad")"
  expect 3 '2 JSON lines' -- tokenizer train --vocab 300 --out "$here/t" "$here/bad.jsonl"
  expect 1 'bad.jsonl:2: not valid JSON' -- prepare --strict --tokenizer "$here/tok" --out "$here/strict" "$here/bad.jsonl"
  "$program" prepare --help | grep -q 'Exit code 3' || complain "--help does not name the exit code"
  now "exit 3, and the last lines say how many"
}

# was utf16: UTF-16 text became documents of NUL characters, also with --strict, exit 0
try_utf16() {
  tokenizer
  local encoding
  for encoding in UTF-16LE UTF-16 UTF-32BE; do
    python3 -c 'import sys; sys.stdout.buffer.write("The cat sat.\n\nThe mat.\n".encode(sys.argv[1]))' $encoding >"$here/u.txt"
    expect 1 "is ${encoding:0:6} \((little|big)-endian\) text" "iconv -f ${encoding:0:6}.* > " -- \
      prepare --tokenizer "$here/tok" --out "$here/u" "$here/u.txt"
    # The way out, taken as it is printed.
    if command -v iconv >/dev/null; then
      (cd / && eval "$(grep -oE 'iconv .*' "$here/said")") || complain "the command does not work"
      expect 0 '2 documents' -- prepare --strict --tokenizer "$here/tok" --out "$here/utf8" "$here/u.utf8.txt"
    fi
  done
  now "refused as UTF-16 or UTF-32 with the iconv command, which works"
}

# was packed_inputs: a gzip, Parquet, zip or PDF file called .txt was made into tokens
try_packed_inputs() {
  tokenizer
  printf 'PAR1\x15\x04\x15\x20\xff\x00' >"$here/web.parquet"
  python3 - "$here" <<'P'
import os, pickle, random, sys, zipfile
here = sys.argv[1]
with zipfile.ZipFile(here + '/archive.txt', 'w') as z: z.writestr('a.txt', 'text')
with zipfile.ZipFile(here + '/pytorch_model.jsonl', 'w') as z: z.writestr('archive/data.pkl', 'x')
pickle.dump({'weight': 1}, open(here + '/legacy.txt', 'wb'))
open(here + '/noise.txt', 'wb').write(random.Random(3).randbytes(5000))
open(here + '/rows.json', 'w').write('[{"text": "a"},\n {"text": "b"}]\n')
P
  cp "$program" "$here/program.txt"
  local file
  for file in 'web.parquet:a Parquet file:pandas.read_parquet' 'archive.txt:a zip archive:unzip' \
    'pytorch_model.jsonl:torch.save:save_pretrained' 'legacy.txt:pickle:save_pretrained' 'noise.txt:binary data:iconv' \
    'rows.json:one JSON array:jq -c' 'program.txt:ELF:text files'; do
    IFS=: read -r name kind hint <<<"$file"
    expect 1 "$name' is .*$kind" "$hint" -- prepare --tokenizer "$here/tok" --out "$here/packed" "$here/$name"
  done
  # gzip and its like are unpacked, in any order of folders, patterns and pipes.
  expect 0 '2 documents' -- prepare --tokenizer "$here/tok" --out "$here/plain" "$here/text.txt"
  gzip -c "$here/text.txt" >"$here/packed.txt"
  mkdir "$here/corpus"
  xz -c "$here/text.txt" >"$here/corpus/b.txt.xz"
  gzip -c "$here/rows.json" >"$here/rows.json.gz"
  expect 0 '2 documents' -- prepare --tokenizer "$here/tok" --out "$here/packed" "$here/packed.txt"
  expect 0 '2 documents' -- prepare --tokenizer "$here/tok" --out "$here/folder" "$here/corpus"
  expect 0 '2 documents' -- prepare --tokenizer "$here/tok" --out "$here/pattern" "$here/corp*/*.xz"
  gzip -c "$here/text.txt" | "$program" prepare --tokenizer "$here/tok" --out "$here/pipe" - >"$here/said" 2>&1 ||
    complain "standard input is not read"
  for file in packed folder pattern pipe; do
    cmp "$here/plain.bin" "$here/$file.bin" || complain "$file: other tokens"
  done
  expect 1 "in '.*rows.json.gz', unpacked: .*one JSON array" -- prepare --tokenizer "$here/tok" --out "$here/x" "$here/rows.json.gz"
  head -c 40 "$here/packed.txt" >"$here/cut.txt.gz"
  expect 1 "cut.txt.gz' is cut: it ends at byte 40" -- prepare --tokenizer "$here/tok" --out "$here/x" "$here/cut.txt.gz"
  now "seven kinds refused by name, each with a way out; gzip, Zstandard and xz are read"
}

# was special_token_text: <|endoftext|> in a corpus (TinyStories) became 6 tokens of text each, without a word
try_special_token_text() {
  tokenizer
  printf 'Once.\n\nA paragraph.\n<|endoftext|>\nTom had a dog.\n<|endoftext|>\n' >"$here/st.txt"
  expect 0 "'<\|endoftext\|>' stands 2 times in the text" -- prepare --tokenizer "$here/tok" --out "$here/st" "$here/st.txt"
  local command
  command=$(grep -oE 'python3 -c .*' "$here/said")
  (cd "$here" && eval "${command//IN.txt/st.txt}") || complain "the command does not work"
  expect 0 '2 documents' -- prepare --tokenizer "$here/tok" --out "$here/two" "$here/OUT.jsonl"
  if grep -q stands "$here/said"; then complain "it still stands there"; fi
  expect 0 "'<\|endoftext\|>' stands 2 times" -- tokenizer train --vocab 300 --out "$here/t" "$here/st.txt"
  now "counted, with a command that makes the documents of it"
}

# was wrong_key: a wrong --key was answered by 'the object has no text' alone
try_wrong_key() {
  tokenizer
  printf '{"body": "a b", "id": 1}\n{"body": "c", "title": "t"}\n' >"$here/web.jsonl"
  expect 1 'no document' '--key body \(2 lines\), --key title \(1 line\)' -- \
    prepare --tokenizer "$here/tok" --out "$here/web" "$here/web.jsonl"
  expect 1 '--key body \(2 lines\)' -- tokenizer train --vocab 300 --out "$here/t" "$here/web.jsonl"
  printf '{"text": "c"}\n' >>"$here/web.jsonl"
  expect 3 '--key body \(2 lines\)' -- prepare --tokenizer "$here/tok" --out "$here/web" "$here/web.jsonl"
  exact "files" "" "$(find "$here" -name '*.tmp')"
  now "the keys that have text are counted and named"
}

# was interrupted: prepare stopped by Ctrl-C left its temporary file (63 MB), and said nothing
try_interrupted() {
  tokenizer
  python3 -c "print(('The quick brown fox jumps over the lazy dog. ' * 20 + chr(10) * 2) * 60000)" >"$here/big.txt"
  python3 - "$program" "$here" <<'P' >"$here/said" 2>&1 || complain "see above"
import os, signal, subprocess, sys, time
program, here = sys.argv[1:]
work = here + '/i'
os.mkdir(work)
prepare, train = ['prepare', '--tokenizer', here + '/tok', '--out', work + '/big'], ['tokenizer', 'train', '--vocab', '5000', '--out', work + '/t']
for number, threads, command in ((signal.SIGINT, '1', prepare), (signal.SIGTERM, '3', prepare), (signal.SIGINT, '2', train)):
    process = subprocess.Popen([program, *command, '--threads', threads, here + '/big.txt'], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and 'big.txt' not in open(f'/proc/{process.pid}/maps').read(): time.sleep(0.005)
    time.sleep(0.02)  # in the middle of reading: there are 54 MB
    if process.poll() is not None: sys.exit(f'{command[0]} ended before it could be stopped')
    process.send_signal(number)
    said = process.communicate(timeout=20)[1]
    left = [os.path.join(r, f) for r, d, fs in os.walk(work) for f in fs]
    if process.returncode != -number: sys.exit(f'{command[0]}: ended with {process.returncode}, not by {number.name}')
    if f'stopped by {number.name}' not in said: sys.exit(f'{command[0]}: says {said!r}')
    if left: sys.exit(f'{command[0]}: left {left}')
# At any moment, also while the files get their names: all of a dataset or nothing.
begin = time.time()
subprocess.run([program, *prepare, here + '/text.txt'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
took = time.time() - begin
for time_of_30 in range(30):
    for name in os.listdir(work): os.remove(os.path.join(work, name))
    process = subprocess.Popen([program, *prepare, here + '/text.txt'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(took * (0.3 + time_of_30 / 30))
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    left = sorted(os.listdir(work))
    if left not in ([], ['big.bin', 'big.idx', 'big.json']): sys.exit(f'left {left} after {time_of_30} of 30')
P
  now "nothing is left, 'stopped by SIGINT', exit 130 (SIGTERM 143), on any number of threads"
}

# was advice_to_remove_corpus: inspect of a dataset beside a corpus of the same name advised to remove the corpus
try_advice_to_remove_corpus() {
  tokenizer
  expect 0 -- prepare --tokenizer "$here/tok" --out "$here/n" "$here/text.txt"
  printf '{"text": "my corpus"}\n{"text": "more"}\n' >"$here/n.json"
  expect 1 "n.json' is not the note of the dataset" 'may be a corpus: keep it' "mv $here/n.bin OTHER.bin" -- inspect "$here/n"
  if grep -q remove "$here/said"; then complain "it still speaks of removing"; fi
  mv "$here/n.bin" "$here/other.bin"
  mv "$here/n.idx" "$here/other.idx"
  expect 0 'token dataset' -- inspect "$here/other"
  now "keep it; rename the dataset (commands given)"
}

# was unknown_file: inspect of a token file of llm.c, a tokenizer, weights or any file was 'neither a checkpoint nor …'
try_unknown_file() {
  prepare
  python3 - "$here" <<'P'
import json, os, random, struct, sys
here = sys.argv[1]
open(here + '/llmc.bin', 'wb').write(struct.pack('<256i', 20240520, 1, 1000, *[0] * 253) + struct.pack('<1000H', *[i * 50 for i in range(1000)]))
random.seed(1)
open(here + '/nano.bin', 'wb').write(struct.pack('<3000H', *[random.choice([11, 13, random.randrange(50257)]) for _ in range(3000)]))
header = json.dumps({'w': {'dtype': 'F32', 'shape': [2, 3], 'data_offsets': [0, 24]}}).encode()
open(here + '/w.safetensors', 'wb').write(struct.pack('<Q', len(header)) + header + bytes(24))
os.mkdir(here + '/texts')
open(here + '/texts/a.txt', 'w').write('text')
P
  mkdir "$here/lonely"
  cp "$here/data.bin" "$here/lonely/d.bin"
  printf x >"$here/x.bin"
  expect 0 'a token file of llm.c \(GPT-2 ids\)' 'tokens +1,?000 of 2 bytes, from byte 1024' -- inspect "$here/llmc.bin"
  expect 0 'probably token ids of 16 bits' 'nano.idx' -- inspect "$here/nano.bin"
  expect 0 'weights in a safetensors file' '1 with 6 elements' -- inspect "$here/w.safetensors"
  expect 0 'a tokenizer' 'vocabulary +300' -- inspect "$here/tokenizer"
  expect 0 'a tokenizer' -- inspect "$here/tokenizer/tokenizer.json"
  expect 0 'note of a token dataset' "inspect $here/data" -- inspect "$here/data.json"
  expect 0 'token dataset' -- inspect "$here/data.idx"
  expect 0 'text, 1 byte$' -- inspect "$here/x.bin"
  expect 0 'and 1 text file$' -- inspect "$here/texts"
  expect 0 'ELF' -- inspect "$program"
  expect 0 -- "${run[@]}" --quiet
  expect 0 'checkpoint' 'step +4' -- inspect "$here/run/checkpoints/step_00000004/manifest.json"
  expect 1 'does not exist' 'Name a dataset' -- inspect "$here/nothing"
  now "llm.c: $("$program" inspect "$here/llmc.bin" | head -n 2 | tr -s ' \n' ' ')"
}

# was foreign_model_overwritten: export --out FOLDER removed the weights of any model that lay there, train --out its config.toml
try_foreign_model_overwritten() {
  prepare
  local foreign='exists, and Ridgeline did not write it'
  printf '# mine\n[train]\nsteps = 4\n' >"$here/config.toml"
  mkdir "$here/theirs"
  printf '# mine' >"$here/theirs/config.toml"
  printf '{"text": "x"}\n' >"$here/trace.json"
  remember "$here/config.toml" "$here/theirs/config.toml" "$here/trace.json"
  run[4]=$here
  expect 1 "config.toml' would be written, and is the input" -- "${run[@]}" --config "$here/config.toml"
  run[4]=$here/theirs
  expect 1 "$foreign" -- "${run[@]}"
  run[4]=$here/run
  expect 1 "trace.json' $foreign" -- "${run[@]}" --trace "$here/trace.json"
  expect 0 -- "${run[@]}" --quiet --trace "$here/own.json"
  expect 0 -- "${run[@]}" --quiet --resume --set train.steps=5 --trace "$here/own.json"
  untouched
  if [ -e "$here/run/checkpoints/step_00000005" ]; then :; else complain "the run did not go on"; fi

  expect 0 -- export --checkpoint "$here/run" --out "$here/exported"
  expect 0 -- export --checkpoint "$here/run" --out "$here/exported"
  expect 1 'the folder of the model that is exported' -- export --checkpoint "$here/exported" --out "$here/exported"
  expect 1 'this is a checkpoint' -- export --checkpoint "$here/run" --out "$here/run/checkpoints/step_00000004"
  # What other tools save: the same configuration, weights without Ridgeline's mark.
  python3 - "$here/exported/model.safetensors" <<'P'
import json, struct, sys
data = open(sys.argv[1], 'rb').read()
n, = struct.unpack('<Q', data[:8])
header = json.loads(data[8:8 + n])
header['__metadata__'] = {'format': 'pt'}
text = json.dumps(header).encode().ljust(n)
open(sys.argv[1], 'wb').write(struct.pack('<Q', len(text)) + text + data[8 + n:])
P
  remember "$here"/exported/*
  expect 1 "model.safetensors' $foreign" -- export --checkpoint "$here/run" --out "$here/exported"
  untouched
  mkdir "$here/llama"
  cp "$here/exported/model.safetensors" "$here/llama/model-00001-of-00001.safetensors"
  remember "$here"/llama/*
  expect 1 "$foreign" -- export --checkpoint "$here/run" --out "$here/llama"
  untouched
  now "refused by name; its own runs, exports and traces are replaced as before"
}

run_case
