#!/bin/bash
# Makes a throw-away Python environment with PyTorch and DeepSpeed from PyPI, for comparisons only: nothing of Ridgeline
# needs it.
#
#   bench/peers/setup.sh [DIR]      DIR: default ${TMPDIR:-/tmp}/ridgeline-peers (about 7 GB); prints DIR at the end
#
# Environment: TORCH (default "torch": the newest release; "torch==2.15.0" pins one), DEEPSPEED (default "deepspeed"; "" for
# none), PYTHON (default python3).
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ "${1:-}" = --help ]; then sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; exit 0; fi
folder=${1:-${TMPDIR:-/tmp}/ridgeline-peers}
python=${PYTHON:-python3}
deepspeed=${DEEPSPEED-deepspeed}

tools/install_packages peers
if [ ! -x "$folder/bin/python" ]; then "$python" -m venv "$folder"; fi
pip=("$folder/bin/pip" install --quiet --disable-pip-version-check)
# PyPI has one wheel for Linux, the one for GPUs; on a machine without one it runs on the processor.
"${pip[@]}" "${TORCH:-torch}" numpy
if [ -n "$deepspeed" ]; then
  # Built against the PyTorch of this environment, without its GPU operators; ninja builds the few for the processor later.
  "${pip[@]}" setuptools wheel ninja py-cpuinfo
  DS_BUILD_OPS=0 DS_ACCELERATOR=cpu "${pip[@]}" --no-build-isolation "$deepspeed"
fi
"$folder/bin/python" -c 'import torch; print("PyTorch", torch.__version__, "with", torch.get_num_threads(), "threads")'
if [ -n "$deepspeed" ]; then DS_ACCELERATOR=cpu "$folder/bin/python" -c 'import deepspeed; print("DeepSpeed", deepspeed.__version__)' | tail -n 1; fi
echo "$folder"
