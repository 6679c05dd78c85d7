"""Faults of a run on its way."""
import os
import re
import signal
import time

from case import GIVE_UP, NAMED, OUT, SLACK, TIMEOUT, injects, report, report_errors, then, watch
from laboratory import MANY_STEPS, CaseFailed, Seen, lives, metrics, newest_checkpoint


def fault(laboratory, name, inflict, named=NAMED, out=OUT, nodes=4, culprit=r"^ridgeline: error: .*\brank 2\b",
          node="node3", reported=True):
    """Rank 2 of four is struck on its way. `inflict(job, ranks)`; bounds in seconds."""
    seen = Seen()
    keys = {"train.save_every": 25, "parallel.timeout": TIMEOUT}
    job, folder = laboratory.train(name, nodes, 4, {**keys, "train.steps": MANY_STEPS})
    laboratory.runs_past(job, folder, 30)
    ranks = job.ranks()
    if sorted(ranks) != [0, 1, 2, 3]:
        raise CaseFailed(f"the ranks found are {ranks}")
    begun = time.monotonic()
    inflict(job, ranks)
    seconds = watch(job, ranks.values(), begun, culprit, max(GIVE_UP, out + 3))
    seen.bound("named", seconds[0], named)
    seen.bound("all out", seconds[1], out)
    left = [f"rank {rank}" for rank, process in ranks.items() if lives(process)]
    if left:
        seen.add(f"left: {', '.join(left)}")
    state, code = job.settle()
    seen.figures["job"] = f"{state} {code}"
    if reported:
        report(seen, job, folder, 2, node)
    elif seconds[0] is not None:
        seen.figures["culprit"] = re.search(culprit, job.said(), re.MULTILINE).group(0)
    seen.must(state != "COMPLETED", "Slurm believes that it succeeded")
    laboratory.cluster("heal")
    (laboratory.folder / f"{name}.out").rename(laboratory.folder / f"{name}.fault.out")
    then(seen, laboratory.resumes_bitwise(name, folder, nodes, 4, keys))
    return seen


@injects("a rank is killed (SIGKILL)")
def killed_rank(laboratory):
    return fault(laboratory, "killed_rank", lambda job, ranks: os.kill(ranks[2], signal.SIGKILL))


@injects("a rank is killed, its neighbour on the node lives")
def killed_rank_of_two(laboratory):
    return fault(laboratory, "killed_rank_of_two", lambda job, ranks: os.kill(ranks[2], signal.SIGKILL), nodes=2,
                 node="node2")


@injects("a rank is stopped (SIGSTOP)")
def stopped_rank(laboratory):
    return fault(laboratory, "stopped_rank", lambda job, ranks: os.kill(ranks[2], signal.SIGSTOP), TIMEOUT + SLACK,
                 TIMEOUT + SLACK)


@injects("a node's link is cut")
def cut_link(laboratory):
    return fault(laboratory, "cut_link", lambda job, ranks: laboratory.cluster("cut", "node3"), TIMEOUT + SLACK,
                 TIMEOUT + SLACK)


UNSAVED = {"train.save_every": 0, "parallel.timeout": TIMEOUT}


def cancelled(laboratory, name, seen, job, folder, ranks, out):
    """The job, which trains with UNSAVED, is cancelled: it saves, and says no error."""
    begun = time.monotonic()
    laboratory.login("scancel", job.number)
    seen.bound("all out", watch(job, ranks.values(), begun, "stopped at step")[1], out)
    job.settle()
    seen.must(not job.errors(), f"said {len(job.errors())} errors")
    if newest_checkpoint(folder) == 0:
        raise CaseFailed(f"nothing was saved: {job.said()[-1500:]}")
    seen.add(f"saved at {newest_checkpoint(folder)}")
    then(seen, laboratory.resumes_bitwise(name, folder, 4, 4, UNSAVED))


@injects("a node's slurmd dies, and is started again")
def dead_slurmd(laboratory):
    """Ranks are not its children: they train on. Slurm has the job in hand again as soon as it is back."""
    seen = Seen()
    job, folder = laboratory.train("dead_slurmd", 4, 4, {**UNSAVED, "train.steps": MANY_STEPS})
    laboratory.runs_past(job, folder, 30)
    ranks = job.ranks()
    laboratory.cluster("kill-slurmd", "node3")
    taken = len(metrics(folder))
    time.sleep(2)  # of the 10 after which Slurm gives a slurmd up
    laboratory.runs_past(job, folder, taken + 10)
    laboratory.cluster("start-slurmd", "node3")
    seen.figures["culprit"] = "nobody: the run goes on"
    seen.add(f"trained on from {taken}, then cancelled")
    cancelled(laboratory, "dead_slurmd", seen, job, folder, ranks, 2 * OUT)
    return seen


@injects("a node's slurmd dies for good")
def dead_slurmd_for_good(laboratory):
    """Slurm gives the node up (SlurmdTimeout and its polls: about 17 s here) and ends the job; ranks end on that node, too."""
    return fault(laboratory, "dead_slurmd_for_good", lambda job, ranks: laboratory.cluster("kill-slurmd", "node3"), 20,
                 20 + OUT, culprit=r"[Nn]ode failure on node3", reported=False)


@injects("the job is cancelled (scancel)")
def scancel(laboratory):
    """A stop that was asked for: the run saves, no error."""
    seen = Seen()
    job, folder = laboratory.train("scancel", 4, 4, {**UNSAVED, "train.steps": MANY_STEPS})
    laboratory.runs_past(job, folder, 30)
    seen.figures["culprit"] = "nobody: stopped and saved"
    cancelled(laboratory, "scancel", seen, job, folder, job.ranks(), OUT)
    return seen


@injects("the disk of the run's folder is full")
def full_disk(laboratory):
    """Found by whatever is written next."""
    seen = Seen()
    keys = {"train.save_every": 100, "parallel.timeout": TIMEOUT}
    job, folder = laboratory.train("full_disk", 4, 4, {**keys, "train.steps": MANY_STEPS})
    laboratory.runs_past(job, folder, 110)
    ranks = job.ranks()
    laboratory.cluster("fill", "shared")
    begun = time.monotonic()
    named, out = watch(job, ranks.values(), begun, "No space left")
    seen.bound("named", named, GIVE_UP)
    # From the word on: what is written next comes when it comes.
    seen.bound("all out", max(0.0, out - named) if out and named else None, OUT)
    seen.must(job.settle()[1] != 0, "exit 0")
    report_errors(seen, job)
    laboratory.cluster("free", "shared")
    then(seen, laboratory.resumes_bitwise("full_disk", folder, 4, 4, keys))
    return seen
