#!/usr/bin/env python3
"""docs/tutorial.md as its reader runs it: every command, in order, in a folder to throw away, against a hub on this machine
that has a small corpus in OSCAR's layout, and small models under the names of the large ones.

    tutorial_page.py RIDGELINE PAGE [FOLDER]        FOLDER: where it all lies afterwards; default: nowhere

A block of ```sh goes to a shell that ends at the first command that fails. What one sees, a block of ```text behind it, is
compared: its lines must be among those that were printed, in this order; … stands for anything.
"""
import array
import gzip
import hashlib
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

from hub_cases import write
from hub_server import Hub

SOURCES = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SECONDS = 500  # of a block: a machine may be busy


# ---- what the hub has

def documents(count, seed):
    """Text of words that a language might have, rare and frequent ones, in lines."""
    chance = random.Random(seed)
    syllables = [a + b + c for a in "bdfghjklmnprstvw" for b in ("a", "e", "i", "o", "oe", "aa", "y") for c in ("", "n", "s")]
    words = ["".join(chance.choices(syllables, k=chance.randint(1, 4))) for _ in range(5000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    lines = lambda: " ".join(chance.choices(words, weights, k=chance.randint(8, 30))).capitalize() + "."
    return ["\n".join(lines() for _ in range(chance.randint(1, 8))) + "\n" for _ in range(count)]


def make_oscar(folder):
    """OSCAR of 2019 as its repository has it: parts, and beside them a file of their sums. Other languages are there, too."""
    for kind, language, count in (("deduplicated", "af", 1100), ("deduplicated", "als", 2), ("original", "af", 2)):
        place = f"{folder}/unshuffled/{kind}/{language}"
        sums = ""
        for part in (1, 2):
            name = f"{language}_part_{part}.txt.gz"
            packed = gzip.compress("\n".join(documents(count // 2, part)).encode(), mtime=0)
            write(f"{place}/{name}", packed)
            sums += f"{name}\t{hashlib.sha256(packed).hexdigest()}\n"
        write(f"{place}/{language}_sha256.txt", sums)
    write(f"{folder}/README.md", "OSCAR")
    write(f"{folder}/oscar.py", "raise RuntimeError('a dataset script')")


def make_tokenizer(folder, added):
    """GPT-2's tokenizer in the three files in which transformers keeps it, with more tokens behind its own."""
    with open(f"{SOURCES}/tests/data/gpt2_tokenizer/vocab.json") as file:
        vocabulary = json.load(file)
    with open(f"{SOURCES}/tests/data/gpt2_tokenizer/merges.txt") as file:
        merges = file.read()
    end = "<|endoftext|>"
    tokens = [(vocabulary[end], end, True)] + [(len(vocabulary) + i, name, False) for i, name in enumerate(added)]
    write(f"{folder}/vocab.json", json.dumps(vocabulary, ensure_ascii=False))
    write(f"{folder}/merges.txt", merges)
    write(f"{folder}/tokenizer.json", json.dumps({
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": at, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": not special, "special": special} for at, text, special in tokens],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "vocab": vocabulary,
                  "merges": [line for line in merges.splitlines() if not line.startswith("#version")]}},
        ensure_ascii=False))
    write(f"{folder}/tokenizer_config.json", json.dumps({"bos_token": end, "eos_token": end, "unk_token": end}))


# A last norm of this size makes a random model so sure of itself that its loss is far above that of a new one.
LOUD = 40.0


def make_weights(folder, shapes):
    """model.safetensors: products small and random, norms as `shapes` says, biases 0."""
    chance = random.Random(1)
    header, data, at = {"__metadata__": {"format": "pt"}}, [], 0
    for name, (shape, value) in shapes.items():
        count = 1
        for size in shape:
            count *= size
        if value is None:
            values = array.array("h", chance.randbytes(2 * count))
            values = array.array("f", [x * 1e-6 for x in values])  # up to 0.033
        else:
            values = array.array("f", [value]) * count
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + 4 * count]}
        data.append(values.tobytes())
        at += 4 * count
    text = json.dumps(header).encode()
    write(f"{folder}/model.safetensors", struct.pack("<Q", len(text)) + text + b"".join(data))


