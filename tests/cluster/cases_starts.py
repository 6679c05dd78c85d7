"""Faults at the start: a run that must be refused, or given up."""
import re
import shutil
import time

from case import GIVE_UP, OUT, SLACK, START, TIMEOUT, injects, report_errors
from laboratory import LOOK, Seen, large_dataset, metrics


def refused(laboratory, name, names, keys=None, out=OUT, options=(), **more):
    """A start that must be refused: once, with the words of `names`, everybody out, nothing trained."""
    seen = Seen()
    job, folder = laboratory.train(name, 4, 4, {"parallel.timeout": TIMEOUT, "train.steps": 30, "train.save_every": 0,
                                                **(keys or {})}, *options, **more)
    while not job.over() and time.monotonic() < job.submitted + GIVE_UP + out:
        time.sleep(LOOK)
    ended = time.monotonic() - job.submitted if job.over() else None
    state, _ = job.settle(0)
    seen.bound("all out", ended, out + 1)  # submitted, and started, in that second
    report_errors(seen, job)
    seen.must(state != "COMPLETED", "the run finishes, exit 0")
    seen.must(len(metrics(folder)) == 0, f"{len(metrics(folder))} steps were taken")
    for word in names:
        seen.must(re.search(word, job.said()), f"no word of '{word}'")
    seen.figures["then"] = "nothing was trained"
    return seen


def differs(laboratory, name, option, names):
    """node3 has one more option."""
    become = ["bash", "-c", f'if [ "$(hostname)" = node3 ]; then set -- "$@" {option}; fi; exec "$@"', "rank"]
    return refused(laboratory, name, names, before=become)


@injects("another learning rate on one node")
def other_learning_rate(laboratory):
    return differs(laboratory, "other_learning_rate", "--set optimizer.learning_rate=0.002",
                   [r"optimizer\.learning_rate", r"rank 2\b", "node3"])


@injects("another seed on one node")
def other_seed(laboratory):
    return differs(laboratory, "other_seed", "--set train.seed=7", [r"train\.seed", r"rank 2\b", "node3"])


@injects("another sharding level on one node")
def other_sharding(laboratory):
    return differs(laboratory, "other_sharding", "--set parallel.shard=parameters",
                   [r"parallel\.shard", r"rank 2\b", "node3"])


@injects("a flipped byte in one node's copy of the data")
def flipped_byte(laboratory):
    """Every node reads its own copy of the data; one is damaged."""
    data = laboratory.common.folder / "data"
    for node in laboratory.nodes:
        laboratory.login("--on", node, "cp", "-r", data, laboratory.local)
    damaged = laboratory.local / "data" / "text.bin"
    whole = (data / "text.bin").read_bytes()
    place = len(whole) // 4 * 2  # the low byte of a token
    laboratory.login("--on", "node3", "bash", "-c",
                     f"printf '\\x{whole[place] ^ 1:02x}' | dd of={damaged} bs=1 seek={place} conv=notrunc status=none")
    return refused(laboratory, "flipped_byte", [r"data\.train", r"rank 2\b", "node3"],
                   {"data.train": laboratory.local / "data" / "text"})


def missing(laboratory, name, node, over_tcp, over_mpi):
    """The program is on the nodes' own disks, but not on that of `node`. Slurm says so, and whoever gives the start up."""
    copy = laboratory.local / laboratory.program.name
    for other in laboratory.nodes:
        if other != node:
            laboratory.login("--on", other, "cp", laboratory.program, copy)
    task = int(node.removeprefix("node")) - 1
    # Who has told, or may be told, stays for a second.
    words, out = (over_mpi, START) if laboratory.mpi != "tcp" else (over_tcp, TIMEOUT)
    return refused(laboratory, name, [f"{node}.*No such file|{node}.*task {task}", words], out=out + 1 + SLACK, program=copy)


@injects("the program is missing on one node")
def missing_program(laboratory):
    """Over TCP the ranks that wait know who is missing; MPI does not tell."""
    return missing(laboratory, "missing_program", "node3", "rank 2 of 4 did not come", "rank 0.*not every rank is there")


@injects("the program is missing on the first node")
def missing_rank_zero(laboratory):
    """Nobody is there whom the others would meet, or leave the word to: the next rank has it, or whose time is up first."""
    return missing(laboratory, "missing_rank_zero", "node1", "rank 0 is missing", r"rank \d.*not every rank is there")


@injects("one node's own disk, for offloaded state, is full")
def full_local_disk(laboratory):
    """Offloaded state goes to each node's own disk; one is full. With room it trains the same bits."""
    keys = {"optimizer.offload": "file", "optimizer.offload_directory": laboratory.local / "offload"}
    laboratory.cluster("fill", "node3")
    seen = refused(laboratory, "full_local_disk", [r"rank 2\b", "node3", "No space left|are free there"], keys)
    laboratory.cluster("free", "node3")
    job, folder = laboratory.train("full_local_disk", 4, 4, {**keys, "train.steps": 30, "train.save_every": 0})
    job.completes()
    laboratory.same(metrics(folder), laboratory.reference(4, {}, 30))
    seen.add("with room: bitwise")
    return seen


@injects("a flipped byte that only `--verify-data` reads")
def damaged_data(laboratory):
    """node3 reads a copy of the data; a byte of it that fingerprints do not see has changed. --verify-data sees it."""
    large_dataset(laboratory.folder / "large")
    for suffix in (".bin", ".idx"):
        shutil.copy(laboratory.folder / f"large{suffix}", laboratory.folder / f"copy{suffix}")
    with open(laboratory.folder / "copy.bin", "r+b") as file:
        file.seek(72_330_000)  # between two of the 256 samples of 256 KiB
        file.write(b"\1")
    option = f"--set data.train={laboratory.folder / 'copy'}"
    become = ["bash", "-c", f'if [ "$(hostname)" = node3 ]; then set -- "$@" {option}; fi; exec "$@"', "rank"]
    keys = {"data.train": laboratory.folder / "large", "data.tokenizer": "", "data.split": "100,0,0"}
    job, folder = laboratory.train("seen_in_samples", 4, 4, {**keys, "train.steps": 5, "train.save_every": 0}, before=become)
    job.completes()  # nobody has read that byte
    seen = refused(laboratory, "damaged_data", [r"data\.train \(all of it\)", r"bytes 67,108,864 to 80,131,999",
                                               r"rank 2 \(host node3\)"], keys, options=["--verify-data"], before=become)
    return seen
