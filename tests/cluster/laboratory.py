"""Clusters, jobs on them, what is seen of them from outside, and the run in one process that each is compared with."""
import array
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import struct
import subprocess
import threading
import time

CLUSTER = pathlib.Path(__file__).resolve().parent / "cluster"
ROOT = CLUSTER.parents[2]
# What srun is told, by what connects the ranks.
SRUN = {"mpich": ["--mpi=pmi2"], "openmpi": ["--mpi=pmix"],
        "tcp": ["--mpi=none", "--export=ALL,RIDGELINE_RENDEZVOUS=slurm"]}
ERROR = "ridgeline: error: "

# A model of which a step takes milliseconds; every key that a case does not set itself.
TINY = {
    "model.layers": 2, "model.width": 32, "model.heads": 2, "model.vocab": 300, "model.context": 32,
    "train.sequence": 32, "train.global_batch": 8, "train.micro_batch": 2, "train.threads": 1, "train.keep_last": 3,
    "train.eval_every": 0, "optimizer.learning_rate": 0.001, "optimizer.schedule": "constant",
    "optimizer.warmup_steps": 1,
}


# Of the tiny model, in one epoch: the order of samples then does not depend on how many steps are asked for.
MANY_STEPS = 4000
WITHOUT_EFFECT = ("train.steps", "train.save_every", "parallel.timeout")  # on the losses of its steps
HANGS = 6.0  # seconds after "finished" until a job counts as hung
LOOK = 0.2  # seconds between questions to Slurm, each of which costs the machine some


class CaseFailed(Exception):
    """What is wrong whatever the bounds say: other bits, a run that does not start."""


class Seen:
    """What a case saw, which bounds it missed, and what is wrong however busy the machine is."""

    def __init__(self):
        self.words, self.missed, self.wrong, self.figures = [], [], [], {}

    def add(self, words):
        self.words.append(words)

    def bound(self, what, value, most):
        """`value` seconds, None when it never happened."""
        self.figures[what] = value
        self.add(f"{what} {'never' if value is None else f'{value:.1f} s'}")
        if value is None or value > most:
            self.missed.append(f"{what} {'never' if value is None else f'{value:.1f} s'}, bound {most:g} s")

    def should(self, holds, otherwise):
        if not holds:
            self.missed.append(otherwise)

    def must(self, holds, otherwise):
        if not holds:
            self.wrong.append(otherwise)

    def verdict(self):
        if self.wrong:
            return "FAILED: " + "; ".join(self.wrong + self.missed)
        return "missed: " + "; ".join(self.missed) if self.missed else "ok"


class Job:
    """A batch job, watched from outside: its output file, its ranks' processes, what Slurm says."""

    def __init__(self, laboratory, name, number, output):
        self.laboratory, self.name, self.number, self.output = laboratory, name, number, output
        self.submitted = time.monotonic()

    def said(self):
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def errors(self):
        """Each with its further lines, which are indented, on one."""
        found = re.findall(rf"^{ERROR}(.*(?:\n  .*)*)", self.said(), re.MULTILINE)
        return [" ".join(error.split()) for error in found]

    def state(self):
        """Slurm's word, such as RUNNING or COMPLETED, and the exit code of the batch script."""
        shown = self.laboratory.login("scontrol", "show", "job", "--oneliner", self.number)
        return (re.search(r"JobState=(\w+)", shown).group(1), int(re.search(r"\bExitCode=(\d+)", shown).group(1)))

    def over(self):
        return self.state()[0] not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED")

    def wait(self, seconds=120):
        """Until Slurm has no more to do for it; what hangs after all its work is ended, and remembered."""
        limit, finished = time.monotonic() + seconds, None
        while not self.over():
            now = time.monotonic()
            if now > limit:
                raise CaseFailed(f"job {self.name} is {self.state()[0]} after {seconds} s: {self.said()[-500:]}")
            if finished is None and "finished at step" in self.said():
                finished = now
            if finished is not None and now - finished > HANGS:
                self.laboratory.hung += 1
                self.end()
                finished = None
            time.sleep(LOOK)
        return self.state()

    def settle(self, seconds=5):
        """The end it finds itself, or that it is given after so many seconds; nothing of it is left."""
        try:
            ended = self.wait(seconds)
            self.end()
        except CaseFailed:
            self.end()
            self.laboratory.cluster("heal")
            ended = self.wait()
        return ended

    def completes(self, seconds=120):
        hung = self.laboratory.hung
        state, _ = self.wait(seconds)
        if state != "COMPLETED" and self.laboratory.hung == hung:
            raise CaseFailed(f"job {self.name} ended as {state}: {self.said()[-1500:]}")

    def ranks(self):
        """Process number by rank."""
        found = {}
        for process in self.laboratory.cluster("processes").split():
            try:
                if os.readlink(f"/proc/{process}/exe").rsplit("/", 1)[-1] != self.laboratory.program.name:
                    continue
                with open(f"/proc/{process}/environ", "rb") as file:
                    values = dict(entry.split(b"=", 1) for entry in file.read().split(b"\0") if b"=" in entry)
            except OSError:  # it has just ended
                continue
            if values.get(b"SLURM_JOB_ID", b"").decode() == self.number and b"SLURM_PROCID" in values:
                # A rank's watcher carries its numbers too; it is the younger one.
                rank = int(values[b"SLURM_PROCID"])
                found[rank] = min(found.get(rank, int(process)), int(process))
        return found

    def end(self):
        """Whatever is left of it goes."""
        if not self.over():
            self.laboratory.login("scancel", self.number)
        for process in self.ranks().values():
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass


def lives(process):
    try:
        with open(f"/proc/{process}/stat", encoding="ascii") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def metrics(folder):
    """(step, loss, norm of the gradients) of every step, as printed: digits that read back as the same bits."""
    path = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows]


def step_seconds(folder):
    """Median of the steps after the first two."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return statistics.median(row["step_seconds"] for row in rows[2:])


def newest_checkpoint(folder):
    names = [path.name for path in folder.glob("checkpoints/step_*") if "." not in path.name]
    return max((int(name[5:]) for name in names), default=0)


class Common:
    """What laboratories beside each other share: the data of all cases, and runs that nobody disturbs."""

    def __init__(self, program, folder):
        self.program, self.folder = program, folder
        self.references, self.lock, self.made = {}, threading.Lock(), 0

    def prepare(self):
        documents = (" ".join(f"w{document * word * word % 97}" for word in range(40)) for document in range(15000))
        (self.folder / "text.txt").write_text("\n\n".join(documents))
        tokenizer, data = self.folder / "tokenizer", self.folder / "data"
        data.mkdir()
        self.here("tokenizer", "train", "--vocab", "300", "--out", tokenizer, self.folder / "text.txt")
        self.here("prepare", "--tokenizer", tokenizer, "--out", data / "text", self.folder / "text.txt")
        self.data = {"data.train": data / "text", "data.tokenizer": tokenizer, "data.split": "90,10,0"}

    def here(self, *arguments):
        """The program, in one process."""
        done = subprocess.run([self.program, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT)
        if done.returncode != 0:
            raise CaseFailed(f"ridgeline {' '.join(map(str, arguments))}: {done.stderr.strip()[-1000:]}")
        return done.stdout + done.stderr

    def options(self, out, keys, config=None):
        """Arguments of `train`; what is "" in `keys` is not given."""
        given = ["train", "--quiet", "--out", str(out)] + (["--config", str(config)] if config else [])
        for key, value in {**({} if config else TINY), **self.data, **keys}.items():
            given += ["--set", f"{key}={value}"] if value != "" else []
        return given

    def reference(self, ranks, keys, steps):
        """Metrics of the run that nobody disturbs, its ranks as threads of one process; at least `steps` of them."""
        other = {name: str(value) for name, value in keys.items() if name not in WITHOUT_EFFECT}
        key = (ranks, tuple(sorted(other.items())))
        with self.lock:
            if len(self.references.get(key, [])) < steps:
                self.made += 1
                out = self.folder / f"reference_{self.made}"
                taken = min(max(1000, 2 * steps), max(steps, MANY_STEPS))  # whoever asks next may want more
                self.here(*self.options(out, {**other, "train.steps": taken, "train.save_every": 0}), "--ranks", ranks)
                self.references[key] = metrics(out)
                shutil.rmtree(out)
            return self.references[key][:steps]


class Laboratory:
    """A cluster of its own, beside others and beside one that somebody uses by hand."""

    def __init__(self, common, mpi, folder, srun_options=(), rounds=1):
        folder.mkdir()
        self.common, self.program, self.folder, self.mpi = common, common.program, folder, mpi
        self.srun = ["srun", *SRUN[mpi], *srun_options]
        self.here, self.options, self.reference = common.here, common.options, common.reference
        self.environment = {**os.environ, "RIDGELINE_CLUSTER": str(folder / "cluster")}
        self.hung, self.rounds = 0, rounds

    def up(self):
        up = subprocess.run([CLUSTER, "up", "--shared", "256m"], capture_output=True, text=True, env=self.environment)
        if up.returncode != 0:
            raise CaseFailed(f"the cluster does not come up: {up.stderr}")
        self.shared = pathlib.Path(self.login("bash", "-c", "echo $CLUSTER_SHARED").strip())
        self.local = pathlib.Path(self.login("bash", "-c", "echo $CLUSTER_LOCAL").strip())
        self.nodes = [f"node{number}" for number in (1, 2, 3, 4)]

    def cluster(self, *arguments):
        done = subprocess.run([CLUSTER, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT,
                              env=self.environment)
        if done.returncode != 0:
            raise CaseFailed(f"cluster {' '.join(map(str, arguments))}: {done.stderr.strip()}")
        return done.stdout

    def login(self, *command):
        return self.cluster("run", *command)

    def submit(self, name, nodes, ranks, arguments, before=(), program=None, sbatch=("--no-requeue",), script=None):
        """A job of `ranks` ranks. `before`: a command that becomes the program; `script`: holds COMMAND."""
        output = self.folder / f"{name}.out"
        command = " ".join(map(quoted, [*self.srun, *before, program or self.program, *arguments]))
        file = self.folder / f"{name}.sh"
        file.write_text(f"#!/bin/bash\n#SBATCH --job-name={name} --nodes={nodes} --ntasks={ranks}\n"
                        f"#SBATCH --ntasks-per-node={ranks // nodes} --output={output} --open-mode=append\n"
                        + (script or "COMMAND\n").replace("COMMAND", command))
        return Job(self, name, self.login("sbatch", "--parsable", *sbatch, file).strip(), output)

    def train(self, name, nodes, ranks, keys, *more, **options):
        """A job of a run whose folder is shared by all nodes."""
        folder = self.shared / name
        return self.submit(name, nodes, ranks, [*self.options(folder, keys), *more], **options), folder

    def runs_past(self, job, folder, step, seconds=60):
        """Until it has taken more than `step` steps."""
        limit, look = time.monotonic() + seconds, 0.0
        while time.monotonic() < limit:
            rows = (folder / "metrics.jsonl").read_bytes().count(b"\n") if (folder / "metrics.jsonl").exists() else 0
            if rows > step:
                return
            if time.monotonic() > look:
                if job.over():
                    break
                look = time.monotonic() + LOOK
            time.sleep(0.02)
        raise CaseFailed(f"job {job.name} ({job.state()[0]}) takes no {step} steps: {job.said()[-1500:]}")

    def resumes_bitwise(self, name, folder, nodes, ranks, keys):
        """The run goes on for ten steps from its newest checkpoint, and has the losses of the one nobody disturbed."""
        begun = newest_checkpoint(folder)
        if begun == 0:
            raise CaseFailed("there is no checkpoint to go on from")
        job, _ = self.train(name, nodes, ranks, {**keys, "train.steps": begun + 10}, "--resume")
        job.completes()
        self.same(metrics(folder), self.reference(ranks, keys, begun + 10))
        return f"resumed at {begun}, bitwise"

    def same(self, seen, expected):
        for one, other in zip(seen, expected):
            if one != other:
                raise CaseFailed(f"(step, loss, norm) {one} instead of {other}")
        if len(seen) != len(expected):
            raise CaseFailed(f"{len(seen)} steps instead of {len(expected)}")

    def clean(self):
        """Between cases: no job, no fault, empty disks."""
        self.login("scancel", "--user=root")
        for _ in range(150):
            if not self.login("squeue", "--noheader").strip():
                break
            time.sleep(LOOK)
        self.cluster("heal")
        for node in self.nodes:
            self.login("--on", node, "bash", "-c", 'rm -rf "$CLUSTER_LOCAL"/*')
        for path in self.shared.iterdir():
            shutil.rmtree(path)

    def down(self):
        subprocess.run([CLUSTER, "down"], check=True, env=self.environment)


def large_dataset(prefix):
    """80 MB of tokens in 100 documents, more than fingerprints read, without a note of `prepare`."""
    tokens, documents = array.array("H", range(1, 300)) * 134000, 100
    length = len(tokens) // documents
    with open(f"{prefix}.bin", "wb") as file:
        tokens.tofile(file)
    with open(f"{prefix}.idx", "wb") as file:
        file.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, documents, documents + 1))
        file.write(struct.pack(f"<{documents}i", *[length] * documents))
        file.write(struct.pack(f"<{documents}q", *range(0, 2 * len(tokens), 2 * length)))
        file.write(struct.pack(f"<{documents + 1}q", *range(documents + 1)))


def quoted(word):
    return "'" + str(word).replace("'", "'\\''") + "'"
