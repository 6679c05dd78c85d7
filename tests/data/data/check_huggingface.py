#!/usr/bin/env python3
"""Does a tokenizer folder that Ridgeline wrote work in Hugging Face transformers, with the same ids? Exits 1 if not.

    python3 -m venv env && env/bin/pip install transformers
    build/release/ridgeline tokenizer train --vocab 4096 --out /tmp/tokenizer TEXT.txt
    env/bin/python tests/data/data/check_huggingface.py build/release/ridgeline /tmp/tokenizer

Tried with transformers 4.44.2 and 5.24.0.
"""
import json
import os
import pathlib
import subprocess
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
from transformers import AutoTokenizer  # noqa: E402


def main():
    program, folder = sys.argv[1:3]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    cases = json.loads((pathlib.Path(__file__).parent / "tokenizer_cases.json").read_text())
    wrong = 0
    for case in cases:
        command = [program, "tokenizer", "encode", "--specials", "--tokenizer", folder]
        ids = [int(i) for i in subprocess.run(command, input=case["text"].encode(), stdout=subprocess.PIPE, check=True).stdout.split()]
        if tokenizer(case["text"], add_special_tokens=False).input_ids != ids or tokenizer.decode(ids) != case["text"]:
            wrong += 1
            print("differs:", repr(case["text"][:80]))
    print(f"{type(tokenizer).__name__}, {len(tokenizer)} tokens, end {tokenizer.eos_token_id}: "
          f"{len(cases) - wrong} of {len(cases)} texts agree")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
