#!/bin/bash
# From a fresh Debian 12 to a trained model: installs packages, builds, then prepares a real corpus, trains a small GPT
# on two ranks, stops it half-way, resumes it, evaluates it against an interpolated bigram, lets it write, exports it.
# Everything it makes lies in out/quickstart (made anew) and build/release.
#
#   ./quickstart.sh [--no-install] [--skip-build] [--size full|small] [--out DIR] [--set key=value ...]
#
#   --no-install   use what is installed, touch no package
#   --skip-build   use build/release/ridgeline, or the program named by RIDGELINE, as it is
#   --size SIZE    full: configs/quickstart.toml as it is; small: less than half of the work: a vocabulary of 1024, width 128.
#                  Left out, a few steps are timed, and small is taken where full would train for more than 190 s
#   --out DIR      where to put everything (default: out/quickstart)
#   --set K=V      passed on to every call of `ridgeline train`
set -euo pipefail
cd "$(dirname "$0")"

install=1
build=1
size=''
out=out/quickstart
set_options=()
while [ $# -gt 0 ]; do
  case $1 in
    --no-install) install=0 ;;
    --skip-build) build=0 ;;
    --size)
      size=${2:?--size needs full or small}
      if [ "$size" != full ] && [ "$size" != small ]; then
        echo "quickstart.sh: --size $size: full or small (see --help)" >&2
        exit 2
      fi
      shift ;;
    --out) out=${2:?--out needs a folder}; shift ;;
    --set) set_options+=(--set "${2:?--set needs key=value}"); shift ;;
    -h|--help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    *) echo "quickstart.sh: unknown option '$1' (see --help)" >&2; exit 2 ;;
  esac
  shift
done

started=$(date +%s)
bold='' plain=''
if [ -t 1 ]; then bold=$'\e[1m' plain=$'\e[0m'; fi
step() { printf '\n%s== %s%s (%d s)\n' "$bold" "$1" "$plain" $(($(date +%s) - started)); }
show() {
  local word line=''
  for word in "$@"; do
    case $word in *[\ \"\'\$]*) line+=" \"$word\"" ;; *) line+=" $word" ;; esac
  done
  printf '%s$%s%s\n' "$bold" "$line" "$plain"
}
run() { show "$@"; "$@"; }

if [ $install = 1 ]; then
  step "Packages"
  run tools/install_packages build corpus
fi

if [ $build = 1 ]; then
  step "Release build"
  run cmake --preset release -Wno-dev --log-level=WARNING
  run cmake --build build/release --target ridgeline
fi
ridgeline=${RIDGELINE:-build/release/ridgeline}
if [ ! -x $ridgeline ]; then
  echo "quickstart.sh: $ridgeline is missing; run without --skip-build" >&2
  exit 1
fi
run $ridgeline --version
main_job_started=$(date +%s)

step "Corpus: the pages of Debian's perl-doc as plain text, a blank line after each"
rm -rf "$out"
mkdir -p "$out"
run tools/perl_doc_corpus "$out/corpus.txt"

# Tokenizer and tokens for a vocabulary of $1.
make_tokens() {
  step "Tokenizer: byte-level BPE trained on it, $1 tokens"
  run $ridgeline tokenizer train --vocab "$1" --out "$out/tokenizer" "$out/corpus.txt"

  step "Data: tokens in .bin/.idx"
  run $ridgeline prepare --tokenizer "$out/tokenizer" --out "$out/corpus" "$out/corpus.txt"
  run $ridgeline inspect "$out/corpus"
}

# The first 95 % of the documents train, the rest are held out.
split=95,5,0
job=(--config configs/quickstart.toml --ranks 2 --set "data.train=$out/corpus" --set "data.split=$split"
  --set "data.tokenizer=$out/tokenizer" "${set_options[@]}")
steps_of() {
  $ridgeline train "${job[@]}" --out "$out/run" --print-config | sed -n 's/^ *steps *= *\([0-9]*\).*/\1/p' | head -n 1
}

