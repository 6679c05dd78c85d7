#!/bin/bash
# Runs GPT-2 124M in PyTorch or DeepSpeed on the processor, one process (or two) per mode, and prints one JSON line per mode.
#
#   bench/peers/run.sh [--folder DIR] [--modes LIST] [--rounds N] [options of gpt2_pytorch.py]
#
#   --folder DIR   the environment that bench/peers/setup.sh made (default ${TMPDIR:-/tmp}/ridgeline-peers)
#   --modes LIST   comma-separated NAME-{fp32,bf16}[-tuned]; default: eager and compile in both precisions, plain and tuned.
#                  NAME: eager, compile: one process with two threads; ddp, zero_redundancy, fsdp2, deepspeed_zero1,
#                  deepspeed_zero2, deepspeed_zero3: two processes with one thread each, batch halved, over gloo
#   --rounds N     goes through the modes N times, so that slow minutes hit all of them (default 1)
#
# "tuned" = jemalloc with huge pages, nothing returned to the system. `ridgeline bench train --peers DIR` does the same
# beside Ridgeline, in interleaved rounds.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

folder=${TMPDIR:-/tmp}/ridgeline-peers
modes=eager-fp32,compile-fp32,eager-bf16,compile-bf16,eager-fp32-tuned,compile-fp32-tuned,eager-bf16-tuned,compile-bf16-tuned
rounds=1
options=()
while [ $# -gt 0 ]; do
  case $1 in
    --folder) folder=${2:?}; shift ;;
    --modes) modes=${2:?}; shift ;;
    --rounds) rounds=${2:?}; shift ;;
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

# Set for older OpenBLAS builds on some machines; they would slow PyTorch's libraries down.
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE
# On a machine with anything else running, OpenMP's spinning makes small steps a hundred times slower.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-lo} DS_ACCELERATOR=cpu

for _ in $(seq "$rounds"); do
  for mode in ${modes//,/ }; do
    IFS=- read -r name precision tuned <<<"$mode"
    case $name in
      eager|compile) command=("$folder/bin/python" "$here/gpt2_pytorch.py" --mode "$name") ;;
      *) command=("$folder/bin/python" -m torch.distributed.run --standalone --nproc-per-node 2 "$here/gpt2_pytorch.py"
          --parallel "$name" --batch 2 --threads 1) ;;
    esac
    environment=()
    case $name in eager|compile) ;; *) environment=(OMP_NUM_THREADS=1) ;; esac
    if [ "${tuned:-}" = tuned ]; then
      if [ -z "$jemalloc" ]; then echo "run.sh: libjemalloc2 is missing (tools/install_packages peers)" >&2; exit 1; fi
      environment+=("LD_PRELOAD=$jemalloc"
        "MALLOC_CONF=thp:always,metadata_thp:always,dirty_decay_ms:-1,muzzy_decay_ms:-1,narenas:1")
    fi
    env "${environment[@]}" "${command[@]}" --precision "$precision" "${options[@]}"
  done
done
