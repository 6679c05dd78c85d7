#!/bin/bash
# Tokenizers made by other tools: special tokens, added tokens, vocabularies. See support.sh; exit code 77: this machine
# cannot try it, and why.
#
#   field_tokenizers.sh RIDGELINE MPIEXEC CASE
set -uo pipefail
program=$1 mpiexec=$2 case=$3
self=$(realpath "$0")
# shellcheck source=support.sh
source "$(dirname "$self")/support.sh"

# edit FROM TO CODE: a copy of a tokenizer's folder as Hugging Face tools write it today (two files), changed by Python
# statements on t (tokenizer.json), c (tokenizer_config.json) and add(content, special).
edit() {
  cp -r "$here/$1" "$here/$2"
  rm -f "$here/$2/special_tokens_map.json" "$here/$2/vocab.json" "$here/$2/merges.txt"
  python3 - "$here/$2" "$3" <<'PYTHON' || complain "python3 failed"
import json, sys
folder, code = sys.argv[1:]
t, c = (json.load(open(f'{folder}/{name}')) for name in ('tokenizer.json', 'tokenizer_config.json'))
def add(content, special):
    t['added_tokens'].append({'id': 1 + max(a['id'] for a in t['added_tokens']), 'content': content, 'single_word': False,
                              'lstrip': False, 'rstrip': False, 'normalized': not special, 'special': special})
exec(code)
for name, value in (('tokenizer.json', t), ('tokenizer_config.json', c)):
    json.dump(value, open(f'{folder}/{name}', 'w'), ensure_ascii=False)
PYTHON
}

small_tokenizer() {
  printf 'Once upon a time there was a cat.\n\nThe cat  sat on   the mat.\n' >"$here/text.txt"
  expect 0 -- tokenizer train --vocab 260 --out "$here/tok" "$here/text.txt"
}

# A tokenizer whose eos_token is not the usual one, with every file that a folder may have, and tokens made with it.
chat_tokenizer() {
  small_tokenizer
  edit tok chat "add('<|im_start|>', True); add('<|im_end|>', True); c.update(eos_token='<|im_end|>', pad_token='<|endoftext|>',
    bos_token='<|im_start|>')"
  # shellcheck disable=SC2016  # a template's own
  printf '{{ messages }}\n' >"$here/chat/chat_template.jinja"
  printf '{"temperature": 0.6, "eos_token_id": 1}\n' >"$here/chat/generation_config.json"
  for _ in $(seq 400); do echo '{"text": "cat sat"}'; done >"$here/s.jsonl"
  expect 0 -- prepare --tokenizer "$here/chat" --out "$here/s" "$here/s.jsonl"
  end=$(json "$here/s.json" end_of_document)
  vocabulary=$(json "$here/s.json" vocabulary)
}

json() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1])).get(sys.argv[2]))' "$1" "$2"; }

# train_small OUT STEPS TOKENIZER [OPTION...]
train_small() {
  local out=$1 steps=$2 tokenizer=$3
  shift 3
  expect "${code:-0}" "$@" -- train --ranks 1 --out "$here/$out" --set data.train="$here/s" --set data.tokenizer="$here/$tokenizer" \
    --set data.split=1 --set model.vocab="$vocabulary" --set model.layers=1 --set model.width=32 --set model.heads=2 \
    --set model.context=32 --set train.sequence=32 --set train.global_batch=4 --set train.micro_batch=2 \
    --set train.steps="$steps" --set train.save_every="$steps" --set optimizer.warmup_steps=1 \
    --set optimizer.learning_rate=0.003 --set train.threads=1
}

ids() { "$program" tokenizer encode --tokenizer "$here/$1" "${@:3}" "$2"; }

# was special_tokens: a checkpoint kept tokenizer.json only: eos, bos, pad, chat template and generation_config were lost
try_special_tokens() {
  local file
  chat_tokenizer
  train_small run 150 chat
  expect 0 -- generate --checkpoint "$here/run" --prompt cat --tokens 12 --temperature 0
  exact "text" "cat sat" "$(head -n 1 "$here/said")"
  expect 0 -- export --checkpoint "$here/run" --out "$here/exported"
  for file in tokenizer.json tokenizer_config.json chat_template.jinja; do
    cmp -s "$here/chat/$file" "$here/exported/$file" || complain "the export's $file is another"
  done
  exact "config.json's eos" "$end" "$(json "$here/exported/config.json" eos_token_id)"
  exact "config.json's bos" "$((end - 1))" "$(json "$here/exported/config.json" bos_token_id)"
  exact "config.json's pad" "$((end - 2))" "$(json "$here/exported/config.json" pad_token_id)"
  exact "generation_config.json's eos" "[$end, 1]" "$(json "$here/exported/generation_config.json" eos_token_id)"
  exact "generation_config.json's temperature" 0.6 "$(json "$here/exported/generation_config.json" temperature)"
  expect 0 -- generate --checkpoint "$here/exported" --prompt cat --tokens 12 --temperature 0
  exact "text of the export" "cat sat" "$(head -n 1 "$here/said")"
  now "the model stops after 'cat sat'; the export has the tokenizer's files, eos $end, bos $((end - 1)), pad $((end - 2))"
}

