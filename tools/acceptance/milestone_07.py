"""Tensor, sequence and pipeline parallelism, composed with every sharding level."""
import json
import random
import re
import tempfile
from pathlib import Path

from acceptance import measure
from acceptance.measure import CORPUS, bench, ctest, gtest, need_corpus, parity, program, row, run

FAMILIES = ("gpt2", "gptj", "gpt_neox", "llama")  # all references: 3 blocks, 4 or 8 heads, 8 sequences
SCHEDULES = ("gpipe", "1f1b", "zero-bubble")
CONFIGS = {"gpt_22b_3d": (32, 22_071_128_064), "gpt_175b_3d": (192, 174_615_846_912), "gpt_1t_3d": (512, 1_008_038_758_400),
           "gpt_1p3b_3d": (32, 1_337_459_616)}
TWINS = ("gpt_22b_3d_twin", "gpt_175b_3d_twin", "gpt_1t_3d_twin", "gpt_1p3b_3d_twin")


def random_layouts(count, seed):
    draw = random.Random(seed)
    for _ in range(count):
        tensor, pipeline, data = draw.choice((1, 2, 4)), draw.choice((1, 2, 3)), draw.choice((1, 2))
        sets = [f"parallel.tensor={tensor}", f"parallel.pipeline={pipeline}", "train.micro_batch=1",
                f"parallel.shard={draw.choice(('none', 'optimizer', 'gradients', 'parameters'))}",
                f"train.recompute={draw.choice(('none', 'selective', 'full'))}"]
        if pipeline > 1:
            sets.append(f"parallel.schedule={draw.choice(SCHEDULES)}")
        if tensor > 1:
            sets.append(f"parallel.sequence={draw.choice(('true', 'false'))}")
        yield tensor * pipeline * data, sets


def references(family):
    folder, worst, met, count = measure.OPTIONS.reference / family, 0.0, True, 0
    for ranks, sets in random_layouts(8, family):
        errors, ok = parity(folder, ranks, sets=sets)
        worst, met, count = max(worst, errors[""]), met and ok, count + 1
    return f"{count} random layouts: worst error {worst:.1e}", met


def tests(pattern):
    return lambda: ctest(pattern)


def planned(name):
    ranks, parameters = CONFIGS[name]
    report = json.loads(run([program(), "plan", "--config", f"configs/{name}.toml", "--ranks", str(ranks), "--memory", "64GiB", "--json"]).stdout)
    return f"{report['parameters']:,} parameters; {report['bytes_per_rank'] / 2**30:.1f} GiB on the fullest rank", report["parameters"] == parameters


def twin(name):
    need_corpus()
    text = Path(measure.ROOT / f"configs/{name}.toml").read_text()
    ranks = int(re.search(r"--ranks (\d+)", text).group(1))
    with tempfile.TemporaryDirectory() as folder:
        run([program(), "train", "--config", f"configs/{name}.toml", "--ranks", str(ranks), "--out", f"{folder}/run", "--quiet",
             "--set", f"data.train={CORPUS}/corpus", "--set", f"data.tokenizer={CORPUS}/tokenizer"])
        losses = [json.loads(line)["loss"] for line in open(Path(folder) / "run/metrics.jsonl") if '"loss"' in line]
    return f"{ranks} ranks, {len(losses)} steps, loss {losses[0]:.3f} -> {losses[-1]:.3f}", losses[-1] < losses[0]


def search():
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/best.toml"
        run([program(), "plan", "--search", "--gpus", "32", "--memory", "64GB", "--out", out, "configs/gpt_22b_3d.toml"])
        report = json.loads(run([program(), "plan", "--config", out, "--ranks", "32", "--memory", "64GB", "--json"]).stdout)
    return f"the best takes {report['bytes_per_rank'] / 1e9:.1f} GB", report["bytes_per_rank"] <= 64e9


def speed_rows():
    bars = {"tensor_2": 0.92, "pipeline_2_1f1b": 0.76, "pipeline_2_zero-bubble": 0.82}
    if measure.OPTIONS.only and not any(word in f"speed_{name}" for word in measure.OPTIONS.only for name in bars):
        return
    arguments = ["train", "--precision", "fp32", "--rows", "tensor,pipeline", "--rounds", str(measure.OPTIONS.rounds)]
    measured = {r["name"].removeprefix("gpt2_124m_fp32_"): r for r in bench(arguments)}
    for name, bar in bars.items():
        r = measured[name]
        apart = [f"{kind} {measured[f'{name}_{kind}']['value']:.1%}" for kind in ("imbalance", "idle") if f"{name}_{kind}" in measured]
        row(f"speed_{name}", f">= {bar:.0%} of one rank with all threads", lambda r=r, bar=bar, apart=apart: (
            f"{r['value']:.0f} tokens/s: {r['ratio']:.1%} (spread {r['spread']:.1%}) {', '.join(apart)}", r["ratio"] >= bar),
            "ridgeline bench " + " ".join(arguments))


def rows():
    for family in FAMILIES:
        row(f"reference_{family}", "5e-6 under random layouts", lambda family=family: references(family),
            "parity_check FOLDER --against-one-rank --ranks N --set parallel.tensor=… parallel.pipeline=…")
    row("parity_matrix", "every gradient within 1e-5 of one rank, every pair of options; ten steps; corners; the same bits",
        tests("layout|same_bits"), "ctest -R 'layout|same_bits'")
    row("mutations", "each is refused before the run starts, and changes results", lambda: gtest("test_mutations", "*", "tests"),
        "build/release/test_mutations")
    row("schedules", "complete, ordered, free of deadlock after lowering; idle shares and live micro-batches exact",
        lambda: gtest("test_parallel", "*chedule*:pipeline.*", "tests"),
        "build/release/test_parallel --gtest_filter='*chedule*:pipeline.*'")
    row("memory_proofs", "no allocation in steps, every last page used, resident as planned: slices and stages too",
        lambda: gtest("test_allocation", "memory.*", "proofs"), "build/release/test_allocation")
    row("generation_and_evaluation", "on a model that is cut: logits and losses of one rank",
        lambda: gtest("test_train", "SmallRun.a_model_that_is_cut*", "tests"), "build/release/test_train --gtest_filter='SmallRun.a_model_that_is_cut*'")
    for name, (ranks, _) in CONFIGS.items():
        row(f"plan_{name}", "parameters to the digit; memory per stage", lambda name=name: planned(name),
            f"ridgeline plan --config configs/{name}.toml --ranks {ranks} --memory 64GiB")
    for name in TWINS:
        row(name, "trains on a laptop", lambda name=name: twin(name), f"ridgeline train --config configs/{name}.toml --ranks …")
    row("search", "the best layout is a configuration that fits", search,
        "ridgeline plan --search --gpus 32 --memory 64GB configs/gpt_22b_3d.toml")
    speed_rows()
