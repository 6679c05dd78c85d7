#!/usr/bin/env python3
"""Trains GPT-2 in plain PyTorch or DeepSpeed on the processor, as a careful user would, and prints one JSON line.

One mode per process, so that time to the first step and peak memory are those of the mode. bench/peers/run.sh calls it
for every mode. With --interactive the process stays: each line N on standard input runs N more steps and prints their
seconds, so that rounds of several programs can be interleaved.

Data are random tokens: speed does not depend on them. Several ranks (--parallel names what they share out):
  torchrun --standalone --nproc-per-node 2 gpt2_pytorch.py --parallel fsdp2 --batch 2 --threads 1
"""
import argparse
import datetime
import functools
import json
import os
import statistics
import sys
import time


def seconds_since_process_start():
    with open("/proc/self/stat") as stat:
        started = int(stat.read().rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")
    with open("/proc/uptime") as uptime:
        return float(uptime.read().split()[0]) - started


def peak_resident_bytes():
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=["eager", "compile"], default="eager")
    parser.add_argument("--parallel", choices=["none", "ddp", "zero_redundancy", "fsdp2", "deepspeed_zero1", "deepspeed_zero2",
                                               "deepspeed_zero3"],
                        default="none" if int(os.environ.get("WORLD_SIZE", "1")) == 1 else "ddp")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16: mixed, master weights stay fp32")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--vocab", type=int, default=50257)
    parser.add_argument("--batch", type=int, default=4, help="sequences per rank and step")
    parser.add_argument("--sequence", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2, help="per rank")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2, help="first steps, left out of the median")
    parser.add_argument("--limit", type=float, default=0, metavar="SECONDS",
                        help="where a step would take longer, steps have fewer tokens, and the row says so; 0: never")
    parser.add_argument("--optimizer", choices=["fused", "foreach"], default="fused")
    parser.add_argument("--interactive", action="store_true")
    return parser.parse_args()


arguments = parse_arguments()

import torch  # noqa: E402  after the arguments, so that --help is quick
import torch.distributed  # noqa: E402
import torch.nn.functional as functional  # noqa: E402
from torch import nn  # noqa: E402

RANKS = int(os.environ.get("WORLD_SIZE", "1"))
RANK = int(os.environ.get("RANK", "0"))
BF16 = arguments.precision == "bf16"


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x):
        batch, sequence, width = x.shape
        query, key, value = self.qkv(self.norm1(x)).view(batch, sequence, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, sequence, width))
        return x + self.down(functional.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    def __init__(self, layers, width, heads, vocab, context):
        super().__init__()
        self.tokens = nn.Embedding(vocab, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                scale = (2 * layers) ** -0.5 if name.endswith(("out.weight", "down.weight")) else 1.0
                nn.init.normal_(parameter, std=0.02 * scale)

    def forward(self, inputs, labels):
        x = self.tokens(inputs) + self.positions(torch.arange(inputs.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = functional.linear(self.norm(x), self.tokens.weight)
        return functional.cross_entropy(logits.view(-1, logits.shape[-1]), labels.view(-1))


# Each of the functions below prepares the module for its mode and returns a step: tokens -> loss, updated.

ADAMW = {"lr": 6e-4, "betas": (0.9, 0.95), "eps": 1e-8, **({"fused": True} if arguments.optimizer == "fused" else {"foreach": True})}


def parameter_groups(module):
    parameters = list(module.parameters())
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def torch_step(module, forward, optimizer, autocast):
    def step(inputs, labels):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = forward(inputs, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def compiled(module):
    return torch.compile(module) if arguments.mode == "compile" else module


def one_process(module):
    return torch_step(module, compiled(module), torch.optim.AdamW(parameter_groups(module), **ADAMW), BF16)


def ddp(module):
    module = nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True)
    return torch_step(module, compiled(module), torch.optim.AdamW(parameter_groups(module), **ADAMW), BF16)


def zero_redundancy(module):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    module = nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True)
    optimizer = ZeroRedundancyOptimizer(parameter_groups(module), optimizer_class=torch.optim.AdamW, parameters_as_bucket_view=True, **ADAMW)
    return torch_step(module, compiled(module), optimizer, BF16)


def fsdp2(module):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh("cpu", (RANKS,))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16 if BF16 else None)
    for block in module.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, mp_policy=policy)
    return torch_step(module, module, torch.optim.AdamW(parameter_groups(module), **ADAMW), False)


def deepspeed_zero(stage, module):
    import deepspeed

    config = {
        "train_micro_batch_size_per_gpu": arguments.batch,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": BF16},
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }
    optimizer = torch.optim.AdamW(parameter_groups(module), **ADAMW)
    engine = deepspeed.initialize(model=module, optimizer=optimizer, config=config)[0]

    def step(inputs, labels):
        loss = engine(inputs, labels)
        engine.backward(loss)
        engine.step()
        return loss.item()

    return step


PARALLEL = {
    "none": one_process,
    "ddp": ddp,
    "zero_redundancy": zero_redundancy,
    "fsdp2": fsdp2,
    "deepspeed_zero1": functools.partial(deepspeed_zero, 1),
    "deepspeed_zero2": functools.partial(deepspeed_zero, 2),
    "deepspeed_zero3": functools.partial(deepspeed_zero, 3),
}


def random_tokens(batch, sequence):
    tokens = torch.randint(arguments.vocab, (batch, sequence + 1))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def slowest_of_ranks(value):
    shared = torch.tensor([value], dtype=torch.float64)
    if RANKS > 1:
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
    return shared.item()


def fit_into_limit(module):
    """Cuts the batch, then the sequence, until forward and backward of a step take less than the limit, judged from a small
    one on every rank at once. Returns what the row says about it. Some processors have no bf16 instructions that PyTorch
    uses, and a whole step would take half an hour."""
    full = arguments.batch * arguments.sequence
    if arguments.limit <= 0:
        return ""
    probe = min(128, arguments.sequence)
    for _ in range(2):  # the first one also sets up its libraries
        begin = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=BF16):
            loss = module(*random_tokens(1, probe))
        loss.backward()
        seconds = time.perf_counter() - begin
        module.zero_grad(set_to_none=True)
        if seconds / probe * 16 > arguments.limit:
            break
    per_token = slowest_of_ranks(seconds) / probe
    batch, sequence = arguments.batch, arguments.sequence
    while batch > 1 and batch * sequence * per_token > arguments.limit:
        batch //= 2
    while sequence > 16 and batch * sequence * per_token > arguments.limit:
        sequence //= 2
    if (batch, sequence) == (arguments.batch, arguments.sequence):
        return ""
    said = (f"{batch} x {sequence} tokens a step and rank instead of {arguments.batch} x {arguments.sequence}, "
            f"which would take about {full * per_token:.0f} s")
    arguments.batch, arguments.sequence = batch, sequence
    return said


