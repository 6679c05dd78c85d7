"""The engine that carries stages, slices and places: what is done of it, and that no bit changed."""
import re

from acceptance.measure import gtest, program, row, run

# 96 blocks x 64 micro-batches; narrow, for a proof does not look at widths.
LARGE = {"model.layers": 96, "model.width": 96, "model.heads": 4, "model.vocab": 300, "model.context": 48, "train.sequence": 48,
         "train.global_batch": 512, "train.micro_batch": 1}
SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1}


def proof(options, limit):
    output = run([program(), "plan", *options]).stdout
    number, unit, what = re.search(r"^proved in ([0-9.]+) (\w+): (.*)$", output, re.M).groups()
    return f"{number} {unit}: {what}", float(number) * SECONDS[unit] < limit


def same_bits():
    result = run(["tools/same_bits"], check=False)
    return result.stdout.strip().splitlines()[-1], result.returncode == 0


def rows():
    row("same_bits", "every row equal, resumed both ways", same_bits, "tools/same_bits")
    quickstart = ["--config", "configs/quickstart.toml", "--ranks", "2"]
    row("proof_quickstart", "programs and layout proved in 20 ms", lambda: proof(quickstart, 0.02), "ridgeline plan " + " ".join(quickstart))
    for level in ("none", "optimizer", "gradients", "parameters"):
        options = ["--ranks", "8", *sum((["--set", f"{key}={value}"] for key, value in {**LARGE, "parallel.shard": level}.items()), [])]
        row(f"proof_large_{level}", "96 blocks x 64 micro-batches in 0.5 s", lambda options=options: proof(options, 0.5),
            "ridgeline plan " + " ".join(options))
    row("two_stages", "right programs pass, wrong ones are refused with the operation named",
        lambda: gtest("test_parallel", "two_stages.*:simulator.*", "tests"), "build/release/test_parallel --gtest_filter='two_stages.*:simulator.*'")
    row("mutations", "each is refused before the run starts", lambda: gtest("test_mutations", "mutations.*", "tests"),
        "build/release/test_mutations --gtest_filter='mutations.*'")