# was end_of_document_checked: data that ended documents with one id was trained on with a tokenizer that named another
try_end_of_document_checked() {
  chat_tokenizer
  edit chat other "c['eos_token'] = '<|endoftext|>'"
  code=1 train_small refused 2 other "ends its documents with id $end" "eos_token is id 259"
  [ -e "$here/refused/checkpoints" ] && complain "it trained"
  train_small run 2 chat
  expect 1 "learned to end a document with id $end" -- generate --checkpoint "$here/run" --tokenizer "$here/other" --prompt cat
  expect 1 "learned to end a document with id $end" -- eval --checkpoint "$here/run" --tokenizer "$here/other" --data "$here/s" --whole
  expect 0 -- prepare --tokenizer "$here/tok" --out "$here/foreign" "$here/s.jsonl"
  expect 1 "prepared with a vocabulary of 260 .*this tokenizer has $vocabulary" -- \
    eval --checkpoint "$here/run" --data "$here/foreign" --whole
  expect 1 "learned to end a document with id $end" -- export --checkpoint "$here/run" --tokenizer "$here/other" --out "$here/e"
  now "train, generate, eval and export say which id the data and the model end documents with"
}

# was added_tokens: added tokens that are not special were text unless --specials was given
try_added_tokens() {
  small_tokenizer
  edit tok code "add('    ', False); add('\t\t', False); add('<|im_end|>', True)"
  exact "ids" "$(ids tok cat) $(ids tok $'\n') 260 $(ids tok sat) 261" "$(ids code $'cat\n    sat\t\t')"
  exact "ids with --specials" "260 262 260" "$(ids code '    <|im_end|>    ' --specials)"
  exact "a special token as text" "$(ids tok 'a<|im_end|>')" "$(ids code 'a<|im_end|>')"
  now "'cat\\n    sat' gives $(ids code $'cat\n    sat') with and without --specials"
}

# was prefix_space: add_prefix_space of tokenizer_config.json was ignored, that of tokenizer.json refused
try_prefix_space() {
  small_tokenizer
  edit tok prefix "c['add_prefix_space'] = True"
  edit tok inner "del c['add_prefix_space']; t['pre_tokenizer']['add_prefix_space'] = True"
  exact "tokenizer_config.json" "$(ids tok ' cat')" "$(ids prefix cat)"
  exact "tokenizer.json" "$(ids tok ' cat')" "$(ids inner cat)"
  exact "a text with its own space" "$(ids tok ' cat')" "$(ids prefix ' cat')"
  now "'cat' gives the ids of ' cat': $(ids prefix cat)"
}

# was eos_lacking: an eos_token that the tokenizer does not have was replaced by <|endoftext|> without a word
try_eos_lacking() {
  small_tokenizer
  edit tok typo "c['eos_token'] = '<|endoftxt|>'"
  expect 1 "tokenizer_config.json: the eos_token '<\|endoftxt\|>' is not in the tokenizer" "Did you mean '<\|endoftext\|>'" -- \
    prepare --tokenizer "$here/typo" --out "$here/y" "$here/text.txt"
  compgen -G "$here/y*" && complain "something was written"
  now "$(grep -o 'the eos_token.*' "$here/said" | head -n 1)"
}

# was literal_space: a vocabulary's entry " " took the place of the byte 0x20, and ids changed
try_literal_space() {
  small_tokenizer
  edit tok space "t['model']['vocab'][' '] = 260"
  exact "ids" "$(ids tok 'a  b')" "$(ids space 'a  b')"
  now "the same ids as without the entry: $(ids space 'a  b')"
}

# was normal_form: a tokenizer with the normalizer NFC, or without bytes that UTF-8 never uses (GPT-NeoX's), was refused
try_normal_form() {
  local byte
  small_tokenizer
  edit tok nfc "
t['normalizer'] = {'type': 'NFC'}
for c in [0xC0, 0xC1, *range(0xF5, 0x100)]: del t['model']['vocab'][chr(c)]"
  exact "e and an accent" "$(ids tok $'caf\u00e9')" "$(ids nfc $'cafe\u0301')"
  exact "a byte without an id" "$(ids tok $'a\ufffd')" "$(ids nfc $'a\xff')"
  now "'cafe' and U+0301 give the ids of the composed word: $(ids nfc $'cafe\u0301')"
}

