#!/usr/bin/env python3
"""Trains GPT-2 in plain PyTorch on the processor, as a careful user would, and prints one JSON line.

One mode per process, so that time to the first step and peak memory are those of the mode. bench/peers/run.sh calls it
for every mode. With --interactive the process stays: each line N on standard input runs N more steps and prints their
seconds, so that rounds of several programs can be interleaved.

Data are random tokens: speed does not depend on them. Two ranks: torchrun --standalone --nproc-per-node 2 gpt2_pytorch.py.
"""
import argparse
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
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="bf16: autocast, weights stay fp32")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--vocab", type=int, default=50257)
    parser.add_argument("--batch", type=int, default=4, help="sequences per rank and step")
    parser.add_argument("--sequence", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2, help="per rank")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2, help="first steps, left out of the median")
    parser.add_argument("--optimizer", choices=["fused", "foreach"], default="fused")
    parser.add_argument("--interactive", action="store_true")
    return parser.parse_args()


arguments = parse_arguments()

import torch  # noqa: E402  after the arguments, so that --help is quick
import torch.nn.functional as functional  # noqa: E402
from torch import nn  # noqa: E402


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


def make_step(module):
    parameters = list(module.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    kind = {"fused": True} if arguments.optimizer == "fused" else {"foreach": True}
    optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), eps=1e-8, **kind)
    forward = torch.compile(module) if arguments.mode == "compile" else module
    bf16 = arguments.precision == "bf16"

    def step():
        tokens = torch.randint(arguments.vocab, (arguments.batch, arguments.sequence + 1))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = forward(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def timed(step, count):
    """Wall seconds and processor seconds of each step, and the last loss."""
    wall, processor = [], []
    for _ in range(count):
        begin, begin_processor = time.perf_counter(), time.process_time()
        loss = step()
        wall.append(round(time.perf_counter() - begin, 4))
        processor.append(round(time.process_time() - begin_processor, 4))
    return wall, processor, loss


def main():
    torch.set_num_threads(arguments.threads)
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    torch.manual_seed(1)
    module = Gpt2(arguments.layers, arguments.width, arguments.heads, arguments.vocab, arguments.sequence)
    if ranks > 1:
        torch.distributed.init_process_group("gloo")
        module = nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True)
    step = make_step(module)

    first, first_processor, _ = timed(step, 1)
    to_first = seconds_since_process_start()
    rest, rest_processor, loss = timed(step, max(arguments.steps, arguments.warmup + 1) - 1)
    seconds = first + rest
    tokens = ranks * arguments.batch * arguments.sequence
    resident = [peak_resident_bytes()]
    if ranks > 1:
        resident = [None] * ranks
        torch.distributed.all_gather_object(resident, peak_resident_bytes())
    if rank == 0:
        tuned = "jemalloc" in os.environ.get("LD_PRELOAD", "")
        row = {
            "peer": "pytorch",
            "version": torch.__version__,
            "mode": arguments.mode,
            "precision": arguments.precision,
            "allocator": "jemalloc, huge pages" if tuned else "default",
            "ranks": ranks,
            "threads": arguments.threads,
            "layers": arguments.layers,
            "width": arguments.width,
            "batch": arguments.batch,
            "sequence": arguments.sequence,
            "tokens_per_second": round(tokens / statistics.median(seconds[arguments.warmup :]), 2),
            "step_seconds": seconds,
            # All threads of this rank; twice the wall time of two threads unless something else ran on the machine.
            "step_processor_seconds": first_processor + rest_processor,
            "loss": round(loss, 4),
            "peak_resident_bytes": resident if ranks > 1 else resident[0],
            "seconds_to_end_of_step_1": round(to_first, 2),
        }
        print(json.dumps(row), flush=True)
    if arguments.interactive and ranks == 1:
        for line in sys.stdin:
            seconds, processor, loss = timed(step, int(line))
            row = {"step_seconds": seconds, "step_processor_seconds": processor, "loss": round(loss, 4), "tokens": tokens,
                   "peak_resident_bytes": peak_resident_bytes()}
            print(json.dumps(row), flush=True)
    if ranks > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
