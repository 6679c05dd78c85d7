#!/usr/bin/env python3
"""Writes tokenizer_cases.json, llama3_style/tokenizer.json and trainer_case.json: what the reference implementations say.

    python3 -m venv env && env/bin/pip install tiktoken tokenizers
    env/bin/python make_tokenizer_cases.py

Made with tiktoken 0.14.0 and tokenizers 0.23.3, from GPT-2's files in ../gpt2_tokenizer. No network is used.
"""
import json
import pathlib
import random

import tiktoken
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).resolve().parent
GPT2 = HERE.parent / "gpt2_tokenizer"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")

TEXTS = [
    "The quick brown fox jumps over the lazy dog, doesn't it? I'll say they've won 3-0; we'd hoped she's there, I'm sure.",
    "SHE'S LOUD, DON'T YOU THINK? I'LL GO. O'Reilly's 'tis 'S 's '' 'r 'v 'l 'd'd'd !'s ('re) 's",
    "Straße, Übergröße und süße Äpfel: „Zitat“ – 1.234,56 €.",
    "Où est l’été ? À la plage, où l'on dîne tôt ; c'est ça : « œuvre »…",
    "El niño comió piñas en Ávila. ¿Cuándo? ¡Mañana!",
    "Pchnąć w tę łódź jeża lub ośm skrzyń fig. Zażółć gęślą jaźń.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Їжак і ґанок.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Τι κάνεις;",
    "דג סקרן שט בים מאוכזב ולפתע מצא חברה. שָׁלוֹם",
    "نص حكيم له سر قاطع وذو شأن عظيم ٠١٢٣٤٥٦٧٨٩ السَّلَامُ",
    "قرآن، فارسی می‌نویسیم و ۱۲۳ عدد است.",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश। १२३ नमस्ते",
    "আমার সোনার বাংলা, আমি তোমায় ভালোবাসি। ৪৫৬",
    "தமிழ் மொழி இனிமையானது. తెలుగు భాష. ಕನ್ನಡ. മലയാളം.",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน ๑๒๓",
    "我能吞下玻璃而不伤身体。2024年，北京・上海「引用」《书》。",
    "私はガラスを食べられます。それは私を傷つけません。カタカナ、ひらがな、ﾊﾝｶｸ！",
    "나는 유리를 먹을 수 있어요. 그래도 아프지 않아요. 한국어 띄어쓰기",
    "Tôi có thể ăn thủy tinh mà không hại gì. Tiếng Việt: ếừữặ.",
    "Ek kan glas eet, maar dit doen my nie skade nie. Dit is 'n toets: 'n hond en 'n kat se môre.",
    "Þórður æfði; Ísland. Jeg kan spise glas, det gør ikke ondt på mig. Åäö.",
    "Ben cam yiyebilirim, bana zararı dokunmaz. İstanbul'da ığdır.",
    "მინას ვჭამ და არა მტკივა. Կրնամ ապակի ուտել։ ᚠᛇᚻ᛫ᛒᛦᚦ ᏣᎳᎩ ሰማይ አይታረስ",
    "𐌼𐌰𐌲 𐌲𐌻𐌴𐍃 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛 Ⅷ ½ ² ³ ₄ ①②③ ㊿",
    "😀😃 👩‍👩‍👧‍👦 🇿🇦🇩🇪 👍🏽 ❤️ ☃ ⌘ ∑∏√∞ ≤≥≠ → ← ½",
    "e\u0301 n\u0303 zwj\u200djoin\u200bzero nb\u00a0sp\u202fthin\u2009em\u2003ideo\u3000end bom\ufeff",
    "tabs\tand\t\tmore \t mixed \t\n lines\n\n\nthree\r\ncrlf\r\n\r\nend \r lone\rcr",
    "   leading", "trailing   ", "trailing newline\n", "two\n\n", " ", "  ", "\n", "\n ", " \n", "\t", "a  b", "a\n b",
    "a \nb", "a\u00a0b", "a \u00a0b", "a\u00a0\u00a0b", "a\u2028b\u2029c\u0085d", "\u180e mongolian \u180e",
    "controls \x00\x01\x1c\x1d\x1e\x1f\x7f \x0b\x0c end",
    "int main(int argc, char** argv) {\n    if (argc < 2) {\n\treturn -1;  // why?\n    }\n    return 0x1F + 1e-9;\n}\n",
    "def f(x):\n    \"\"\"Doc.\"\"\"\n    return {k: v**2 for k, v in x.items()}\n\n\nprint(f({'a': 1}))",
    "https://example.org/a_b/c-d?e=f&g=%20h#i user@example.com 192.168.0.1 1,000,000 2024-02-29T23:59:60Z",
    "1234567890 12 123 1234 12345 ١٢٣٤ x1y22z333 4.5.6 7/8",
    "hello <|endoftext|>", "<|endoftext|>", "a<|endoftext|><|endoftext|> b", "<|endoftext|", "<|endoftext|>\n\n x",
    "long s: 'ſ 'ſa ſ", "’s “quoted” ’re ‘x’", "a'b'c'd't", "'''", "'", " '", "x'", "''s",
    "......!!!???---***", "$100 (€200) [£300] {¥400} #tag @name ~/path\\n", "!!!\n\n!!\r\n!",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "的" * 30 + "一" * 30, "-" * 150, " " * 100 + "x", "ab" * 100, "=" * 64 + "-" * 65, "A" * 63 + " " + "A" * 64 + " " + "A" * 65,
    "SolidGoldMagikarp rawdownloadcloneembedreportprint antidisestablishmentarianism",
    "\U00013000\U0001F000\U000E0001\uE000\uFFFD\uFFFF unassigned \u0378 \U00032000",
]


