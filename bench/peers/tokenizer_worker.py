"""Encodes texts with gigatoken when told to: the peer of `ridgeline bench tokenize`.

  gigatoken_worker.py TOKENIZER THREADS      TOKENIZER: a tokenizer.json; RAYON_NUM_THREADS is THREADS, too

Each line {"text": FILE, "ids": FILE or ""} on standard input is one pass over the text; the answer is
{"seconds", "cpu_seconds", "tokens"}, and the ids go to the second file as little-endian 32-bit numbers.
"""
import json
import sys
import tempfile
import time
from importlib.metadata import version

import gigatoken
import numpy as np

tokenizer = gigatoken.Tokenizer(sys.argv[1])
threads = int(sys.argv[2])


def encode(path, text):
    """Its fastest way: a string on one thread, a file on several. One array of ids per document."""
    return tokenizer.encode_files([path], parallel=True) if threads > 1 else [tokenizer.encode(text)]


# What it imports and starts at its first call is no part of a pass.
with tempfile.NamedTemporaryFile(suffix=".txt") as little:
    little.write(b"hello")
    little.flush()
    encode(little.name, b"hello")
print(json.dumps({"name": f"gigatoken {version('gigatoken')}"}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    with open(request["text"], "rb") as file:
        text = file.read()
    cpu = time.process_time()
    begin = time.perf_counter()
    ids = encode(request["text"], text)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
    flat = np.concatenate([np.asarray(document) for document in ids])
    if request["ids"]:
        flat.astype("<i4").tofile(request["ids"])
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "tokens": len(flat)}), flush=True)
