#!/usr/bin/env python3
"""Writes src/ridgeline/data/later_characters.cpp: characters that PCRE2 of Debian 12 (Unicode 14) does not know, or takes for
white space where Unicode does not, each with one of the same kind that it knows.

    python3 -m venv env && env/bin/pip install tokenizers       # a Python whose unicodedata is of version 14: 3.11
    env/bin/python tools/make_later_characters.py

What characters are in Unicode 16 is asked of Hugging Face tokenizers (0.23.3), whose patterns are to be matched.
"""
import pathlib
import unicodedata

from tokenizers import Regex, pre_tokenizers

TARGET = pathlib.Path(__file__).resolve().parent.parent / "src" / "ridgeline" / "data" / "later_characters.cpp"
CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co".split()
SCRIPTS = "Han Hiragana Katakana Hangul".split()  # of pattern_syntax.cpp
# Planes 4 to 13 are empty, 15 and 16 for private use.
TEXT = "".join(chr(c) for c in [*range(0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xE0200)])


def members(pattern):
    keep = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    return {ord(c) for piece, _ in keep.pre_tokenize_str(TEXT) for c in piece}


def main():
    assert unicodedata.unidata_version == "14.0.0"
    category, script = {}, {}
    for name in CATEGORIES:
        category.update(dict.fromkeys(members(rf"\p{{{name}}}"), name))
    for name in SCRIPTS:
        script.update(dict.fromkeys(members(rf"\p{{{name}}}"), name))

    def kind(code):
        return category.get(code, "Cn"), script.get(code, ""), len(chr(code).encode())

    known, later = {}, []
    for character in TEXT:
        code = ord(character)
        if category.get(code, "Cn") != unicodedata.category(character):
            later.append(code)
        elif code >= 0x80 and code != 0x180E:
            known.setdefault(kind(code), code)
    later = sorted({*later, 0x180E})
    rows = []
    for code in later:
        if kind(code) not in known:
            raise SystemExit(f"U+{code:04X}: no known character is {kind(code)}")
        if rows and rows[-1][1] == code - 1 and rows[-1][2] == known[kind(code)]:
            rows[-1][1] = code
        else:
            rows.append([code, code, known[kind(code)]])
    lines = "\n".join(f"    {{0x{first:04X}, 0x{last:04X}, 0x{proxy:04X}}}," for first, last, proxy in rows)
    TARGET.write_text(
        "// Made by tools/make_later_characters.py (Unicode 14 to 16). Do not edit.\n"
        "// clang-format off\n"
        '#include "ridgeline/data/later_characters.h"\n\n'
        "#include <algorithm>\n#include <iterator>\n\n"
        "namespace ridgeline::data {\n\n"
        f"const detail::LaterCharacters detail::kLaterCharacters[] = {{\n{lines}\n}};\n"
        "const size_t detail::kLaterCharactersCount = std::size(detail::kLaterCharacters);\n\n"
        "uint32_t known_character(uint32_t code) {\n"
        "  // Nothing below it is new.\n"
        f"  if (code < 0x{later[0]:04X}) return code;\n"
        "  const detail::LaterCharacters* const end = detail::kLaterCharacters + detail::kLaterCharactersCount;\n"
        "  const detail::LaterCharacters* const range = std::partition_point(\n"
        "      detail::kLaterCharacters, end, [&](const detail::LaterCharacters& r) { return r.last < code; });\n"
        "  return range != end && range->first <= code ? range->known : code;\n"
        "}\n\n"
        "}  // namespace ridgeline::data\n"
    )
    print(f"{len(later)} characters in {len(rows)} ranges")


if __name__ == "__main__":
    main()