# was bos_before_prompt: generate began a prompt without the BOS that the tokenizer puts before it
try_bos_before_prompt() {
  local plain bos
  chat_tokenizer
  train_small run 20 chat
  expect 0 -- export --checkpoint "$here/run" --out "$here/plain"
  cp -r "$here/plain" "$here/bos"
  edit chat template "
t['post_processor'] = {'type': 'TemplateProcessing', 'single': [{'SpecialToken': {'id': '<|im_start|>', 'type_id': 0}},
  {'Sequence': {'id': 'A', 'type_id': 0}}], 'pair': [], 'special_tokens': {}}"
  cp "$here/template/tokenizer.json" "$here/bos/tokenizer.json"
  options=(--tokens 6 --temperature 0 --keep-going)
  expect 0 -- generate --checkpoint "$here/plain" --prompt "<|im_start|>the" "${options[@]}"
  bos=$(head -n 1 "$here/said")
  expect 0 -- generate --checkpoint "$here/plain" --prompt the "${options[@]}"
  plain=$(head -n 1 "$here/said")
  expect 0 -- generate --checkpoint "$here/bos" --prompt the "${options[@]}"
  exact "text" "${bos#"<|im_start|>"}" "$(head -n 1 "$here/said")"
  [ "${bos#"<|im_start|>"}" = "$plain" ] && complain "the text does not depend on a BOS: the case shows nothing"
  now "the text is that of the prompt with BOS before it"
}

# was generation_stops: generate went on past the eos ids of generation_config.json
try_generation_stops() {
  local first
  chat_tokenizer
  train_small run 20 chat
  expect 0 -- export --checkpoint "$here/run" --out "$here/exported"
  expect 0 '^6 tokens' -- generate --checkpoint "$here/exported" --prompt cat --tokens 6 --temperature 0 --keep-going
  first=$(head -n 1 "$here/said")
  first=$(ids exported "${first#cat}" --specials)
  printf '{"eos_token_id": [1, %s]}' "${first%% *}" >"$here/exported/generation_config.json"
  expect 0 '^0 tokens' -- generate --checkpoint "$here/exported" --prompt cat --tokens 6 --temperature 0
  now "generation stops at every id of the list"
}

# was training_progress: tokenizer train said nothing between the last word and its 256th merge
try_training_progress() {
  small_tokenizer
  python3 - "$program" "$here" >"$here/said" 2>&1 <<'PYTHON' || complain "no bar for merges from 0 on"
import os, pty, sys
program, here = sys.argv[1:]
seen = bytearray()
def read(descriptor):
    data = os.read(descriptor, 65536)
    seen.extend(data)
    return data
status = pty.spawn([program, 'tokenizer', 'train', '--vocab', '262', '--out', here + '/again', here + '/text.txt'], read)
assert status == 0 and b'| 0/5 merges' in seen, status
PYTHON
  now "a bar from merge 0 on"
}

# was tokenizer_found: without data.tokenizer a run's checkpoints had no tokenizer, though it lay where the data's note says
try_tokenizer_found() {
  prepare
  local -a without=()
  local i
  for ((i = 0; i < ${#run[@]}; ++i)); do
    case ${run[i]},${run[i + 1]:-} in --set,data.tokenizer=*) ((++i)) ;; *) without+=("${run[i]}") ;; esac
  done
  expect 0 "no tokenizer is named: '$here/tokenizer', with which '$here/data' was prepared, is taken" -- "${without[@]}"
  now "$(grep -o 'no tokenizer is named.*' "$here/said")"
  expect 0 -- generate --checkpoint "$here/run" --prompt w1 --tokens 3
  # Another one by now.
  mv "$here/tokenizer" "$here/moved"
  expect 0 -- tokenizer train --vocab 290 --out "$here/tokenizer" "$here/text.txt"
  expect 0 "$here/tokenizer', .* is another one by now" -- "${without[@]/$here\/run/$here/other}"
  expect 1 'has no tokenizer beside it' -- generate --checkpoint "$here/other" --prompt w1 --tokens 3
  expect 0 'is another one by now' -- eval --checkpoint "$here/other" --data "$here/data"
  rm -r "$here/tokenizer"
  mv "$here/moved" "$here/tokenizer"
  expect 0 'is taken' 'bits per byte' -- eval --checkpoint "$here/other" --data "$here/data"
}

run_case
