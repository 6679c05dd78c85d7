"""Slow links: found, and what a step takes on them. These measure, so the machine must be theirs."""
import json
import re
import shutil

from case import case
from laboratory import ROOT, CaseFailed, Seen, metrics, step_seconds

LINK_BOUND = 1.25  # a step on a slow link, beside its computation plus its traffic
# What docs/launch.md says of Ethernet: in UCX's rendezvous both ends must look, in turn, before a byte travels.
ETHERNET = {"mpich": ["env", "UCX_RNDV_THRESH=inf"]}
SHAPED = r"^node(\d) \(rank \d\) +node(\d) \(rank \d\) +[0-9.e+]+ +\d+$"


@case
def slow_link(laboratory):
    """One node's link is slow: the links that are slow are those to it, at the start of a run and by --check-links."""
    seen = Seen()
    keys = {"train.steps": 5, "train.save_every": 0}
    for rate, pairs, all_pairs in (("10mbit", {("1", "3"), ("3", "4")}, {("1", "3"), ("2", "3"), ("3", "4")}),
                                   ("off", set(), set())):
        laboratory.cluster("shape", "node3", rate)
        job, _ = laboratory.train(f"slow_link_{rate}", 4, 4, keys)
        job.completes()
        only = laboratory.submit(f"check_links_{rate}", 4, 4, ["train", "--check-links"])
        only.completes()
        for name, said, expected in (("start", job.said(), pairs), ("--check-links", only.said(), all_pairs)):
            found = set(re.findall(SHAPED, said, re.MULTILINE))
            seen.add(f"{rate}, {name}: {len(found)} slow")
            if found != expected:
                raise CaseFailed(f"{rate}, {name}: slow are {found}: {said[-1500:]}")
        figures = re.search(r"4 hosts, 6 links measured: (\S+) MB/s each way, (\d+) us", only.said())
        if not figures:
            raise CaseFailed(f"--check-links says {only.said()[-1500:]}")
        seen.figures[rate] = {"median_megabytes_per_second": float(figures.group(1)), "median_us": int(figures.group(2))}
    return seen


def sent_bytes(laboratory, node):
    shown = laboratory.login("--on", node, "ip", "-s", "-j", "link", "show", "eth0")
    return json.loads(shown)[0]["stats64"]["tx"]["bytes"]


def measured(laboratory, folder, run):
    """Seconds of a step of run(round), which leaves its metrics in `folder`: the best of --rounds medians."""
    def once(number):
        shutil.rmtree(folder, ignore_errors=True)
        run(number)
        return step_seconds(folder)
    return min(once(number) for number in range(laboratory.rounds))


@case
def slow_links(laboratory):
    """Two nodes of two ranks: a step beside that of threads plus the least time that gradients take on the link."""
    seen = Seen()
    config, steps = ROOT / "configs" / "gpt2_xl_ddp_twin.toml", 12
    keys = {"model.vocab": 300, "train.threads": 1, "train.steps": steps, "train.save_every": 0, "train.eval_every": 0,
            "parallel.sum_group": 2, "parallel.overlap": "true"}
    out = laboratory.shared / "threads"
    compute = measured(laboratory, out,
                       lambda _: laboratory.here(*laboratory.options(out, keys, config), "--ranks", 4))
    plan = laboratory.here("plan", *laboratory.options(out, keys, config)[4:], "--ranks", 4, "--json")
    # Of two nodes, each sends half of its sum and the other half of the result.
    gradients = json.loads(plan[:plan.rindex("}") + 1])["categories"]["gradients"]
    seen.figures.update(compute_seconds=compute, gradient_bytes=gradients)
    seen.add(f"compute {compute * 1e3:.0f} ms, gradients {gradients / 1e6:.2f} MB a step and link, each way")
    for rate, bits in (("100mbit", 100e6), ("1gbit", 1e9), ("off", None)):
        for node in ("node1", "node2"):
            laboratory.cluster("shape", node, rate)
        before = sent_bytes(laboratory, "node1")
        folder = laboratory.shared / f"links_{rate}"
        arguments = laboratory.options(folder, keys, config)
        taken = measured(laboratory, folder, lambda number: laboratory.submit(
            f"links_{rate}_{number}", 2, 4, arguments, before=ETHERNET.get(laboratory.mpi, ())).completes())
        laboratory.same(metrics(folder), metrics(out))
        sent = (sent_bytes(laboratory, "node1") - before) / steps / laboratory.rounds
        traffic = gradients * 8 / bits if bits else 0
        floor = compute + traffic
        seen.figures[rate] = {"step_seconds": taken, "sent_bytes_per_step": sent, "traffic_seconds": traffic,
                              "floor_seconds": floor, "ratio": taken / floor}
        seen.add(f"{rate}: {taken * 1e3:.0f} ms = {taken / floor:.2f} x ({compute * 1e3:.0f} + {traffic * 1e3:.0f} ms), "
                 f"{sent / 1e6:.2f} MB sent")
        seen.should(not bits or taken <= LINK_BOUND * floor, f"{rate}: {taken / floor:.2f} x, bound {LINK_BOUND:g} x")
    return seen
