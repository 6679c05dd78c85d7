#!/usr/bin/env python3
"""Makes splits.json: how many documents train, validate and test by both rules of data.split, in Python's own arithmetic.

Each row: split, documents, [train, valid, test] cumulative, [train, valid, test] per share. The rules are stated in
src/ridgeline/data/split.h.

    python3 tests/data/data/make_splits.py > tests/data/data/splits.json
"""
import json

SPLITS = ["90,8,2", "90,5,5", "98,2,0", "969,30,1", "99,1,0", "1", "0,1", "0,0,1", "1,0,1", "0.001,0.999,0", "0.999,0.0005,0.0005",
          "1,0.001,0.001", "1,1,1", "33,33,34", "50,25,25", "0.1,0.2,0.7", "1e-9,1,1e-9", "7/2/1"]
COUNTS = [*range(1, 41), 50, 66, 67, 68, 99, 100, 101, 250, 333, 500, 999, 1000, 1001, 12345, 99999, 1000003, 2147483647]


def shares(text):
    weights = [float(number) for number in text.replace("/", ",").split(",")]
    weights += [0.0] * (3 - len(weights))
    total = 0.0
    for weight in weights:
        total += weight
    return [weight / total for weight in weights]


def parts(bounds, documents):
    """Documents of each part; what a bound below the one before it leaves is empty."""
    sizes = []
    for first, last in zip(bounds, bounds[1:]):
        first = min(max(first, 0), documents)
        sizes.append(max(min(last, documents) - first, 0))
    return sizes


def cumulative(share, documents):
    bounds, end = [0], 0.0
    for one in share:
        end += one
        bounds.append(int(round(end * float(documents))))
    return parts(bounds, documents)


def per_share(share, documents):
    bounds = [0]
    for one in share:
        bounds.append(bounds[-1] + int(round(one * float(documents))))
    surplus = bounds[-1] - documents
    return parts([0] + [bound - surplus for bound in bounds[1:]], documents)


rows = [[text, count, cumulative(shares(text), count), per_share(shares(text), count)] for text in SPLITS for count in COUNTS]
print("[" + ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows) + "]")