def timed(step, count):
    """Wall seconds and processor seconds of each step, and the last loss."""
    wall, processor, loss = [], [], 0.0
    for _ in range(count):
        begin, begin_processor = time.perf_counter(), time.process_time()
        loss = step(*random_tokens(arguments.batch, arguments.sequence))
        wall.append(round(time.perf_counter() - begin, 4))
        processor.append(round(time.process_time() - begin_processor, 4))
    return wall, processor, loss


def resident_of_ranks():
    resident = [peak_resident_bytes()]
    if RANKS > 1:
        resident = [None] * RANKS
        torch.distributed.all_gather_object(resident, peak_resident_bytes())
    return resident


def next_count():
    """How many steps rank 0 was told to run next; 0 at the end of its input."""
    line = sys.stdin.readline() if RANK == 0 else ""
    count = torch.tensor([int(line) if line.strip() else 0])
    if RANKS > 1:
        torch.distributed.broadcast(count, 0)
    return int(count.item())


def answer_lines(step, tokens):
    while count := next_count():
        seconds, processor, loss = timed(step, count)
        resident = resident_of_ranks()
        row = {"step_seconds": seconds, "step_processor_seconds": processor, "loss": round(loss, 4), "tokens": tokens,
               "peak_resident_bytes": max(resident)}
        if RANK == 0:
            print(json.dumps(row), flush=True)


def check_arguments():
    if (arguments.parallel == "none") != (RANKS == 1):
        sys.exit(f"--parallel {arguments.parallel} with {RANKS} rank(s): several ranks are started by torchrun")
    if arguments.mode == "compile" and (arguments.parallel == "fsdp2" or arguments.parallel.startswith("deepspeed")):
        sys.exit(f"--mode compile is not measured with --parallel {arguments.parallel}")


def main():
    check_arguments()
    torch.set_num_threads(arguments.threads)
    if RANKS > 1:
        # A benchmark lets its contenders wait for each other.
        torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(hours=24))
    torch.manual_seed(1)
    module = Gpt2(arguments.layers, arguments.width, arguments.heads, arguments.vocab, arguments.sequence)
    said = fit_into_limit(module)
    step = PARALLEL[arguments.parallel](module)
    torch.manual_seed(2 + RANK)  # the same weights, other tokens

    first, first_processor, loss = timed(step, 1)
    to_first = seconds_since_process_start()
    rest, rest_processor, _ = timed(step, max(arguments.steps, arguments.warmup + 1) - 1)
    seconds = first + rest
    tokens = RANKS * arguments.batch * arguments.sequence
    resident = resident_of_ranks()
    if RANK == 0:
        tuned = "jemalloc" in os.environ.get("LD_PRELOAD", "")
        row = {
            "peer": "deepspeed" if arguments.parallel.startswith("deepspeed") else "pytorch",
            "version": torch.__version__,
            "mode": arguments.mode,
            "parallel": arguments.parallel,
            "precision": arguments.precision,
            "allocator": "jemalloc, huge pages" if tuned else "default",
            "ranks": RANKS,
            "threads": arguments.threads,
            "layers": arguments.layers,
            "width": arguments.width,
            "batch": arguments.batch,
            "sequence": arguments.sequence,
            "tokens_per_second": round(tokens / statistics.median(seconds[arguments.warmup :]), 2),
            "step_seconds": seconds,
            # All threads of this rank; twice the wall time of two threads unless something else ran on the machine.
            "step_processor_seconds": first_processor + rest_processor,
            "first_loss": round(loss, 4),
            "peak_resident_bytes": resident if RANKS > 1 else resident[0],
            "seconds_to_end_of_step_1": round(to_first, 2),
            "limited": said,
        }
        print(json.dumps(row), flush=True)
    if arguments.interactive:
        answer_lines(step, tokens)
    if RANKS > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
