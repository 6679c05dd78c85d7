#!/bin/bash
# Makes a throw-away Python environment with PyTorch from PyPI, for comparisons only: nothing of Ridgeline needs it.
#
#   bench/peers/setup.sh [DIR]      DIR: default ${TMPDIR:-/tmp}/ridgeline-peers (about 7 GB); prints DIR at the end
#
# Environment: TORCH (default "torch": the newest release; "torch==2.15.0" pins one), PYTHON (default python3).
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ "${1:-}" = --help ]; then sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0; fi
folder=${1:-${TMPDIR:-/tmp}/ridgeline-peers}
python=${PYTHON:-python3}

tools/install_packages peers
if [ ! -x "$folder/bin/python" ]; then "$python" -m venv "$folder"; fi
# PyPI has one wheel for Linux, the one for GPUs; on a machine without one it runs on the processor.
"$folder/bin/pip" install --quiet --disable-pip-version-check "${TORCH:-torch}" numpy
"$folder/bin/python" -c 'import torch; print("PyTorch", torch.__version__, "with", torch.get_num_threads(), "threads")'
echo "$folder"
