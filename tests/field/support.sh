# What scripts that try the program itself share. Sourced with $program, $mpiexec and $case set; a case is a function
# try_NAME; the script's last line is `run_case`. A skipped case exits with 77.
# shellcheck shell=bash

here=$(mktemp -d)
failed=0

# Processes that a case left behind are a failure of that case, not of the next one.
clean_up() {
  local file
  for file in "$here"/pid.*; do
    if [ -e "$file" ]; then kill -KILL "$(cat "$file")" 2>/dev/null; fi
  done
  umount "$here/disk" 2>/dev/null
  if [ -n "${groups:-}" ]; then rmdir "$groups".* 2>/dev/null; fi
  rm -rf "$here"
}
trap clean_up EXIT

complain() {
  echo "FAILED: $case: $*"
  sed 's/^/    /' "$here/said"
  failed=1
}

# expect CODE PATTERN... -- ARGUMENTS: runs the program; both streams must hold each pattern.
expect() {
  local code=$1 status=0 pattern
  local -a patterns=()
  shift
  while [ "$1" != -- ]; do patterns+=("$1"); shift; done
  shift
  timeout -s KILL 120 "$program" "$@" >"$here/said" 2>&1 </dev/null || status=$?
  echo "ridgeline $* : exit $status"
  [ $status -eq "$code" ] || complain "exit $status instead of $code"
  for pattern in "${patterns[@]}"; do
    grep -qE -- "$pattern" "$here/said" || complain "does not say '$pattern'"
  done
  if [ "$code" != 0 ]; then
    [ "$(grep -c '^ridgeline: error: ' "$here/said")" -eq 1 ] || complain "does not say once what happened"
  fi
}

# A corpus of a few kilobytes, its tokenizer, its tokens, and the options of a run on them.
prepare() {
  local document word
  for document in $(seq 60); do
    for word in $(seq 40); do printf 'w%d ' $(((document * word * word) % 97)); done
    printf '\n\n'
  done >"$here/text.txt"
  {
    "$program" tokenizer train --vocab 300 --out "$here/tokenizer" "$here/text.txt" &&
      "$program" prepare --tokenizer "$here/tokenizer" --out "$here/data" "$here/text.txt"
  } >"$here/said" 2>&1 || { complain "the data could not be prepared"; exit 1; }
  run=(train --ranks 2 --out "$here/run")
  sets=(data.train="$here/data" data.tokenizer="$here/tokenizer" model.layers=2 model.width=32 model.heads=2 model.vocab=300 model.context=32 train.sequence=32
    train.global_batch=8 train.micro_batch=2 train.steps=4 train.threads=1 train.save_every=2 optimizer.warmup_steps=1
    optimizer.learning_rate=0.001)
  for word in "${sets[@]}"; do run+=(--set "$word"); done
}

# now TEXT...: what is measured today; `tools/accept 05` prints it beside what was wrong.
now() { echo "now: $*"; }

# exact WHAT EXPECTED MEASURED
exact() {
  [ "$2" = "$3" ] || complain "$1: '$3' instead of '$2'"
}

run_case() {
  if ! declare -F "try_$case" >/dev/null; then
    echo "$0: no case '$case'" >&2
    exit 2
  fi
  "try_$case"
  exit $failed
}
