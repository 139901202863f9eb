"""Measures the pilot end to end against a sandbox server: prints ratios to targets, reference pilot and floor.

    python benchmarks/run.py [--quick] [--only SECTION ...] [--runs N] [--python PATH] [--json FILE]

Each figure is the median of its runs, with the target of the design, the reference pilot's figure (Pilot 3 on the same
kind of machine) and the floor, which is measured here where that is possible. Nothing is asserted: a figure above its
target is marked OVER. Times come from the server's request times, stamps of the payloads and the exits of processes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Callable, Dict

import crowds
import endings
import files
import pipeline
import small_jobs
import steady
import views
import workdir
from figures import Table


def main() -> int:
    """Run the sections; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer runs, 20 s of idling, 256 MiB")
    parser.add_argument("--only", nargs="+", metavar="SECTION", help="names of the sections")
    parser.add_argument("--runs", type=int, default=0, help="runs of the short sections (default 15, quick 5)")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the pilots (default: this one)")
    parser.add_argument("--dir", help="where the large files lie (default: in memory, if there is room)")
    parser.add_argument("--json", type=Path, help="write all figures to this file, too")
    options = parser.parse_args()
    runs = options.runs or (5 if options.quick else 15)
    few, idle, size = (3, 20.0, 256) if options.quick else (5, 75.0, 1024)
    python, table = options.python, Table()
    sections: Dict[str, Callable[[], None]] = {
        "true": lambda: small_jobs.measure(table, python, runs),
        "https": lambda: small_jobs.measure_https(table, python, runs),
        "next": lambda: endings.measure_next_job(table, python, runs),
        "pipeline": lambda: pipeline.measure(table, python, few + 1, size // 2, options.dir),
        "signal": lambda: endings.measure_signal(table, python, few),
        "kill": lambda: endings.measure_kill(table, python, few),
        "small": lambda: files.measure_small(table, python, few),
        "large": lambda: files.measure_large(table, python, few, size, options.dir),
        "copies": lambda: files.measure_copies(table, few, size),
        "idle": lambda: steady.measure(table, python, idle),
        "crowd": lambda: steady.measure_crowd(table, python, 1000, 20),
        "watching": lambda: crowds.measure_watching(table, python, idle),
        "ends": lambda: crowds.measure_ends(table, python, few),
        "views": lambda: views.measure(table, few),
        "workdir": lambda: workdir.measure(table, 20_000 if options.quick else 100_000),
        "many": lambda: endings.measure_many(table, python, 50 if options.quick else 200),
    }
    unknown = set(options.only or ()) - set(sections)
    if unknown:
        parser.error(f"unknown section {', '.join(sorted(unknown))}; there are {', '.join(sections)}")
    print(f"{platform.node()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {_load()}")
    table.head()
    for name, section in sections.items():
        if not options.only or name in options.only:
            section()
    over = table.over()
    print(
        f"\nload {_load()}; {len(over)} of {len(table.figures)} figures above their target"
        f"{': ' + '; '.join(figure.name.strip() for figure in over) if over else ''}"
    )
    if options.json:
        found = [{**figure.__dict__, "median": figure.median} for figure in table.figures]
        options.json.write_text(json.dumps(found, indent=1))
    return 0


def _load() -> str:
    return " ".join(f"{value:.1f}" for value in os.getloadavg())


if __name__ == "__main__":
    sys.exit(main())
