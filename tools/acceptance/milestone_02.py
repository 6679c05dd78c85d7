"""Sharded data parallelism, families, precisions, recompute, offload: every "done when" line of that issue."""
import json
import re
import tempfile
from pathlib import Path

from acceptance import measure
from acceptance.measure import CORPUS, bench, ctest, failure_case, gtest, need_corpus, parity, program, row, run

FAMILIES = ("gpt2", "gptj", "gpt_neox", "llama")
LEVELS = ("none", "optimizer", "gradients", "parameters")


def reference_rows():
    layouts = [(1, [])] + [(2, [f"parallel.shard={level}"]) for level in LEVELS]
    layouts.append((4, ["parallel.shard=parameters", "parallel.shard_group=2"]))
    for family in FAMILIES:
        folder = measure.OPTIONS.reference / family

        def measured(folder=folder):
            worst, against_one, met = 0.0, 0.0, True
            for ranks, sets in layouts:
                errors, ok = parity(folder, ranks, sets=sets)
                worst, against_one = max(worst, errors[""]), max(against_one, errors["against one rank"])
                met = met and ok
            return f"{len(layouts)} layouts: worst error {worst:.1e}; gradients against one rank {against_one:.1e}", met
        row(f"reference_{family}", "5e-6 on one rank, on two at every level, on four in groups of two", measured,
            f"parity_check {folder} --against-one-rank --ranks N --set parallel.shard=LEVEL")


def every_combination():
    result = run([program("plan_test"), "--gtest_filter=EveryCombination.*"], check=False)
    counts = [line.strip() for line in result.stdout.splitlines() if re.match(r" *\d+ ", line)]
    return "; ".join(counts), result.returncode == 0


def memory_table():
    result = run(["tools/make_memory_table", program(), "--check", "docs/memory.md"], check=False)
    return (result.stdout or result.stderr or "the table is what plan prints").strip().splitlines()[-1], result.returncode == 0


def tutorial_config(name):
    report = json.loads(run([program(), "plan", "--config", f"configs/{name}.toml", "--ranks", "16", "--memory", "64GiB", "--json"]).stdout)
    return f"{report['bytes_per_rank'] / 2**30:.1f} GiB per rank", report["bytes_per_rank"] <= 64 * 2**30


def twin(name):
    need_corpus()
    with tempfile.TemporaryDirectory() as folder:
        run([program(), "train", "--config", f"configs/{name}_twin.toml", "--ranks", "2", "--out", f"{folder}/run", "--quiet",
             "--set", f"data.train={CORPUS}/corpus", "--set", f"data.tokenizer={CORPUS}/tokenizer", "--set", "data.split=95,5,0"])
        losses = [json.loads(line)["loss"] for line in open(Path(folder) / "run/metrics.jsonl") if '"loss"' in line]
    return f"{len(losses)} steps, loss {losses[0]:.3f} -> {losses[-1]:.3f}", losses[-1] < losses[0] - 1


def choice_rows():
    bars = {"shard_optimizer": 1.0, "shard_gradients": 1.0, "shard_parameters": 0.97, "recompute_full": 0.76, "recompute_selective": 0.95}
    names = [f"speed_{name}" for name in bars]
    if measure.OPTIONS.only and not any(word in name for word in measure.OPTIONS.only for name in names):
        return
    arguments = ["train", "--precision", "bf16", "--rows", "shard,recompute", "--rounds", str(measure.OPTIONS.rounds)]
    command = "ridgeline bench " + " ".join(arguments)
    measured = {r["name"]: r for r in bench(arguments)}
    for name, bar in bars.items():
        r = measured[f"gpt2_124m_bf16_{name}"]
        row(f"speed_{name}", f">= {bar:.0%} of none", lambda r=r, bar=bar: (
            f"{r['value']:.0f} tokens/s: {r['ratio']:.1%} (spread {r['spread']:.1%})", r["ratio"] >= bar), command)


def offload_rows():
    if measure.OPTIONS.only and not any(word in "speed_offload_file" for word in measure.OPTIONS.only):
        return
    arguments = ["train", "--precision", "bf16", "--rows", "offload", "--rounds", str(measure.OPTIONS.rounds)]
    measured = {r["name"].removeprefix("gpt2_124m_bf16_"): r for r in bench(arguments)}
    r = measured["offload_file_of_none"]
    disk = ", ".join(f"{name} {d['value']:.2f} GB/s" for name, d in measured.items() if name.startswith("disk"))
    row("speed_offload_file", ">= 90 % of none, or of what the disk allows", lambda: (
        f"{r['value']:.1%}, the disk allows {r['floor']:.1%} ({measured['offload_file_state']['value']:.2f} GB of state; {disk})",
        r["value"] >= 0.9 * min(1, r["floor"])), "ridgeline bench " + " ".join(arguments))


