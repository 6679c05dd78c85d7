#!/usr/bin/env python3
"""Writes families.json and *.model: small tokenizers with what those of each family ask for, and the ids they give.

    python3 -m venv env && env/bin/pip install tokenizers sentencepiece
    env/bin/python make_tokenizers.py

Made with tokenizers 0.23.3 and sentencepiece 0.2.3. Vocabularies are learned from the texts below (written for these tests;
the pangrams are traditional), so that no published file is needed; normalizers, patterns and options are those of the
published files. A tokenizer of families.json is a base ("bytes" or "marks", a whole tokenizer.json) and a JSON merge patch
(RFC 7386). "as_text" holds the ids of each text when special tokens are text, "recognise" those that differ when they are
not, "decoded" the texts that come back otherwise than they were (of "recognise"). "refused" are tokenizers that name a feature.
"models" are SentencePiece's.
"""
import json
import pathlib
import random
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import sentencepiece
from merge_patch import merged
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).resolve().parent

PROSE = [
    "The quick brown fox jumps over the lazy dog. It's 1234 o'clock, and we'll see the dogs that they've seen, I'm sure!",
    "Falsches Üben von Xylophonmusik quält jeden größeren Zwerg. Voix ambiguë d'un cœur qui préfère les jattes de kiwis.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "いろはにほへと ちりぬるを。漢字と仮名が混じる文。天地玄黃 宇宙洪荒。키스의 고유조건은 입술끼리 만나야 하고",
    "صِف خَلقَ خَودِ كَمِثلِ الشَمسِ  דג סקרן שט בים  ऋषियों को सताने वाले  กขฃคฅฆง",
    "def f(x):\n    if x >= 10:\n        return [x**2 for i in range(100)]\n\treturn None  # done\r\n",
    "the theme of the other weather there; this is that, thus these those. in on an and hand land and the lands",
]
TEXTS = [
    "", " ", "  ", "a", " a", "a ", "  a  b   c", "Hello, World!", "I'll we'VE they'Re it'S 'ſa", "1 12 123 1234 12345", "x1y22z333", "\n", "\r\n\r\n x", "a\n\n  b\t\tc",
    "the dogs' theme", "don't... stop!!! (now) [x] {y}", "don't_stop __init__", "größer straße ÜBEN", "naïve café cafe\u0301", "слово ещё раз 漢字 かな カナ 한국어",
    "صِف खلق ऋषि ไทย", "😀👩‍👩‍👧 ❤️", "a\u00a0b\u3000c\u2003d", "\u180ea\u200bb", "\U00031350\U0002ebf0漢", "\ua7dab \U0001e4d0\U00010d41 \U00010d51", "①Ⅷ²½٣", "Ａ１ ﬁ ㍿ ｶﾞ",
    "▁a ▁▁b▁", "<0x41> <unk> <s>", "<|endoftext|>x <|endoftext|> y", "<s>a</s>  b", "[TAG] a[TAG]b _[TAG] [TAG]", "  [WORD]x [WORD] y", "HTTPServerError parseXMLFile IDs", "https://example.org/a?b=c&d=1",
    "    indent\n        more\n", "tab\t\ttab", "end   ", "   ", "\t \n ", "mixed漢字and かな123４５", "ﷺ €5 £6 +7-8=9", "\u0301\u0301x e\u0327\u0301", "\x00\x01\x7f", "the the the the", "¿Qué? ¡Sí!",
    "龥龦ァー々", "a\u2028b\u2029c\u0085d", "Ǆ ǅ ǆ ᾈ ʰa",
]

GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CL100K = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
O200K = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
DEEPSEEK = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BLOOM = " ?[^(\\s|[.,!?…。，、।۔،])]+"


def split(regex, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: regex}, "behavior": behavior, "invert": invert}


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


def added(number, content, special=True, **options):
    token = {"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": not special, "special": special}
    return token | options


