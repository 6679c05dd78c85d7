"""The main job: every "done when" line of its issue."""
import json
import re
import resource
import subprocess
import tempfile
import time
from pathlib import Path

from acceptance import measure
from acceptance.measure import CORPUS, ROOT, bench, ctest, failure_case, gtest, need_corpus, parity, program, row, run


def parity_rows():
    folder = measure.OPTIONS.reference / "gpt2"
    for mpi in (False, True):
        for ranks in (1, 2, 4):
            kind = "mpi" if mpi else "threads"

            def measured(ranks=ranks, mpi=mpi):
                worst, ok = parity(folder, ranks, mpi)
                return (f"worst error {worst['']:.1e} of logits, gradients, ten losses; gradients against one rank "
                        f"{worst['against one rank']:.1e}"), ok and worst["against one rank"] <= 1e-6
            row(f"parity_{kind}_{ranks}", "5e-6 against double precision, 1e-6 against one rank", measured,
                f"{'mpirun -n %d ' % ranks if mpi else ''}parity_check {folder} --against-one-rank{'' if mpi else ' --ranks %d' % ranks}")


def quickstart_loss(folder, precision):
    need_corpus()
    out = Path(folder) / precision
    run([program(), "train", "--config", "configs/quickstart.toml", "--ranks", "2", "--out", str(out), "--quiet",
         "--set", f"data.train={CORPUS}/corpus", "--set", f"data.tokenizer={CORPUS}/tokenizer", "--set", "data.split=95,5,0",
         "--set", f"train.precision={precision}"])
    with open(out / "metrics.jsonl") as file:
        records = [json.loads(line) for line in file]
    return [r["validation_loss"] for r in records if "validation_loss" in r][-1]


def bf16_quickstart():
    with tempfile.TemporaryDirectory() as folder:
        fp32, bf16 = quickstart_loss(folder, "fp32"), quickstart_loss(folder, "bf16")
    return f"fp32 {fp32:.4f}, bf16 {bf16:.4f} nats per token: {100 * abs(bf16 / fp32 - 1):.2f} %", abs(bf16 / fp32 - 1) <= 0.01


# A peer whose step would take longer steps on fewer tokens. fp32 must not be cut: its memory is compared too. In bf16 PyTorch
# takes a quarter of an hour for a step on processors without bf16 instructions.
PEER_LIMIT = {"fp32": "240", "bf16": "40"}


def speed_rows():
    for precision, floor, memory in (("fp32", 0.80, 0.70), ("bf16", 0.75, 0.85)):
        names = [f"speed_{kind}_{precision}" for kind in ("floor", "ranks", "peer", "memory")] + [f"plan_memory_{precision}"]
        if measure.OPTIONS.only and not any(word in name for word in measure.OPTIONS.only for name in names):
            continue
        arguments = ["train", "--precision", precision, "--rounds", str(measure.OPTIONS.rounds)]
        if measure.OPTIONS.peers:
            arguments += ["--peers", measure.OPTIONS.peers, "--peer-limit", PEER_LIMIT[precision]]
        command = "ridgeline bench " + " ".join(arguments)
        try:
            rows = {r["name"]: r for r in bench(arguments)}
        except Exception as error:
            row(f"speed_{precision}", "measured", lambda said=f"failed: {error}": (said, False), command)
            continue
        speed_rows_of(precision, floor, memory, rows, command)


def speed_rows_of(precision, floor, memory, rows, command):
    ours = rows[f"gpt2_124m_{precision}"]
    row(f"speed_floor_{precision}", f">= {floor:.0%} of the floor",
        lambda: (f"{ours['value']:.0f} of {ours['floor']:.0f} tokens/s: {ours['fraction']:.1%} (spread {ours['spread']:.1%})",
                 ours["fraction"] >= floor), command)
    two = next((r for n, r in rows.items() if re.fullmatch(rf"gpt2_124m_{precision}_\d+_ranks", n)), None)
    row(f"speed_ranks_{precision}", ">= 95 % of one rank with all threads",
        lambda: (f"{two['value']:.0f} tokens/s: {two['ratio']:.1%}", two["ratio"] >= 0.95), command, two is not None)
    peers = [r for n, r in rows.items() if n.startswith(f"gpt2_124m_{precision}_beside_")]
    fastest = min(peers, key=lambda r: r["ratio"], default=None)
    row(f"speed_peer_{precision}", ">= 1.25 x the fastest PyTorch mode",
        lambda: (f"{fastest['value']:.0f} tokens/s: {fastest['ratio']:.2f} x {fastest['peer']}", fastest["ratio"] >= 1.25), command,
        fastest is not None)

    def beside_in_memory():
        r = rows[fastest["name"].replace("_beside_", "_memory_beside_")]
        text = f"{r['value']:.2f} GB: {r['ratio']:.1%} of {r['peer']}"
        # Fewer tokens in memory are no comparison.
        return text, None if "instead of" in r["peer"] else r["ratio"] <= memory
    row(f"speed_memory_{precision}", f"<= {memory:.0%} of that mode's resident memory", beside_in_memory, command, fastest is not None)
    plan = rows[f"gpt2_124m_{precision}_memory"]
    row(f"plan_memory_{precision}", "resident within 3 % of plan plus code and libraries", lambda: plan_memory(plan), command)


