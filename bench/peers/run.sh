#!/bin/bash
# Runs GPT-2 124M in PyTorch on the processor in every mode, one process each, and prints one JSON line per mode.
#
#   bench/peers/run.sh [--folder DIR] [--modes LIST] [--rounds N] [--ddp] [options of gpt2_pytorch.py]
#
#   --folder DIR   the environment that bench/peers/setup.sh made (default ${TMPDIR:-/tmp}/ridgeline-peers)
#   --modes LIST   comma-separated {eager,compile}-{fp32,bf16}[-tuned]; default: all eight
#   --rounds N     goes through the modes N times, so that slow minutes hit all of them (default 1)
#   --ddp          two ranks with one thread each, batch halved, over gloo
#
# "tuned" = jemalloc with huge pages, nothing returned to the system.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

folder=${TMPDIR:-/tmp}/ridgeline-peers
modes=eager-fp32,compile-fp32,eager-bf16,compile-bf16,eager-fp32-tuned,compile-fp32-tuned,eager-bf16-tuned,compile-bf16-tuned
rounds=1
ddp=0
options=()
while [ $# -gt 0 ]; do
  case $1 in
    --folder) folder=${2:?}; shift ;;
    --modes) modes=${2:?}; shift ;;
    --rounds) rounds=${2:?}; shift ;;
    --ddp) ddp=1 ;;
    -h|--help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    *) options+=("$1") ;;
  esac
  shift
done
if [ ! -x "$folder/bin/python" ]; then
  echo "run.sh: no environment in $folder; make it with bench/peers/setup.sh" >&2
  exit 1
fi
jemalloc=$(find /usr/lib -name 'libjemalloc.so.2' 2>/dev/null | head -n 1)

launch=("$folder/bin/python")
if [ $ddp = 1 ]; then
  launch=("$folder/bin/torchrun" --standalone --nproc-per-node 2)
  options=(--batch 2 --threads 1 "${options[@]}")
fi
# Set for older OpenBLAS builds on some machines; they would slow PyTorch's libraries down.
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE
# On a machine with anything else running, OpenMP's spinning makes small steps a hundred times slower.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
if [ $ddp = 1 ]; then export OMP_NUM_THREADS=1; fi

for _ in $(seq "$rounds"); do
  for mode in ${modes//,/ }; do
    IFS=- read -r run precision tuned <<<"$mode"
    environment=()
    if [ "${tuned:-}" = tuned ]; then
      if [ -z "$jemalloc" ]; then echo "run.sh: libjemalloc2 is missing (tools/install_packages peers)" >&2; exit 1; fi
      environment=("LD_PRELOAD=$jemalloc"
        "MALLOC_CONF=thp:always,metadata_thp:always,dirty_decay_ms:-1,muzzy_decay_ms:-1,narenas:1")
    fi
    env "${environment[@]}" "${launch[@]}" "$here/gpt2_pytorch.py" --mode "$run" --precision "$precision" "${options[@]}"
  done
done