# The size: small, less than half of the work, for a machine that would train for more than this.
limit=190
if [ "$size" != small ]; then make_tokens 4096; fi
if [ -z "$size" ]; then
  step "Size: a few steps, timed"
  run $ridgeline train "${job[@]}" --set train.steps=16 --set optimizer.warmup_steps=0 --set train.eval_every=0 \
    --set train.save_every=0 --out "$out/probe" --quiet
  # The median, without the first steps.
  step_seconds=$(sed -n 's/.*"step_seconds": *\([0-9.e-]*\).*/\1/p' "$out/probe/metrics.jsonl" | tail -n 11 | sort -g | sed -n 6p)
  rm -r "$out/probe"
  full_seconds=$(awk -v steps="$(steps_of)" -v seconds="$step_seconds" 'BEGIN {printf "%.0f", steps * seconds}')
  if [ "$full_seconds" -le $limit ]; then size=full; else size=small; fi
  echo "A step takes $step_seconds s here, so the full size would train for $full_seconds s (at most $limit): size $size."
fi
if [ "$size" = small ]; then
  make_tokens 1024
  # The last value of a key counts: the user's.
  job+=(--set model.vocab=1024 --set model.width=128 --set model.heads=4 --set train.steps=1200
    --set train.eval_every=300 --set train.save_every=300 "${set_options[@]}")
fi

step "Plan: what each rank will hold in memory"
run $ridgeline plan "${job[@]}"

step "Training on two ranks, told to stop half-way (SIGTERM), as a cluster does when time is up"
steps=$(steps_of)
if [ -z "$steps" ]; then echo "quickstart.sh: the configuration names no train.steps" >&2; exit 1; fi
last_step() {
  if [ -f "$out/run/metrics.jsonl" ]; then
    sed -n 's/.*"step": *\([0-9]*\).*/\1/p' "$out/run/metrics.jsonl" | tail -n 1
  fi
}
# Waits until the run of the process named in $out/pid is half-way, then tells it to stop.
stop_half_way() {
  local step
  while sleep 0.2; do
    step=$(last_step)
    if [ "${step:-0}" -ge $((steps / 2)) ]; then break; fi
  done
  show kill -TERM "$(cat "$out/pid")"
  kill -TERM "$(cat "$out/pid")"
}
stop_half_way &
watcher=$!
trap 'kill $watcher 2>/dev/null || true' EXIT
show $ridgeline train "${job[@]}" --out "$out/run"
# The shell becomes the trainer, so its process number is known and Ctrl-C reaches it.
# shellcheck disable=SC2016
status=0
bash -c 'echo $$ >"$0"; exec "$@"' "$out/pid" $ridgeline train "${job[@]}" --out "$out/run" || status=$?
if [ $status != 75 ] && [ $status != 0 ]; then exit $status; fi  # 75: stopped before its end, and saved
wait $watcher
trap - EXIT
rm "$out/pid"
stopped_at=$(last_step)
if [ "${stopped_at:-0}" -ge "$steps" ]; then
  echo "quickstart.sh: the run ended before it could be stopped (step $stopped_at of $steps)" >&2
  exit 1
fi
echo "Stopped at step $stopped_at of $steps; saved:"
run ls "$out/run/checkpoints"

step "Resuming"
run $ridgeline train "${job[@]}" --out "$out/run" --resume

step "Evaluation on held-out pages, against an interpolated bigram of the training pages"
run $ridgeline eval --checkpoint "$out/run" --data "$out/corpus" --split $split --bigram | tee "$out/evaluation.txt"
if awk '/^model/ {model = $2} /^interpolated bigram/ {bigram = $3} END {exit !(model > 0 && model < bigram)}' \
    "$out/evaluation.txt"; then
  echo "The model is below the bigram."
else
  echo "The model is not below the bigram."
  # A run that --set made shorter need not be.
  if [ ${#set_options[@]} = 0 ]; then exit 1; fi
fi

step "The model writes"
run $ridgeline generate --checkpoint "$out/run" --prompt "The regular expression" --tokens 120 --temperature 0.8 \
  --top-k 40 --seed 1

step "Export: a folder that Hugging Face loads"
run $ridgeline export --checkpoint "$out/run" --out "$out/export"
run ls -l "$out/export"

printf '\n%sDone%s: the main job took %d s at size %s. Look at %s/run (metrics.jsonl, tensorboard/, checkpoints/) and %s/export.\n' \
  "$bold" "$plain" $(($(date +%s) - main_job_started)) "$size" "$out" "$out"
