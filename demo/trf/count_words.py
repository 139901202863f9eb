#!/usr/bin/env python3
"""Counts the words of all inputs, and how many words have which length."""

import argparse
from collections import Counter

parser = argparse.ArgumentParser()
parser.add_argument("--counts", required=True)
parser.add_argument("--lengths", required=True)
parser.add_argument("inputs", nargs="+")
args = parser.parse_args()

counts = Counter()
for name in args.inputs:
    with open(name, encoding="utf-8") as stream:
        for line in stream:
            counts.update(line.split())
lengths = Counter()
for word, number in counts.items():
    lengths[len(word)] += number
with open(args.counts, "w", encoding="utf-8") as stream:
    for word, number in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        stream.write(f"{word}\t{number}\n")
with open(args.lengths, "w", encoding="utf-8") as stream:
    for length, number in sorted(lengths.items()):
        stream.write(f"{length}\t{number}\n")
print(f"{sum(counts.values())} words, {len(counts)} different ones, in {len(args.inputs)} files")
