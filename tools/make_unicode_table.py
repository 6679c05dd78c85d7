#!/usr/bin/env python3
"""Writes src/ridgeline/data/unicode_table.cpp from the pinned Unicode 16 ranges in tools/unicode16_classes.json.

    python3 tools/make_unicode_table.py

The classes (letters L, numbers N, white space S) decide where words are cut, and so token ids. They are pinned, not taken
from a library at run time, because libraries carry different Unicode versions.
"""
import json
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCE = ROOT / "tools" / "unicode16_classes.json"
TARGET = ROOT / "src" / "ridgeline" / "data" / "unicode_table.cpp"
CODES = {"L": 1, "N": 2, "S": 3}
BLOCK = 256  # code points per block: 64 bytes at two bits each
CODE_POINTS = 0x110000


def main() -> None:
    ranges = json.loads(SOURCE.read_text())
    classes = bytearray(CODE_POINTS)
    for name, code in CODES.items():
        for first, last in ranges[name]:
            classes[first : last + 1] = bytes([code]) * (last - first + 1)

    blocks: dict[bytes, int] = {}
    stage1 = []
    for start in range(0, CODE_POINTS, BLOCK):
        packed = bytes(
            classes[i] | classes[i + 1] << 2 | classes[i + 2] << 4 | classes[i + 3] << 6
            for i in range(start, start + BLOCK, 4)
        )
        stage1.append(blocks.setdefault(packed, len(blocks)))
    assert len(blocks) <= 256, "stage 1 holds one byte per block"

    def rows(values, per_row=32):
        return ",\n".join(
            "    " + ",".join(str(v) for v in values[i : i + per_row]) for i in range(0, len(values), per_row)
        )

    blob = b"".join(blocks)
    TARGET.write_text(
        "// Made by tools/make_unicode_table.py from tools/unicode16_classes.json (Unicode 16). Do not edit.\n"
        "// clang-format off\n"
        '#include "ridgeline/data/unicode.h"\n\n'
        "namespace ridgeline::data::detail {\n\n"
        f"const uint8_t kClassBlock[{len(stage1)}] = {{\n{rows(stage1)}}};\n\n"
        f"const uint8_t kClassBits[{len(blob)}] = {{\n{rows(list(blob))}}};\n\n"
        "}  // namespace ridgeline::data::detail\n"
    )
    print(f"{TARGET.relative_to(ROOT)}: {len(blocks)} blocks, {len(stage1) + len(blob)} bytes")


if __name__ == "__main__":
    main()