def train(form):
    bytes_ = form == "bytes"
    tokenizer = Tokenizer(models.BPE(unk_token=None if bytes_ else "<unk>", fuse_unk=not bytes_, byte_fallback=not bytes_))
    if bytes_:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=256 + 150, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        names = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=259 + 340, special_tokens=names, show_progress=False, limit_alphabet=190)
    tokenizer.train_from_iterator(PROSE * 3, trainer)
    document = json.loads(tokenizer.to_str())
    if bytes_:
        document["added_tokens"] = [added(len(document["model"]["vocab"]), "<|endoftext|>")]
        document["pre_tokenizer"] = GPT2
        return document
    document["added_tokens"] = [added(i, name, normalized=False) for i, name in enumerate(["<unk>", "<s>", "</s>"])]
    document["pre_tokenizer"] = None
    # The trainer leaves runs of spaces out, which published files have.
    model, number = document["model"], len(document["model"]["vocab"])
    for size in (2, 4, 8):
        model["vocab"]["▁" * size] = number
        model["merges"].append(["▁" * (size // 2)] * 2)
        number += 1
    document["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    return document


def families(bases):
    end = len(bases["bytes"]["model"]["vocab"])
    last = len(bases["marks"]["model"]["vocab"])
    nfc = {"normalizer": {"type": "NFC"}}
    bos = lambda name, number: {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                                "special_tokens": {name: {"id": name, "ids": [number], "tokens": [name]}}}
    of = lambda *parts, **more: {"pre_tokenizer": sequence(*parts)} | more
    metaspace = lambda scheme, cut: {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": cut}
    tag = [added(end + 1, "[TAG]", special=False, single_word=True), added(end + 2, "[WORD]", special=False, single_word=True, lstrip=True, normalized=False)]
    marks = bases["marks"]["added_tokens"]
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    keep = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]}
    names = ["<|im_start|>", "<|im_end|>"]
    return [
        ("gpt2", "bytes", {}),
        ("gptj", "bytes", {"added_tokens": [added(end, "<|endoftext|>")] + [added(end + i, f"<|extratoken_{i}|>", special=False) for i in range(1, 4)]}),
        ("gpt_neox", "bytes", nfc | {"added_tokens": bases["bytes"]["added_tokens"] + [added(end + i, " " * (25 - i), special=False) for i in range(1, 24)]}),
        ("codegen", "bytes", {"added_tokens": bases["bytes"]["added_tokens"] + [added(end + i, " " * (32 - i), special=False) for i in range(1, 31)] + [
            added(end + 31, "\t\t", special=False)]}),
        ("llama3", "bytes", of(split(LLAMA3), BYTES, model={"ignore_merges": True}, post_processor=bos("<|endoftext|>", end))),
        ("dolma2", "bytes", of(split(LLAMA3, "Removed", invert=True), BYTES)),
        ("qwen2", "bytes", of(split(QWEN2), BYTES, added_tokens=bases["bytes"]["added_tokens"] + [added(end + 1 + i, n) for i, n in enumerate(names)]) | nfc),
        ("starcoder", "bytes", of({"type": "Digits", "individual_digits": True}, GPT2)),
        ("digits", "bytes", of({"type": "Digits", "individual_digits": False}, GPT2)),
        ("olmo2", "bytes", of(split(CL100K), BYTES)),
        ("gpt4o", "bytes", of(split(O200K), BYTES)),
        ("deepseek", "bytes", of(split(r"\p{N}{1,3}"), split("[一-龥\u3040-ゟ゠-ヿ]+"), split(DEEPSEEK), BYTES)),
        ("bloom", "bytes", of(split(BLOOM), BYTES)),
        ("prefix_space", "bytes", of(split(LLAMA3), BYTES | {"add_prefix_space": True})),
        ("nfkc", "bytes", of(split(LLAMA3), BYTES) | {"normalizer": {"type": "NFKC"}}),
        ("behaviors", "bytes", of(split(r"\p{P}", "MergedWithPrevious"), split(" ", "MergedWithNext", kind="String"), split(r"[a-m]*", "Contiguous", invert=True), BYTES)),
        ("added", "bytes", {"added_tokens": bases["bytes"]["added_tokens"] + tag}),
        ("llama2", "marks", {"post_processor": bos("<s>", 1)}),
        ("mistral", "marks", {"normalizer": None, "pre_tokenizer": metaspace("first", False)}),
        ("gemma", "marks", {"normalizer": space, "pre_tokenizer": split(" ", "MergedWithPrevious", kind="String"), "decoder": keep}),
        ("marked", "marks", {"normalizer": {"type": "NFC"}, "pre_tokenizer": metaspace("always", True), "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}]},
                             "added_tokens": marks + [added(last, "[TAG]", special=False, rstrip=True), added(last + 1, "the", special=False, normalized=True)]}),
        ("unknown", "marks", {"model": {"byte_fallback": False}, "added_tokens": marks + [added(last, "[TAG]", special=False, normalized=True)]}),
        ("unknowns", "marks", {"model": {"byte_fallback": False, "fuse_unk": False, "ignore_merges": True}}),
    ]


def refused():
    return [
        ("T5, XLM-R (unigram)", "bytes", {"model": {"type": "Unigram"}}, "model 'Unigram'"),
        ("BERT (WordPiece)", "bytes", {"model": {"type": "WordPiece"}}, "model 'WordPiece'"),
        ("Falcon", "bytes", {"pre_tokenizer": sequence({"type": "Punctuation", "behavior": "Contiguous"}, GPT2, {"type": "Digits", "individual_digits": False})}, "pre_tokenizer 'Punctuation'"),
        ("a cut behind ByteLevel", "bytes", {"pre_tokenizer": sequence(GPT2, {"type": "Digits", "individual_digits": False})}, "a pre_tokenizer after ByteLevel"),
        ("CLIP", "bytes", {"model": {"end_of_word_suffix": "</w>"}}, "end_of_word_suffix"),
        ("a pattern with \\w", "bytes", {"pre_tokenizer": sequence(split(r"\w+|[^\w\s]+"), BYTES)}, "because of '\\w'"),
        ("a pattern with \\b", "bytes", {"pre_tokenizer": sequence(split(r"\bx"), BYTES)}, "because of '\\b'"),
        ("a pattern with {n,m}+", "bytes", {"pre_tokenizer": sequence(split(r"\p{N}{1,3}+"), BYTES)}, "a '+' behind '{…}'"),
        ("a pattern with (?m:", "bytes", {"pre_tokenizer": sequence(split(r"(?m:.)"), BYTES)}, "'(?m'"),
        ("a Split that removes", "bytes", {"pre_tokenizer": sequence(split(r"\s", "Removed"), BYTES)}, "behavior 'Removed'"),
        ("a Split that removes what it does not match", "bytes", {"pre_tokenizer": sequence(split(CL100K, "Removed", invert=True), BYTES)}, "behavior 'Removed'"),
        ("SmolLM: no tokens for some control characters", "bytes", {"model": {"vocab": {"\u0104": None}}}, "no token for the single byte 0x04"),
        ("Yi, its `tokenizer.json`", "marks", {"decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}, {"type": "ByteFallback"}, {"type": "Fuse"}]}},
         "decoder 'Strip' before 'Fuse'"),
        ("NFKD", "bytes", {"normalizer": {"type": "NFKD"}}, "normalizer 'NFKD'"),
        ("Precompiled", "marks", {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}, "pre_tokenizer": {"type": "Metaspace", "replacement": "▁"}}, "normalizer 'Precompiled'"),
        ("dropout", "bytes", {"model": {"dropout": 0.1}}, "dropout"),
        ("a vocabulary without unk_token", "marks", {"model": {"byte_fallback": False, "unk_token": None}}, "no unk_token"),
        ("WordPiece's decoder", "marks", {"decoder": {"type": "WordPiece"}}, "decoder 'WordPiece'"),
    ]


def random_texts():
    rng = random.Random(41)
    parts = "the|a|dog|ing|S|É|ß|漢|か|한|ع|ह|े|ж|1|23|٣|².|.|,|'|'s|'LL|!?|_|(|  | | | |\n|\r\n|\t|\u00a0|😀|▁|\u0301|e\u0301|ſ|ǅ|<s>|[TAG]|<|endoftext|>|\u3000|ａ|㍿|\U00031350|\u180e|\x00".split("|") + ["<|endoftext|>", "|"]
    return ["".join(rng.choice(parts) for _ in range(rng.randint(2, 22))) for _ in range(40)]


def sentencepiece_models(texts):
    common = {"vocab_size": 420, "model_type": "bpe", "character_coverage": 0.98, "bos_id": 1, "eos_id": 2, "minloglevel": 2, "input_sentence_size": 0}
    rules = "".join("\t".join([" ".join(f"{ord(c):X}" for c in a), " ".join(f"{ord(c):X}" for c in b)]) + "\n" for a, b in [
        ("Ａ", "A"), ("１", "1"), ("ﬁ", "fi"), ("㍿", "株式会社"), ("\u3000", " "), ("\u00a0", " "), ("\t", " "), ("\n", " "), ("e\u0301", "é"), ("ｶ", "カ"), ("ｶﾞ", "ガ"), ("\u200b", "")])
    llama = {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True, "split_digits": True}
    wanted = {
        "llama": llama | {"vocab_size": 680},
        "rules": {"normalization_rule_tsv": "RULES"},
        "symbols": llama | {"vocab_size": 680, "add_dummy_prefix": False, "user_defined_symbols": ["[TAG]", "the", "theme", "▁dog", "ß", "  "], "remove_extra_whitespaces": False},
        "symbols_and_rules": {"normalization_rule_tsv": "RULES", "user_defined_symbols": ["[TAG]", "Ａ", "e\u0301"], "unk_surface": "?"},
    }
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "text").write_text("\n".join(line for text in PROSE for line in text.splitlines()) + "\n")
        (folder / "RULES").write_text(rules)
        for name, options in wanted.items():
            options = common | options
            if "normalization_rule_tsv" in options:
                options["normalization_rule_tsv"] = str(folder / "RULES")
            sentencepiece.SentencePieceTrainer.train(input=str(folder / "text"), model_prefix=str(folder / name), hard_vocab_limit=False, **options)
            data = (folder / f"{name}.model").read_bytes()
            (HERE / f"{name}.model").write_bytes(without_paths(data, str(folder).encode()))
            library = sentencepiece.SentencePieceProcessor(model_file=str(HERE / f"{name}.model"))
            ids = [library.encode(text) for text in texts]
            rows.append({"name": name, "vocab": library.vocab_size(), "as_text": ids, "decoded": {i: library.decode(row) for i, row in enumerate(ids) if library.decode(row) != texts[i]}})
        sentencepiece.SentencePieceTrainer.train(input=str(folder / "text"), model_prefix=str(folder / "unigram"), vocab_size=400, model_type="unigram", character_coverage=0.98,
                                                 normalization_rule_name="identity", minloglevel=2, hard_vocab_limit=False)
        (HERE / "unigram.model").write_bytes(without_paths((folder / "unigram.model").read_bytes(), str(folder).encode()))
    return rows


def without_paths(data, folder):
    """The trainer notes where its input lay: the same bytes with another name of the same length."""
    return data.replace(folder, b"/" + b"x" * (len(folder) - 1))


def main():
    bases = {"bytes": train("bytes"), "marks": train("marks")}
    texts = TEXTS + random_texts()
    rows = []
    for name, start, patch in families(bases):
        document = merged(bases[start], patch)
        tokenizer = Tokenizer.from_str(json.dumps(document))
        recognised = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        tokenizer.encode_special_tokens = True
        as_text = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        decoded = [tokenizer.decode(ids, skip_special_tokens=False) for ids in recognised]
        rows.append({"name": name, "base": start, "patch": patch, "as_text": as_text,
                     "recognise": {i: ids for i, ids in enumerate(recognised) if ids != as_text[i]},
                     "decoded": {i: text for i, text in enumerate(decoded) if text != texts[i]}})
    no = [{"name": name, "base": start, "patch": patch, "feature": feature} for name, start, patch, feature in refused()]
    dump = lambda value: json.dumps(value, separators=(",", ":"))
    lines = lambda values: ",\n".join(dump(value) for value in values)
    (HERE / "families.json").write_text(f'{{"texts":{dump(texts)},\n"bases":{dump(bases)},\n"tokenizers":[\n{lines(rows)}\n],\n"refused":[\n{lines(no)}\n],\n'
                                        f'"models":[\n{lines(sentencepiece_models(texts))}\n]}}\n')


if __name__ == "__main__":
    main()
