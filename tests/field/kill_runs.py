"""Kills a run again and again, at moments and on what happens in its folder, resumes it to its end, and compares it with
the run that nobody killed.   kill_runs.py RIDGELINE FOLDER ARGUMENTS OF THE RUN…"""
import itertools
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time

program, folder, arguments = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3:]
KILLS = 14
problems = []


def command(out, resume):
    given = list(arguments)
    given[given.index("--out") + 1] = str(out)
    return [program, *given, *(["--resume"] if resume else [])]


def names(path):
    try:
        return set(os.listdir(path))
    except FileNotFoundError:
        return set()


def leftovers(run):
    return [str(path.relative_to(run)) for path in run.rglob("*")
            if path.name.endswith((".tmp", ".trash")) or path.name == "failure.txt"]


def result(run):
    newest = sorted(name for name in names(run / "checkpoints") if name.startswith("step_"))[-1]
    state = (run / "checkpoints" / newest / "state.safetensors").read_bytes()
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    return sorted(names(run / "checkpoints")), steps, state


# What to wait for before the kill: a new name in the folder of checkpoints that ends so, or a time.
def wait_for(process, run, moment, before, deadline=20):
    end = time.monotonic() + deadline
    while process.poll() is None and time.monotonic() < end:
        if isinstance(moment, float):
            time.sleep(moment)
            return
        if any(name.endswith(moment) if moment else name.startswith("step_") and "." not in name
               for name in names(run / "checkpoints") - before):
            return


whole, killed = folder / "whole", folder / "killed"
subprocess.run(command(whole, False), check=True, stdout=subprocess.DEVNULL)
random.seed(3)
# Inside a save, right after its commit, while one is deleted, and at any time.
moments = itertools.cycle([".tmp", "", ".trash", None])
kills = inside = 0
while kills < KILLS:
    has_checkpoint = any(name.startswith("step_") and "." not in name for name in names(killed / "checkpoints"))
    before = names(killed / "checkpoints")
    process = subprocess.Popen(command(killed, has_checkpoint), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    moment = next(moments)
    wait_for(process, killed, random.uniform(0.02, 0.15) if moment is None else moment, before)
    if process.poll() is None:
        process.kill()
        process.wait()
        kills += 1
        inside += any(name.endswith(".tmp") for name in names(killed / "checkpoints"))
    if process.wait() not in (0, -9):
        problems.append(f"exit {process.returncode}: {process.stderr.read().decode()}")
        break
    if process.returncode == 0:  # through before it could be killed
        subprocess.run(command(killed, True), check=True, stdout=subprocess.DEVNULL)
        if result(killed) != result(whole):
            break
        shutil.rmtree(killed)
for _ in range(2):  # to the end; then there is nothing to do
    subprocess.run(command(killed, any(name.startswith("step_") and "." not in name for name in names(killed / "checkpoints"))),
                   check=True, stdout=subprocess.DEVNULL)
for what, expected, found in zip(("checkpoints", "records", "final state"), result(whole), result(killed)):
    if expected != found:
        problems.append(f"{what} differ" + ("" if isinstance(expected, bytes) else f": {found} instead of {expected}"))
if result(killed)[1] != list(range(1, len(result(killed)[1]) + 1)):
    problems.append("records are missing")
if leftovers(killed):
    problems.append(f"left: {leftovers(killed)}")
if problems:
    print("\n".join(problems))
    sys.exit(1)
print(f"{kills} kills, {inside} of them inside a save: every record once, the checkpoints and the bits of the run that was not killed, nothing left over")