def plan_memory(measured):
    outside = json.loads(run([program(), "plan", "--config", "configs/gpt2_124m.toml", "--json"], check=False).stdout or "{}")
    code = outside.get("code_and_libraries_bytes", 0) * 1e-9
    planned = measured["floor"] + code
    off = measured["value"] / planned - 1
    return f"{measured['value']:.3f} GB resident, {measured['floor']:.3f} planned + {code:.3f} code and libraries: {off:+.1%}", abs(off) <= 0.03


def peak():
    rows = {r["name"]: r for r in bench(["machine"])}
    text = ", ".join(f"{n} {rows[n]['value']:.0f} of {rows[n]['floor']:.0f} GFLOP/s ({rows[n]['fraction']:.0%})" for n in ("peak_f32", "peak_bf16"))
    return text, all(rows[n]["fraction"] >= 0.97 for n in ("peak_f32", "peak_bf16"))


def comm(prefix):
    rows = bench(["comm"], prefix)
    first = next(r for r in rows if r["name"].startswith("all_reduce"))
    return f"{first['value']:.1f} of {first['floor']:.1f} GB/s: {first['fraction']:.0%} (spread {first['spread']:.0%})", first["fraction"] >= 0.8


def seconds_to_start_up_line(folder):
    """From the start of the process to its message at the end of step 1, and the message."""
    command = [program(), "train", "--config", "configs/quickstart.toml", "--ranks", "2", "--out", folder]
    for key in ("model.layers=4", "model.width=256", "model.heads=4", "model.vocab=4096", "train.sequence=256", "train.global_batch=8",
                "train.micro_batch=4", "train.steps=2", "optimizer.warmup_steps=0", "train.eval_every=0", "train.save_every=0",
                f"data.train={CORPUS}/corpus", f"data.tokenizer={CORPUS}/tokenizer"):
        command += ["--set", key]
    begin = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        said = []
        for line in process.stderr:
            said.append(line)
            if "start-up: " in line:
                seconds = time.perf_counter() - begin
                process.stderr.read()
                return seconds, line.split("start-up: ")[1].strip()
    raise RuntimeError("no start-up message: " + "".join(said)[-300:])


