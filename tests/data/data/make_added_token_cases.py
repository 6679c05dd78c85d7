#!/usr/bin/env python3
"""Writes added_token_cases.json: the ids that Hugging Face tokenizers gives with added tokens, NFC and prefix spaces.

    python3 -m venv env && env/bin/pip install tokenizers tiktoken
    env/bin/python make_added_token_cases.py GPT_NEOX_TOKENIZER_JSON

Made with tokenizers 0.23.3. GPT_NEOX_TOKENIZER_JSON is GPT-NeoX-20B's published file; its merges are written to
../gpt_neox_tokenizer/merges.txt, from which the test composes the rest of it (checked here). No network is used.

A tokenizer of the result is a base ("gpt2", "gpt_neox", or "small": GPT-2's first 400 merges) and a JSON merge patch.
"as_text" holds the ids of each text when special tokens are text, "recognise" those that differ when they are not.
"""
import json
import pathlib
import random
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from make_tokenizer_cases import TEXTS
from merge_patch import merged
from tokenizers import Tokenizer

HERE = pathlib.Path(__file__).resolve().parent
NEOX = HERE.parent / "gpt_neox_tokenizer"

MORE = [
    "  two", "   three", "a  b   c    d     e", "x" + " " * 23 + "y" + " " * 24 + "z" + " " * 25, " " * 24, " " * 31, " " * 32 + "x",
    "def f(x):\n    if x:\n        return [\n            1,\n        ]\n\treturn\t\tx\n\t\t\tpass\n", "\t\t", "\t\t\tx\t\t\t\t", "\t" * 9 + "x",
    "  <|endoftext|>  <|endoftext|>", "a <|endoftext|>\n  b", "<|endoftext|>    <|unk|>x", "<|unk|>", "<|padding|>", "x <|im_start|>user\nhi<|im_end|>\n",
    "[STRIP]", " a [STRIP]  b ", "x\u3000\t[STRIP]\n\n[STRIP] y", "[LEFT]", "  [LEFT]  [LEFT]x", "\n [RIGHT] \n [RIGHT]", "[LEFT] [RIGHT] [STRIP]", "ab[LEFT",
    "  [RIGHT]    [LEFT]", "new new newer ew", "abcd abc ab abcde", "foo<tag> <tag>bar <tag>", "<tag>  <tag>", "caf\u00e9 cafe\u0301 CAFE\u0301", "e\u0301\u0327 e\u0327\u0301",
    "\u1112\u1161\u11ab\u1100\u116e\u11a8 \ud55c\uad6d \u1100\uac00 \uac00\u11a8", "\u0344 \u0958 \u2126 \u212b \u1e9b\u0323 \u0dd9\u0dcf\u0dca",
    "a\u0315\u0300\u05ae\u0300\u0062 a\u07fd\u0334 \u1dfa\u0334 e\u08ca\u0301", "\U0001d15e \U0001d1bc \U00011099\U000110ba", "\u0301 \u0301x  \u0301", "o\u0302\u0301 \u1ed1 o\u0301\u0302",
    "\u3099 \u304b\u3099 \u30ab\u3099 \uff76\uff9e", "\u0915\u093c \u09c7\u09be", "<|endoftext|>\u0301", "  \u0301  ", "mot\u0302\u0301  mo\u0302\u0301t", "cafe\u0301\u0301<tag>e\u0301",
    "\u00e9t\u00e9 e\u0301te\u0301", "word\u00a0\u00a0 \u00a0nbsp", "a b", " ", "  ", "", "   \n   ", "\n    x\n", "1   2", ".  .", "    ....    ", "_____    _____",
    "emoji  \U0001f600    \U0001f469\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f", "漢字    かな  カ\u3099", "\u4e0d \uf967 \ufa10", "|||PHONE_NUMBER|||  x|||EMAIL_ADDRESS|||",
]


def token(number, content, special=False, normalized=None, lstrip=False, rstrip=False):
    return {"id": number, "content": content, "single_word": False, "lstrip": lstrip, "rstrip": rstrip,
            "normalized": not special if normalized is None else normalized, "special": special}


def numbered(first, wanted):
    """Added tokens with the ids that the small vocabulary has for them, or else the next ones."""
    vocab, result = gpt2_parts(400)[0], []
    for content, options in wanted:
        if content not in vocab:
            vocab[content], first = first, first + 1
        result.append(token(vocab[content], content, **options))
    return result


def gpt2_parts(merges):
    vocab = json.loads((HERE.parent / "gpt2_tokenizer/vocab.json").read_text())
    lines = (HERE.parent / "gpt2_tokenizer/merges.txt").read_text().splitlines()[1:]
    if merges is None:
        return vocab, lines
    alphabet = [t for t, i in sorted(vocab.items(), key=lambda item: item[1]) if i < 256]
    vocab = {t: i for i, t in enumerate(alphabet)}
    for line in lines[:merges]:
        vocab.setdefault(line.replace(" ", ""), len(vocab))
    return vocab, lines[:merges]


def base(vocab, merges):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "post_processor": None, "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "vocab": vocab, "merges": merges}}


