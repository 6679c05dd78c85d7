# What a migration reads of a training script: the models that it loads, and how it wraps the last one.
import argparse

from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("--max_len", type=int)
block = dict(max_length=128, truncation=True)
model = AutoModelForCausalLM.from_pretrained("models/gpt-j-6b")
model = AutoModelForCausalLM.from_pretrained("models/gpt2-xl")
model = FSDP(model)