def start_up():
    need_corpus()
    with tempfile.TemporaryDirectory() as folder:
        runs = [seconds_to_start_up_line(f"{folder}/{attempt}") for attempt in range(6)][1:]  # the first warms the page cache
    seconds, phases = sorted(runs)[len(runs) // 2]
    return f"{seconds:.3f} s from the start of the process, median of 5; it says: {phases}", seconds < 0.5


def cpu_seconds(ranks, mpi):
    """Processor seconds of the same work, all processes together, its start and end included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        command = ["mpirun", "-n", str(ranks)] if mpi else []
        command += [program(), "train", "--config", "configs/quickstart.toml", "--out", f"{folder}/run", "--quiet"]
        if not mpi:
            command += ["--ranks", str(ranks)]
        for key in ("train.global_batch=32", "train.micro_batch=1", "train.steps=20", "optimizer.warmup_steps=1", "train.eval_every=0",
                    "train.save_every=0", "train.threads=1", f"data.train={CORPUS}/corpus", f"data.tokenizer={CORPUS}/tokenizer"):
            command += ["--set", key]
        run(command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def many_ranks(mpi):
    need_corpus()
    one, many = cpu_seconds(1, False), cpu_seconds(32, mpi)
    return f"1 rank {one:.2f} s, 32 ranks {many:.2f} s of CPU time for 20 steps: {many / one:.2f} x", many <= 2 * one


# What is tried: the program itself (tests/failures), or a test of the library; on this machine in this build.
BAD_INPUT = {
    "missing_file": "failure", "empty_corpus": "failure", "invalid_utf8": "failure", "cut_json_line": "failure",
    "large_token_id": "failure", "full_disk": "failure", "read_only_output": "failure", "unknown_key": "failure",
    "indivisible_ranks": "failure", "mpi_kill": "failure", "mpi_stop": "failure",
    "mpi_dying_rank": ("ctest", "comm_mpi_failures"),
    "throwing_thread_rank": ("test_train", "SmallRun.a_rank_that_throws_stops_everyone_and_is_named"),
    "stalled_thread_rank": ("comm_test", "ThreadsFailure.AStalledRankIsNamedAndLeftBehind"),
    "damaged_checkpoint": ("test_train", "SmallRun.an_altered_checkpoint_is_refused_by_name_and_the_one_before_it_offered"),
}


def bad_input_rows():
    for kind, how in BAD_INPUT.items():
        if how == "failure":
            row(f"bad_input_{kind}", "said once, with what and where; all processes gone within 5 s", lambda kind=kind: failure_case(kind),
                f"tests/failures/run_failures.sh build/release/ridgeline mpiexec {kind}")
        elif how[0] == "ctest":
            row(f"bad_input_{kind}", "said once, culprit in a file", lambda how=how: ctest(how[1]), f"ctest --test-dir build/release -R '^{how[1]}$'")
        else:
            row(f"bad_input_{kind}", "said once, culprit in a file, within 5 s or the timeout", lambda how=how: gtest(how[0], how[1], "tests"),
                f"{how[0]} --gtest_filter={how[1]}")


def chroot():
    said = []
    for command in (["tools/try_in_chroot"], ["tools/try_in_chroot", "--again", "./test.sh"]):
        result = run(command, check=False, timeout=7200)
        lines = result.stdout.strip().splitlines()
        said.append(" / ".join(lines[-3:]))
        if result.returncode != 0:
            return said[-1], False
    return "; ".join(said), True


def rows():
    row("chroot", "both commands work in an empty Debian 12", chroot, "tools/try_in_chroot && tools/try_in_chroot --again ./test.sh",
        measure.OPTIONS.chroot)
    parity_rows()
    row("ranks_free_run", "50 steps, losses within max(1e-5, 3 x one rank re-cut), loss falls by 1 nat",
        lambda: gtest("test_train", "*ranks_follow_one_rank*", "tests"), "test_train --gtest_filter=*ranks_follow_one_rank*")
    row("bf16_quickstart", "validation loss within 1 % of fp32's", bf16_quickstart, "ridgeline train --config configs/quickstart.toml --ranks 2, both precisions")
    row("peak", ">= 97 % of the core's instruction limit at the measured clock", peak, "ridgeline bench machine")
    speed_rows()
    row("comm_threads", "all-reduce of 498 MB >= 80 % of its traffic floor", lambda: comm([]), "ridgeline bench comm")
    row("comm_mpi", "all-reduce of 498 MB >= 80 % of its traffic floor", lambda: comm(["mpirun", "-n", "2"]), "mpirun -n 2 ridgeline bench comm")
    row("start_up", "under 0.5 s to the end of step 1", start_up, "ridgeline train (4 layers, width 256, 2,048 tokens, 2 ranks, one step)")
    row("resume", "bitwise equal", lambda: gtest("test_train", "*resuming_gives_the_same_bits*", "tests"), "test_train --gtest_filter=*resuming*")
    row("memory_proofs", "no allocation in steps, every last page used, nothing outside its lifetime",
        lambda: gtest("test_allocation", "*", "tests"), "test_allocation")
    for mpi in (False, True):
        row(f"many_ranks_{'mpi' if mpi else 'threads'}", "32 ranks on this machine cost at most twice the CPU time of one",
            lambda mpi=mpi: many_ranks(mpi), "mpirun -n 32 ridgeline train" if mpi else "ridgeline train --ranks 32")
    row("isa", "right without AVX-512: plain C++, and AVX2 under qemu-x86_64 -cpu Haswell", lambda: ctest("op_check_.*|haswell_.*"),
        "ctest --test-dir build/release -R 'op_check_|haswell_'")
    bad_input_rows()