def random_texts():
    rng = random.Random(16)
    alphabet = list("aAzZ09 '  \n\t.,!é漢ß٣\u00a0") + ["'s", "'LL", "\r\n", "😀", "\u0301"]
    return ["".join(rng.choice(alphabet) for _ in range(rng.randint(1, 60))) for _ in range(60)]


def gpt2_encoding():
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    byte_of = {chr(b): b for b in visible}
    byte_of |= {chr(256 + n): b for n, b in enumerate(b for b in range(256) if b not in visible)}
    vocab = json.loads((GPT2 / "vocab.json").read_text())
    ranks = {bytes(byte_of[c] for c in k): v for k, v in vocab.items() if k != "<|endoftext|>"}
    pattern = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
    return tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 50256})


def main():
    texts = TEXTS + random_texts()
    encoding = gpt2_encoding()
    huggingface = Tokenizer(models.BPE.from_file(str(GPT2 / "vocab.json"), str(GPT2 / "merges.txt")))
    huggingface.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)

    llama = Tokenizer(models.BPE(ignore_merges=True))
    llama.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    llama.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    llama.train_from_iterator(TEXTS, trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=alphabet, special_tokens=[], show_progress=False))
    llama.add_special_tokens([AddedToken(t, normalized=False) for t in ("<|begin_of_text|>", "<|end_of_text|>")])
    (HERE / "llama3_style").mkdir(exist_ok=True)
    llama.save(str(HERE / "llama3_style" / "tokenizer.json"))

    cases = []
    for text in texts:
        ordinary = encoding.encode_ordinary(text)
        assert ordinary == huggingface.encode(text).ids, repr(text)
        cases.append({"text": text, "gpt2": ordinary,
                      "gpt2_specials": encoding.encode(text, allowed_special="all"),
                      "llama3_specials": llama.encode(text, add_special_tokens=False).ids})
    write(HERE / "tokenizer_cases.json", cases)

    trainer = Tokenizer(models.BPE())
    trainer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=600, min_frequency=2, initial_alphabet=alphabet, special_tokens=[], show_progress=False))
    merges = json.loads(trainer.to_str())["model"]["merges"]
    write(HERE / "trainer_case.json", [m if isinstance(m, str) else " ".join(m) for m in merges])


def write(path, rows):
    path.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


if __name__ == "__main__":
    main()
