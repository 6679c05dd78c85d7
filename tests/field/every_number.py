#!/usr/bin/env python3
"""Every numeric option of every command with every extreme value: success, or an error that names the option.

    every_number.py RIDGELINE FOLDER KEY=VALUE...

FOLDER is what `prepare` of support.sh makes, with a finished run in FOLDER/run. Options are found in --help, so that a new
one is tried without being listed here.
"""
import os
import re
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

VALUES = ["0", "-1", "1", "100000", "2147483647", "2147483648", "4294967296", "1000000000000000000", "9223372036854775807",
          "9223372036854775808", "18446744073709551616", "0.5", "1e300", "nan", "inf", ""]
SECONDS = 5  # of processor time; the clock on the wall of a loaded machine says little
SECONDS_OF_BENCH = 1  # where a benchmark has begun to measure, its numbers were accepted
BYTES = 4 << 30
# What --help calls numbers, and a size with its unit.
KINDS = "INT|UINT|FLOAT|NUMBER|SIZE|N"
LEAST_OPTIONS = 25
NOTHING = "none is called so"  # is looked for, and refused, when all numbers have been accepted

scripts = Path(__file__).resolve().parent.parent / "unit/migrate/scripts"
program, here, sets = Path(sys.argv[1]).resolve(), Path(sys.argv[2]), sys.argv[3:]


def commands():
    """Each command with the rest of a line that works, and is quick where all numbers are what they are by default."""
    settings = [word for one in sets for word in ("--set", one)] + ["--set", "train.steps=2"]
    model = ["--checkpoint", here / "run", "--tokenizer", here / "tokenizer"]
    yield ["tokenizer", "train"], ["--vocab", "300", "--out", "OUT", here / "text.txt"]
    yield ["tokenizer", "encode"], ["--tokenizer", here / "tokenizer", "w1"]
    yield ["tokenizer", "decode"], ["--tokenizer", here / "tokenizer", "1"]
    yield ["prepare"], ["--tokenizer", here / "tokenizer", "--out", "OUT", here / "text.txt"]
    yield ["plan"], settings
    yield ["train"], [*settings, "--out", "OUT", "--quiet"]
    yield ["eval"], [*model, "--data", here / "data"]
    yield ["generate"], [*model, "--prompt", "w1", "--tokens", "2"]
    yield ["export"], [*model, "--out", "OUT"]
    yield ["inspect"], [here / "run"]
    yield ["migrate"], [scripts / "gpt2_xl_ddp.sh"]
    yield ["bench", "ops"], ["--filter", NOTHING]
    yield ["bench", "comm"], ["--ranks", "1", "--bytes", "64", "--rounds", "1"]
    yield ["bench", "train"], ["--rows", NOTHING]


def limits(seconds):
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))


def run(words):
    seconds = SECONDS_OF_BENCH if words[0] == "bench" else SECONDS
    return subprocess.run([str(program), *map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=60, preexec_fn=lambda: limits(seconds), check=False)


def options_of(command):
    text = run([*command, "--help"]).stdout.decode()
    return sorted(set(re.findall(rf"^\s+(--[a-z-]+) (?:{KINDS})\b", text, re.M)))


def without(rest, option):
    rest = list(rest)
    while option in rest:
        at = rest.index(option)
        del rest[at:at + 2]
    return rest


def problem(number, command, rest, option, value):
    out = here / f"out.{number}"
    words = [*command, *[out if word == "OUT" else word for word in without(rest, option)], f"{option}={value}"]
    try:
        done = run(words)
    except subprocess.TimeoutExpired:
        return f"{words}: hangs"
    text = done.stdout.decode(errors="replace")
    if done.returncode == 0 or NOTHING in text or (command[0] == "bench" and done.returncode in (-9, -24)):
        return None
    if done.returncode in (1, 2) and text.count("ridgeline: error: ") == 1 and option in text:
        return None
    return f"{' '.join(map(str, words))}: exit {done.returncode}: {text[-600:]}"


def main():
    os.chdir(here)
    tries = [(command, rest, option, value) for command, rest in commands() for option in options_of(command) for value in VALUES]
    options = {(*command, option) for command, _, option, _ in tries}
    with ThreadPoolExecutor(2) as pool:
        problems = [found for found in pool.map(lambda one: problem(one[0], *one[1]), enumerate(tries)) if found]
    for found in problems:
        print(found)
    if len(options) < LEAST_OPTIONS:
        problems.append("options")
        print(f"only {len(options)} numeric options were found in --help: {sorted(options)}")
    print(f"{len(options)} numeric options x {len(VALUES)} values: {len(tries) - len(problems)} ran or were refused by name, {len(problems)} did not")
    sys.exit(bool(problems))


main()
