#!/bin/bash
# Makes a throw-away Python environment with gigatoken, tiktoken and Hugging Face's tokenizers from PyPI, for
# `ridgeline bench tokenize --peers DIR` only.
#
#   bench/peers/setup_tokenizers.sh [DIR]      DIR: default ${TMPDIR:-/tmp}/ridgeline-peers, where PyTorch may be, too
#                                              (about 150 MB); prints DIR at the end
#
# Environment: GIGATOKEN, TIKTOKEN, TOKENIZERS (default "gigatoken" and so on: the newest release; "gigatoken==0.10.0" pins
# one), PYTHON (default python3).
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ "${1:-}" = --help ]; then sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; exit 0; fi
folder=${1:-${TMPDIR:-/tmp}/ridgeline-peers}

tools/install_packages peers
if [ ! -x "$folder/bin/python" ]; then "${PYTHON:-python3}" -m venv "$folder"; fi
"$folder/bin/pip" install --quiet --disable-pip-version-check "${GIGATOKEN:-gigatoken}" "${TIKTOKEN:-tiktoken}" \
  "${TOKENIZERS:-tokenizers}" numpy
"$folder/bin/python" -c 'from importlib.metadata import version
for name in ("gigatoken", "tiktoken", "tokenizers"): print(name, version(name))'
echo "$folder"
