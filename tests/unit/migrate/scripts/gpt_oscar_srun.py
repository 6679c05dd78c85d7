# What a migration reads of a training script: the model that it loads, and the length of its blocks.
import argparse

from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser()
parser.add_argument("--max_len", type=int)
block = dict(max_length=128, truncation=True)
tokenizer = AutoTokenizer.from_pretrained("tokenizers/gpt2-xl")
model = AutoModelForCausalLM.from_pretrained("models/gpt2-xl")
