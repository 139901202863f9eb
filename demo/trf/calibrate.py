#!/usr/bin/env python3
"""Looks for the calibration constants of a run. The demo gives it a file that has none: it fails, and says why."""

import argparse
import sys

parser = argparse.ArgumentParser()
parser.add_argument("--run", required=True)
parser.add_argument("--constants", required=True)
parser.add_argument("--output", required=True)
args = parser.parse_args()

with open(args.constants, encoding="utf-8") as stream:
    found = [line for line in stream if line.startswith(f"run {args.run} ")]
print(f"looked for run {args.run} in {args.constants}")
if not found:
    sys.stderr.write(f"ERROR: no calibration constants for run {args.run} in {args.constants}\n")
    sys.exit(3)
with open(args.output, "w", encoding="utf-8") as stream:
    stream.writelines(found)
