"""A case: how it is registered, the bounds it is held to, and what cases of faults look at."""
import re
import time

from laboratory import ERROR, lives

TIMEOUT = 5.0  # seconds: parallel.timeout of the runs that fail
START = 10.0  # seconds: the least that a start over MPI may take
NAMED, OUT = 2.0, 5.0  # seconds after a death until the culprit is named, and until all ranks have ended
SLACK = 2.0  # seconds beyond the timeout for a stall, which is seen at intervals
GIVE_UP = 15.0  # seconds: what has not ended by then is ended

CASES = {}
# The injected faults among them, in words.
FAULTS = {}


def case(function):
    CASES[function.__name__] = function
    return function


def injects(fault):
    """A case that injects `fault`, and says in its figures what came of it: named, all out, culprit, then."""

    def register(function):
        FAULTS[function.__name__] = fault
        return case(function)

    return register


def watch(job, processes, begun, culprit, limit=GIVE_UP):
    """Seconds after `begun` until the output holds `culprit` (a pattern), and until all `processes` have ended."""
    named = out = None
    while time.monotonic() - begun < limit and (named is None or out is None):
        if named is None and re.search(culprit, job.said(), re.MULTILINE):
            named = time.monotonic() - begun
        if out is None and not any(map(lives, processes)):
            out = time.monotonic() - begun
            limit = min(limit, out + 1)  # what was said until the end arrives
        time.sleep(0.02)
    return named, out


def report_errors(seen, job):
    """What was said, and that it was said once."""
    errors = job.errors()
    seen.figures.update(errors_printed=len(errors), first_error=errors[0] if errors else None)
    if errors:
        # Without what to do about it, and without this laboratory's own folders.
        what = " ".join(re.search(rf"^{ERROR}(.*:\n.*|.*)", job.said(), re.MULTILINE).group(1).split())
        for folder in (job.laboratory.shared, job.laboratory.local, job.laboratory.folder, job.laboratory.common.folder):
            what = what.replace(f"{folder}", "…")
        seen.figures["culprit"] = what
    seen.add(f"said {len(errors)} x" + (f' "{errors[0][:120]}"' if errors else ""))
    seen.should(len(errors) == 1, f"said {len(errors)} times")


def report(seen, job, folder, rank, node):
    """Who was named, and how often."""
    report_errors(seen, job)
    seen.figures["aborts_printed"] = len(re.findall(r"^Abort\(", job.said(), re.MULTILINE))
    if seen.figures["aborts_printed"]:
        seen.add(f"{seen.figures['aborts_printed']} aborts of MPI")
    failure = folder / "failure.txt"
    words = failure.read_text() if failure.exists() else ""
    seen.should((folder / f"logs/rank-{rank:04}.log").exists(), "no log of the rank")
    seen.should(words, "no failure.txt")
    if words:
        named = [re.search(rf"^{key}: (.*)$", words, re.MULTILINE).group(1) for key in ("rank", "host")]
        seen.figures["culprit"] = f"rank {named[0]} on {named[1]}"
        seen.must(named == [str(rank), node], f"failure.txt names rank {named[0]} on {named[1]}")


def then(seen, words):
    """How it went on."""
    seen.figures["then"] = words
    seen.add(words)
