"""Encodes texts when told to: a peer of `ridgeline bench tokenize`.

  tokenizer_worker.py PEER TOKENIZER THREADS      PEER: gigatoken, tiktoken or tokenizers (Hugging Face's)
                                                  TOKENIZER: a tokenizer.json; RAYON_NUM_THREADS is THREADS, too

It says {"name"}, or {"missing"} where the environment has no such module. Then each line {"text": FILE, "ids": FILE or ""}
on standard input is one pass over the text; the answer is {"seconds", "cpu_seconds", "tokens"}, and the ids go to the
second file as little-endian 32-bit numbers.
"""
import importlib
import json
import re
import sys
import tempfile
import time
from importlib.metadata import version

import numpy as np

PART = 1 << 16  # characters of a text that is handed over in parts


def parts_of(text):
    """Cut where no piece of GPT-2's or Llama-3's pattern is cut: behind a line's end between two other characters."""
    begin, parts = 0, []
    for cut in re.finditer(r"(?<=[^\s/]\n)(?=\S)", text):
        if cut.end() - begin >= PART:
            parts.append(text[begin:cut.end()])
            begin = cut.end()
    return parts + [text[begin:]]


class Gigatoken:
    """A string on one thread, a file on several."""

    def __init__(self, module, tokenizer, threads):
        self.tokenizer, self.threads = module.Tokenizer(tokenizer), threads

    def prepare(self, path, text):
        return path, text

    def encode(self, prepared):
        path, text = prepared
        return self.tokenizer.encode_files([path], parallel=True) if self.threads > 1 else [self.tokenizer.encode(text)]


class Tiktoken:
    def __init__(self, module, tokenizer, threads):
        with open(tokenizer, encoding="utf-8") as file:
            described = json.load(file)
        special = {token["content"]: token["id"] for token in described["added_tokens"]}
        # Byte-level tokens are spelled with a visible character per byte.
        visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        hidden = [byte for byte in range(256) if byte not in visible]
        byte_of = {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(hidden)}
        ranks = {bytes(byte_of[c] for c in token): rank for token, rank in described["model"]["vocab"].items()
                 if token not in special}
        self.encoding = module.Encoding(name="bench", pat_str=pattern_of(described["pre_tokenizer"]), mergeable_ranks=ranks,
                                        special_tokens=special)
        self.threads = threads

    def prepare(self, path, text):
        text = text.decode("utf-8")
        return parts_of(text) if self.threads > 1 else text

    def encode(self, prepared):
        if self.threads > 1:
            return self.encoding.encode_ordinary_batch(prepared, num_threads=self.threads)
        return [self.encoding.encode_ordinary(prepared)]


def pattern_of(pre_tokenizer):
    """A Split's expression; what ByteLevel alone cuts by is GPT-2's."""
    for step in pre_tokenizer.get("pretokenizers", []):
        if step["type"] == "Split":
            return step["pattern"]["Regex"]
    return r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


class HuggingFace:
    """Without offsets, in parts: its fastest way on one thread, too."""

    def __init__(self, module, tokenizer, threads):
        self.tokenizer = module.Tokenizer.from_file(tokenizer)
        self.tokenizer.encode_special_tokens = True  # names in the text are text

    def prepare(self, path, text):
        return parts_of(text.decode("utf-8"))

    def encode(self, prepared):
        return [part.ids for part in self.tokenizer.encode_batch_fast(prepared, add_special_tokens=False)]


PEERS = {"gigatoken": Gigatoken, "tiktoken": Tiktoken, "tokenizers": HuggingFace}


def main():
    name, tokenizer, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    try:
        module = importlib.import_module(name)
    except ImportError:
        print(json.dumps({"missing": name}), flush=True)
        return
    peer = PEERS[name](module, tokenizer, threads)
    # What it imports and starts at its first call is no part of a pass.
    with tempfile.NamedTemporaryFile(suffix=".txt") as little:
        little.write(b"hello")
        little.flush()
        peer.encode(peer.prepare(little.name, b"hello"))
    print(json.dumps({"name": f"{name} {version(name)}"}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        with open(request["text"], "rb") as file:
            prepared = peer.prepare(request["text"], file.read())
        cpu = time.process_time()
        begin = time.perf_counter()
        ids = peer.encode(prepared)
        seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
        flat = np.concatenate([np.asarray(part) for part in ids])
        if request["ids"]:
            flat.astype("<i4").tofile(request["ids"])
        print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "tokens": len(flat)}), flush=True)


main()
