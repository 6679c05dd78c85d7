"""Runs that nobody disturbs, and jobs that stop and go on by themselves."""
import re

from case import case
from laboratory import MANY_STEPS, ROOT, TINY, CaseFailed, Job, Seen, metrics, newest_checkpoint

# ---- The tutorial's runs ----


def twin(laboratory, name, nodes, ranks, keys):
    """Losses, norms and the last checkpoint of a job are those of one process."""
    seen = Seen()
    config = ROOT / "configs" / f"{name}_twin.toml"
    keys = {"model.vocab": 300, "train.threads": 1, "train.steps": 12, "train.save_every": 12, "train.eval_every": 12,
            "train.eval_samples": 8, **keys}
    threads, spread = laboratory.shared / "threads", laboratory.shared / "spread"
    laboratory.here(*laboratory.options(threads, keys, config), "--ranks", ranks)
    job = laboratory.submit(name, nodes, ranks, laboratory.options(spread, keys, config))
    job.completes()
    laboratory.same(metrics(spread), metrics(threads))
    states = [(folder / "checkpoints/step_00000012/state.safetensors").read_bytes() for folder in (threads, spread)]
    if states[0] != states[1]:
        raise CaseFailed("the last checkpoints differ")
    seen.add(f"{ranks} ranks on {nodes} nodes: 12 steps and checkpoint bitwise, loss {metrics(spread)[-1][1]:.4f}")
    return seen


@case
def twin_ddp(laboratory):
    return twin(laboratory, "gpt2_xl_ddp", 2, 2, {})


@case
def twin_zero2(laboratory):
    return twin(laboratory, "gptj_6b_zero2", 2, 4, {})


@case
def twin_fsdp(laboratory):
    return twin(laboratory, "gptj_6b_fsdp", 4, 4, {"train.global_batch": 16})


@case
def twin_3d(laboratory):
    return twin(laboratory, "gpt_22b_3d", 4, 8, {"model.layers": 4, "parallel.tensor": 2, "parallel.pipeline": 2})


# ---- Time limit ----

# The script passes the signal on, and queues itself again. Its second start ends ten steps after the first one stopped.
REQUEUES = """#SBATCH --time=1 --signal=B:USR1@35 --requeue
out=FOLDER
shopt -s nullglob
arguments=(--set train.steps=STEPS)
found=("$out"/checkpoints/step_*[0-9])
if [ ${#found[@]} != 0 ]; then
  newest=${found[-1]##*step_}
  arguments=(--set train.steps=$((10#$newest + 10)) --resume)
fi
stop() {
  stopped=1
  kill -USR1 $child
}
trap stop USR1
COMMAND "${arguments[@]}" &
child=$!
wait $child
status=$?
if [ -n "$stopped" ]; then
  wait $child
  echo "stopped with $? at start ${SLURM_RESTART_COUNT:-0}"
  scontrol requeue "$SLURM_JOB_ID"
  sleep 60
fi
exit $status
"""


@case
def time_limit(laboratory):
    """A job near its limit saves, queues itself again, and goes on."""
    seen = Seen()
    laboratory.cluster("shape", "node3", "50mbit")  # or a fast machine is through before the limit is near
    keys = {"train.save_every": 0}
    folder = laboratory.shared / "time_limit"
    job = laboratory.submit("time_limit", 4, 4, laboratory.options(folder, keys), sbatch=(),
                            script=REQUEUES.replace("FOLDER", str(folder)).replace("STEPS", str(MANY_STEPS)))
    job.completes(120)
    laboratory.cluster("shape", "node3", "off")
    rows = metrics(folder)
    if "at start 0" not in job.said():
        raise CaseFailed(f"it did not stop: {job.said()[-1500:]}")
    laboratory.same(rows, laboratory.reference(4, keys, len(rows)))
    code = re.search(r"stopped with (\d+)", job.said()).group(1)
    seen.figures["exit_code_of_a_stop"] = int(code)
    seen.add(f"stopped at {len(rows) - 10} (exit code {code}), requeued, went on to {len(rows)}, bitwise")
    return seen