def norm(name, width, weight=1.0):
    return {f"{name}.weight": ([width], weight), f"{name}.bias": ([width], 0.0)}


def product(name, shape, bias):
    """Stored as `shape`; `bias`: its size, None without one."""
    return {f"{name}.weight": (shape, None), **({f"{name}.bias": ([bias], 0.0)} if bias else {})}


def make_gpt2(folder, layers=2, width=16, heads=2, vocabulary=50257, context=1024):
    """Names and members as the hub's gpt2-xl has them."""
    write(f"{folder}/config.json", json.dumps({
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 50256,
        "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05,
        "model_type": "gpt2", "n_ctx": context, "n_embd": width, "n_head": heads, "n_layer": layers,
        "n_positions": context, "output_past": True, "resid_pdrop": 0.1, "summary_activation": None,
        "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index",
        "summary_use_proj": True, "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "vocab_size": vocabulary}))
    shapes = {"wte.weight": ([vocabulary, width], None), "wpe.weight": ([context, width], None)}
    for i in range(layers):
        shapes |= norm(f"h.{i}.ln_1", width) | norm(f"h.{i}.ln_2", width)
        shapes |= product(f"h.{i}.attn.c_attn", [width, 3 * width], 3 * width)
        shapes |= product(f"h.{i}.attn.c_proj", [width, width], width)
        shapes |= product(f"h.{i}.mlp.c_fc", [width, 4 * width], 4 * width)
        shapes |= product(f"h.{i}.mlp.c_proj", [4 * width, width], width)
    make_weights(folder, shapes | norm("ln_f", width, LOUD))
    make_tokenizer(folder, [])
    write(f"{folder}/generation_config.json", json.dumps({"bos_token_id": 50256, "eos_token_id": 50256}))


def make_gptj(folder, layers=2, width=32, heads=2, rotary=4, vocabulary=50400):
    write(f"{folder}/config.json", json.dumps({
        "activation_function": "gelu_new", "architectures": ["GPTJForCausalLM"], "attn_pdrop": 0.0, "bos_token_id": 50256,
        "embd_pdrop": 0.0, "eos_token_id": 50256, "gradient_checkpointing": False, "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05, "model_type": "gptj", "n_embd": width, "n_head": heads, "n_inner": None,
        "n_layer": layers, "n_positions": 2048, "resid_pdrop": 0.0, "rotary": True, "rotary_dim": rotary,
        "scale_attn_weights": True, "tie_word_embeddings": False, "tokenizer_class": "GPT2Tokenizer", "use_cache": True,
        "vocab_size": vocabulary}))
    shapes = {"transformer.wte.weight": ([vocabulary, width], None)}
    for i in range(layers):
        block = f"transformer.h.{i}"
        shapes |= norm(f"{block}.ln_1", width)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= product(f"{block}.attn.{name}", [width, width], None)
        shapes |= product(f"{block}.mlp.fc_in", [4 * width, width], 4 * width)
        shapes |= product(f"{block}.mlp.fc_out", [width, 4 * width], width)
    shapes |= norm("transformer.ln_f", width, LOUD) | product("lm_head", [vocabulary, width], vocabulary)
    make_weights(folder, shapes)
    make_tokenizer(folder, [f"<|extratoken_{i}|>" for i in range(1, 144)])


def copy_configs(folder):
    """The hub's models are small here: what starts from them has their sizes, not a preset's."""
    shutil.copytree(f"{SOURCES}/configs", folder)
    for name in ("gpt2_xl_ddp", "gptj_6b_zero2", "gptj_6b_fsdp"):
        with open(f"{folder}/{name}.toml") as file:
            lines = file.readlines()
        left = [line for line in lines if not line.startswith("preset = ")]
        assert len(left) == len(lines) - 1, name
        write(f"{folder}/{name}.toml", "".join(left))


# ---- the page

class Block:
    def __init__(self, kind, line):
        self.kind, self.line, self.lines = kind, line, []

    def text(self):
        return "\n".join(self.lines)


def blocks_of(page):
    """Its blocks of commands and of what they print."""
    blocks, inside = [], None
    for number, line in enumerate(page.splitlines(), 1):
        if not line.startswith("```"):
            if inside:
                inside.lines.append(line)
        elif inside:
            inside = None
        else:
            inside = Block(line[3:], number + 1)
            blocks.append(inside)
    for block in blocks:
        assert block.kind in ("sh", "text"), f"line {block.line}: a block of '{block.kind}' is neither run nor compared"
    return blocks


def unseen(block, said):
    """The first line of the block that was not printed behind those before it; None where all were."""
    lines = iter(said.splitlines())
    for wanted in block.lines:
        pattern = re.compile(".*".join(re.escape(part) for part in wanted.strip().split("…")))
        if not any(pattern.fullmatch(line.strip()) for line in lines):
            return wanted
    return None


def run_shell(script, folder, environment):
    """Exit code, and both streams as they came. Nothing that it started is left when its time is over."""
    shell = subprocess.Popen(["bash", "-eEuo", "pipefail", "-c", script], cwd=folder, env=environment, start_new_session=True,
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said, _ = shell.communicate(timeout=SECONDS)
        return shell.returncode, said
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGKILL)
        return f"none within {SECONDS} s", shell.communicate()[0]


def problem_of(page, folder, environment):
    """Runs the page's commands; says what went wrong, None if nothing did."""
    said = None
    for block in blocks_of(page):
        if block.kind == "text":
            if said is None:
                return f"line {block.line}: printed by no command"
            wanted = unseen(block, said)
            if wanted is not None:
                return f"line {block.line}: not printed (any more): {wanted}\n{said}"
            continue
        begun = time.monotonic()
        script = "trap 'echo \"fails: $BASH_COMMAND\"' ERR\n" + block.text()
        code, said = run_shell(script, folder, environment)
        print(f"line {block.line}: {time.monotonic() - begun:.1f} s: {block.text()}", flush=True)
        if code != 0:
            return f"line {block.line}: exit code {code}\n{said}"
    return None


def check_the_check(folder, environment):
    """Pages that must not pass."""
    for page in ("```sh\nridgeline fetch model gpt2-xxl\n```\n", "```sh\nfalse\ntrue\n```\n", "```sh\nfalse | true\n```\n",
                 "```sh\necho one two\n```\n```text\none … three\n```\n", "```text\none\n```\n"):
        assert problem_of(page, folder, environment), f"passes, and should not: {page}"
    problem = problem_of("```sh\necho one two\necho three\n```\n```text\none …\nthree\n```\n", folder, environment)
    assert problem is None, problem


def first_loss(run):
    with open(f"{run}/metrics.jsonl") as file:
        return json.loads(file.readline())["loss"]


def main():
    program, page = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    kept = sys.argv[3] if len(sys.argv) > 3 else None
    work = os.path.abspath(kept) if kept else tempfile.mkdtemp(prefix="tutorial-")
    try:
        served, folder = f"{work}/served", f"{work}/sources"
        os.makedirs(folder)
        copy_configs(f"{folder}/configs")
        make_oscar(f"{served}/datasets/oscar")
        make_gpt2(f"{served}/models/gpt2-xl")
        make_gptj(f"{served}/models/EleutherAI/gpt-j-6b")
        hub = Hub(served)
        environment = {**os.environ, "PATH": f"{os.path.dirname(program)}:{os.environ['PATH']}", "HOME": work,
                       "HF_HOME": f"{work}/home", "HF_ENDPOINT": hub.endpoint, "no_proxy": "*"}
        environment.pop("HF_HUB_OFFLINE", None)
        check_the_check(folder, environment)
        with open(page) as file:
            text = file.read()
        problem = problem_of(text, folder, environment)
        if problem:
            sys.exit(f"{page}: {problem}")
        # The published weights were trained on, and not new ones, whose first loss is ln 50257 = 10.8.
        for run in ("gpt2_xl", "gptj_6b"):
            loss = first_loss(f"{folder}/runs/{run}")
            print(f"{run}: first loss {loss:.2f}")
            assert loss > 12, f"{run} did not begin with the weights that were fetched"
        assert os.path.exists(f"{folder}/oscar/unshuffled/deduplicated/af/af_part_2.txt.gz")
        assert not os.path.exists(f"{folder}/oscar/unshuffled/original")
    finally:
        if not kept:
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