def neox_parts(published):
    """Merges of the published file; everything else follows from them."""
    merges = published["model"]["merges"]
    vocab = {"<|endoftext|>": 0, "<|unk|>": 1}
    gpt2, _ = gpt2_parts(0)
    needless = set(range(0xF5, 0x100)) | {0xC0, 0xC1}
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    byte_of = {chr(b): b for b in visible} | {chr(256 + n): b for n, b in enumerate(b for b in range(256) if b not in visible)}
    for character in gpt2:
        if byte_of[character] not in needless:
            vocab[character] = len(vocab)
    for merge in merges:
        vocab[merge.replace(" ", "", 1)] = len(vocab)
    assert vocab == published["model"]["vocab"]
    NEOX.mkdir(exist_ok=True)
    (NEOX / "merges.txt").write_text("#version: 0.2\n" + "".join(m + "\n" for m in merges))
    return vocab, merges


def tokenizers(published):
    neox = {key: published[key] for key in ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder")}
    spaces = [token(50257 + i, " " * (31 - i)) for i in range(30)] + [token(50287 + i, "\t" * (9 - i)) for i in range(8)]
    prefix = {"pre_tokenizer": {"add_prefix_space": True}}
    nfc = {"normalizer": {"type": "NFC"}}
    small = 656
    end = token(small, "<|endoftext|>", special=True)
    return [
        ("gpt_neox", "gpt_neox", neox),
        # As EleutherAI made OLMo's from GPT-NeoX's: names of removed data are special, the end of document is the last id.
        ("olmo", "gpt_neox", neox | {"added_tokens": [token(0, "|||IP_ADDRESS|||", normalized=False), token(1, "<|padding|>", special=True)] + [
            t for t in published["added_tokens"] if t["id"] > 1] + [
            token(50277, "|||EMAIL_ADDRESS|||", normalized=False), token(50278, "|||PHONE_NUMBER|||", normalized=False), token(50279, "<|endoftext|>", special=True)],
            "model": {"vocab": {"<|endoftext|>": None, "<|unk|>": None, "|||IP_ADDRESS|||": 0, "<|padding|>": 1}}}),
        ("codegen", "gpt2", {"added_tokens": [token(50256, "<|endoftext|>", special=True)] + spaces}),
        ("prefix_space", "small", prefix | {"added_tokens": [end, token(657, "<tag>")]}),
        ("strips", "small", {"added_tokens": [
            end, token(657, "[STRIP]", lstrip=True, rstrip=True), token(658, "[LEFT]", lstrip=True), token(659, "[RIGHT]", special=True, rstrip=True),
            token(660, "  "), token(661, "    ", normalized=False)]}),
        ("overlaps", "small", {"added_tokens": [
            end, *numbered(657, [("ab", {}), ("abcd", {}), ("newer", {}), ("ew", {}), ("<|im_start|>", {"special": True}), ("im", {}), ("<|", {}),
                                 ("text", {"normalized": False}), ("e", {"normalized": False}), ("of the", {"special": True})])]}),
        ("nfc", "small", nfc | {"added_tokens": [
            end, token(657, "caf\u00e9"), token(658, "e\u0301", normalized=False), token(659, "<tag>", normalized=False), token(660, "\uac00"), token(661, "o\u0302\u0301")]}),
        ("nfc_prefix_space", "small", nfc | prefix | {"added_tokens": [end, token(657, "   ")]}),
        ("literal_space", "small", {"model": {"vocab": {" ": 656, "\u6f22": 657, "\u0120\u6f22": 658}}, "added_tokens": [token(659, "<|endoftext|>", special=True)]}),
    ]


def random_texts():
    rng = random.Random(23)
    pieces = list("ae no.1\n\t'") + [
        "  ", "    ", "\t\t", "<|endoftext|>", "<|unk|>", "<tag>", "[STRIP]", "[LEFT]", "[RIGHT]", "abcd", "new", "caf", "\u00e9", "e\u0301", "\u0301", "\u0327", "\u0345", "\u07fd",
        "\u1100", "\u1161", "\u11a8", "\uac00", "\u3099", "\u304b", "\u6f22", "\U0001f600", "\u00a0", "\u3000", "o\u0302", "\U0001d15e", "\u0958", "|||PHONE_NUMBER|||"]
    return ["".join(rng.choice(pieces) for _ in range(rng.randint(1, 25))) for _ in range(150)]


def main():
    published = json.loads(pathlib.Path(sys.argv[1]).read_text())
    bases = {"gpt2": base(*gpt2_parts(None)), "small": base(*gpt2_parts(400)), "gpt_neox": base(*neox_parts(published))}
    assert len(bases["small"]["model"]["vocab"]) == 656
    texts = TEXTS + MORE + random_texts()
    rows = []
    for name, start, patch in tokenizers(published):
        document = merged(bases[start], patch)
        document["model"].setdefault("dropout", None)
        for added in document["added_tokens"]:
            assert document["model"]["vocab"].get(added["content"], added["id"]) == added["id"], added
        tokenizer = Tokenizer.from_str(json.dumps(document))
        recognised = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        if name == "gpt_neox":
            real = Tokenizer.from_file(sys.argv[1])
            assert recognised == [real.encode(text, add_special_tokens=False).ids for text in texts]
        tokenizer.encode_special_tokens = True
        as_text = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        rows.append({"name": name, "base": start, "patch": patch, "as_text": as_text,
                     "recognise": {i: ids for i, ids in enumerate(recognised) if ids != as_text[i]}})
    rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    (HERE / "added_token_cases.json").write_text(f'{{"texts":{json.dumps(texts, separators=(",", ":"))},\n"tokenizers":[\n{rows}\n]}}\n')


if __name__ == "__main__":
    main()