SITE = """name = "laboratory"
about = "A cluster on one machine"
source = "tests/cluster"
[node]
cores = 2
ranks = 2
memory = 1
teraflops = 0.1
[links]
inside = 1
between = 0.1
[slurm]
mpi = "auto"
"""


def launch(laboratory, name, keys, *options):
    """A job of two nodes, submitted by the program; its folder. `options`: of train."""
    folder = laboratory.shared / name
    folder.mkdir()
    (folder / "site.toml").write_text(SITE)
    (folder / "tiny.toml").write_text("")
    keys = {**TINY, **laboratory.common.data, "train.save_every": 0, **keys}
    arguments = [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]
    meet = ["--rendezvous", "slurm"] if laboratory.mpi == "tcp" else []
    said = laboratory.login("env", "-C", folder, f"RIDGELINE={laboratory.program}", laboratory.program, "launch",
                            "--site", "site.toml", "--nodes", "2", "--time", "5m", "--submit", "tiny.toml", *arguments,
                            "--", "--quiet", *meet, *options)
    number = re.fullmatch(r"job (\d+)\n", said).group(1)
    return Job(laboratory, name, number, folder / "logs" / f"tiny-{number}.out"), folder


def require_said(job, *words):
    for each in words:
        if each not in job.said():
            raise CaseFailed(f"no '{each}' in {job.said()[-1500:]}")


@case
def launched(laboratory):
    """`ridgeline launch --submit`: a job that is told to stop saves, queues itself again, and finishes."""
    seen, steps = Seen(), 800
    job, folder = launch(laboratory, "launched", {"train.steps": steps})
    laboratory.runs_past(job, folder / "runs/tiny", 30)
    laboratory.login("scancel", "--batch", "--signal=USR1", job.number)
    job.completes(120)
    require_said(job, "stopped and saved; more to do: queued again", f"finished at step {steps}")
    if "start 1:" not in (folder / f"tiny-{job.number}.slurm").read_text():
        raise CaseFailed("it was not started again")
    rows = metrics(folder / "runs/tiny")
    # launch has it sum those of a node first.
    laboratory.same(rows, laboratory.reference(4, {"parallel.sum_group": 2}, len(rows)))
    seen.add(f"stopped, queued itself again, finished at {len(rows)}, bitwise")
    return seen


@case
def launched_ends(laboratory):
    """Jobs of `ridgeline launch` that fail, are cancelled, or do no more than start, are not queued again."""
    seen = Seen()
    starts, started = launch(laboratory, "starts", {"train.steps": MANY_STEPS}, "--max-time", "0.1s")
    job, _ = launch(laboratory, "fails", {"data.train": laboratory.folder / "nowhere"})
    ended = job.wait()
    if ended != ("FAILED", 1):
        raise CaseFailed(f"data that is missing: {ended}: {job.said()[-1500:]}")
    require_said(job, "failed with exit code 1: not queued again")
    job, folder = launch(laboratory, "cancelled", {"train.steps": MANY_STEPS})
    laboratory.runs_past(job, folder / "runs/tiny", 30)
    laboratory.login("scancel", job.number)
    ended = job.wait()[0]
    if ended != "CANCELLED" or newest_checkpoint(folder / "runs/tiny") == 0:
        raise CaseFailed(f"scancel: {ended}, saved {newest_checkpoint(folder / 'runs/tiny')}: {job.said()[-1500:]}")
    ended = starts.wait()
    if ended != ("FAILED", 1) or newest_checkpoint(started / "runs/tiny") != 2:
        raise CaseFailed(f"one step a start: {ended}: {starts.said()[-1500:]}")
    require_said(starts, "stopped and saved; more to do: queued again", "room for one step in a start of this job",
                 "failed with exit code 1: not queued again")
    seen.add("failed with 1; cancelled, and saved; one step a start: given up at the second")
    return seen
