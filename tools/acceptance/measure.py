"""What the milestones share: running things, and one row per line that is to be met."""
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CORPUS = ROOT / "out/acceptance_corpus"
ROWS = []
OPTIONS = None  # set by tools/accept


def run(command, timeout=3600, environment=None, check=True):
    # Open MPI refuses root and more ranks than cores unless told; MPICH ignores these.
    mpi = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1"}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout,
                            env={**os.environ, **mpi, **(environment or {})})
    if check and result.returncode != 0:
        raise RuntimeError(f"exit {result.returncode}: {(result.stderr or result.stdout).strip()[-400:]}")
    return result


def row(name, bar, function, command, enabled=True):
    """function() -> (measured text, met: bool)"""
    if OPTIONS.only and not any(word in name for word in OPTIONS.only):
        return
    if not enabled:
        ROWS.append((name, bar, "not run", None, command))
    else:
        try:
            measured, met = function()  # met None: this machine cannot try it, and why
        except Exception as error:  # a row that cannot be measured misses its bar
            measured, met = f"failed: {error}", False
        ROWS.append((name, bar, measured, met, command))
    name, bar, measured, met, command = ROWS[-1]
    verdict = {True: "met", False: "MISSED", None: "not run"}[met]
    print(f"{verdict:8} {name}\n         bar       {bar}\n         measured  {measured}\n         command   {command}", flush=True)


def program(name="ridgeline"):
    return str(OPTIONS.build / name)


def parity(folder, ranks, mpi=False, sets=()):
    command = [program("parity_check"), str(folder), "--against-one-rank", *sum((["--set", s] for s in sets), [])]
    command = (["mpirun", "-n", str(ranks)] + command) if mpi else command + ["--ranks", str(ranks)]
    result = run(command, check=False)
    # Norms of later steps are of another trajectory: rounding has moved the weights, and near a kink a norm turns fast.
    worst = {"against one rank": 0.0, "norms": 0.0, "": 0.0}
    for line in result.stdout.splitlines():
        found = re.search(r"error +([0-9.e+-]+|nan)", line)
        if found:
            key = "against one rank" if "against one rank" in line else "norms" if re.match(r"step [1-9]\d* gradient norm", line) else ""
            value = float(found.group(1))
            worst[key] = max(worst[key], value if value == value else float("inf"))
    if result.returncode not in (0, 1) or "rows" not in result.stdout:
        raise RuntimeError((result.stderr or result.stdout).strip()[-300:])
    return worst, result.returncode == 0


def gtest(binary, pattern, count_text):
    result = run([program(binary), f"--gtest_filter={pattern}"], check=False)
    passed = re.search(r"\[  PASSED  \] (\d+) test", result.stdout)
    ran = re.search(r"(\d+) tests? from", result.stdout)
    ok = result.returncode == 0 and passed and int(passed.group(1)) > 0
    return f"{passed.group(1) if passed else 0} of {ran.group(1) if ran else '?'} {count_text} pass", bool(ok)


def need_corpus():
    """The quickstart's full-size tokenizer and tokens in a folder of their own: quickstart.sh may have taken another size."""
    if (CORPUS / "corpus.idx").exists():
        return
    CORPUS.mkdir(parents=True, exist_ok=True)
    run(["tools/perl_doc_corpus", f"{CORPUS}/corpus.txt"])
    run([program(), "tokenizer", "train", "--vocab", "4096", "--out", f"{CORPUS}/tokenizer", f"{CORPUS}/corpus.txt"])
    run([program(), "prepare", "--tokenizer", f"{CORPUS}/tokenizer", "--out", f"{CORPUS}/corpus", f"{CORPUS}/corpus.txt"])


def bench(arguments, prefix=()):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        run([*prefix, program(), "bench", *arguments, "--json", str(file)], timeout=7200)
        return [json.loads(line) for line in open(file)]


def ctest(pattern):
    result = run(["ctest", "--test-dir", str(OPTIONS.build), "--no-tests=error", "-R", f"^({pattern})$"], check=False)
    summary = next((line for line in result.stdout.splitlines() if "tests passed" in line), (result.stderr or result.stdout).strip()[-200:])
    return summary, result.returncode == 0


def failure_case(kind):
    """tests/failures/run_failures.sh: everyone gone within 5 s of the signal (SIGSTOP: after the run's timeout of 2 s)."""
    limit = "7" if kind == "mpi_stop" else "5"
    mpiexec = shutil.which("mpiexec") or "none"
    result = run(["tests/failures/run_failures.sh", program(), mpiexec, kind], check=False, environment={"FAILURE_SECONDS": limit})
    if result.returncode == 77:
        return result.stdout.strip().splitlines()[-1], None
    failures = [line for line in result.stdout.splitlines() if line.startswith("FAILED")]
    timing = [line for line in result.stdout.splitlines() if line.startswith("SIG")]
    limits = [line for line in result.stdout.splitlines() if line.startswith(("under ", "the optimizer's state"))]
    tried = sum(1 for line in result.stdout.splitlines() if line.startswith("ridgeline "))
    return ("; ".join(failures) or "".join(timing) or "; ".join(limits)
            or f"{tried} commands said what and where, once, with the right exit code"), result.returncode == 0