# A step of PyTorch in bf16 takes a quarter of an hour on processors without bf16 instructions: there, fewer tokens, and the row says so.
PEER_LIMIT = "40"


def peer_rows():
    for mode in ("ddp", "zero_redundancy", "fsdp2", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3"):
        arguments = ["train", "--precision", "bf16", "--rows", f"bf16_beside_{mode}", "--peers", measure.OPTIONS.peers,
                     "--peer-limit", PEER_LIMIT, "--rounds", str(measure.OPTIONS.rounds)]

        def measured(mode=mode, arguments=arguments):
            rows = {r["name"]: r for r in bench(arguments)}
            speed, memory = rows[f"gpt2_124m_bf16_beside_{mode}"], rows[f"gpt2_124m_bf16_memory_per_rank_beside_{mode}"]
            return (f"{speed['value']:.0f} tokens/s: {speed['ratio']:.2f} x {speed['peer']}; memory {memory['value']:.2f} GB: "
                    f"{memory['ratio']:.0%} of {memory['peer']}"), speed["ratio"] >= 1.25 and memory["ratio"] <= 1
        row(f"peer_{mode}", ">= 1.25 x its speed at no more memory per rank", measured, "ridgeline bench " + " ".join(arguments),
            bool(measure.OPTIONS.peers))


def overlap_rows():
    names = [f"overlap_{level}" for level in LEVELS]
    if measure.OPTIONS.only and not any(word in name for word in measure.OPTIONS.only for name in names):
        return
    measured = {r["name"]: r for r in bench(["overlap", "--rounds", str(measure.OPTIONS.rounds)])}
    for name in names:
        hidden, inline = measured[name], measured[f"{name}_inline"]
        row(name, "<= 1.15 x compute, with communication of 0.8 x compute on a timed link", lambda hidden=hidden, inline=inline: (
            f"{hidden['value']:.2f} x (spread {hidden['spread']:.1%}); waiting for every transfer {inline['value']:.2f} x",
            hidden["value"] <= 1.15), "ridgeline bench overlap")


def rows():
    reference_rows()
    row("matrix", "220 random layouts within 1e-6 (fp32), 1e-5 (2 bytes) of one rank; every pair of options",
        lambda: gtest("test_layouts", "layouts.*", "tests"), "test_layouts --gtest_filter=layouts.*")
    row("same_bits", "the table of what is bitwise equal, row by row", lambda: gtest("test_same_bits", "same_bits.*", "tests"),
        "test_same_bits --gtest_filter=same_bits.*")
    row("mpi", "2 and 4 processes give the bits of as many threads", lambda: ctest("layouts_mpi_[24]"), "ctest --test-dir build/release -R layouts_mpi")
    row("mutations", "each of 12 or more seeded faults turns the matrix red", lambda: gtest("test_mutations", "*", "tests"), "test_mutations")
    row("nothing_refused", "refused for divisibility or memory alone", every_combination, "plan_test --gtest_filter=EveryCombination.*")
    row("memory_proofs", "no allocation in steps, every last page used, resident as planned: levels 0-3 on 2, 4, 8 ranks",
        lambda: gtest("test_allocation", "*", "tests"), "test_allocation")
    row("closed_forms", "planned bytes are the closed forms", lambda: gtest("test_parallel", "inventory.*", "tests"), "test_parallel --gtest_filter=inventory.*")
    row("memory_table", "docs/memory.md is what plan prints", memory_table, "tools/make_memory_table build/release/ridgeline --check docs/memory.md")
    row("offload_bits", "levels, precisions, overflows, resume: the bits of no offload; bytes read and written as planned",
        lambda: gtest("test_offload", "*", "tests"), "test_offload")
    for kind in ("bounded_memory", "bounded_offload"):
        row(kind, "trains under a limit that refuses it otherwise", lambda kind=kind: failure_case(kind),
            f"tests/failures/run_failures.sh build/release/ridgeline mpiexec {kind}")
    row("loss_scales", "tables of overflows, and runs with injected ones, follow the three state machines",
        lambda: gtest("test_train", "Precision.*", "tests"), "test_train --gtest_filter=Precision.*")
    for name in ("gpt2_xl_ddp", "gptj_6b_zero2", "gptj_6b_fsdp"):
        row(f"plan_{name}", "fits 16 GPUs of 64 GiB", lambda name=name: tutorial_config(name), f"ridgeline plan --config configs/{name}.toml --ranks 16 --memory 64GiB")
        row(f"twin_{name}", "trains: loss falls by a nat", lambda name=name: twin(name), f"ridgeline train --config configs/{name}_twin.toml --ranks 2")
    choice_rows()
    offload_rows()
    overlap_rows()
    peer_rows()
