"""A job's directory of 100,000 files: what following it costs per minute, against a walk over all files each minute.

The hour passes on a made-up clock: a look per minute, between two looks files come, go and grow. Only CPU is measured.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import List, Optional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from figures import Table

from pilot.monitoring import workdir
from pilot.util.space import directory_size

MINUTES = 60
DIRECTORIES = 100


def measure(table: Table, files: int = 100_000) -> None:
    """CPU per minute, far from the limit and near it, with its parts."""
    table.title(f"work directory of {files:,} files in {DIRECTORIES} directories, {MINUTES} minutes on a made-up clock")
    root = Path(tempfile.mkdtemp(prefix="bench-workdir-"))
    try:
        _populate(root, files)
        floor = min(_cpu(lambda: directory_size(root)) for _ in range(3))
        far, parts = _follow(root, None)
        walks = [cost for cost in parts if cost > floor / 2]
        table.add("CPU per minute, limit far away", [far], target=0.05, floor=floor, note="floor: a walk each minute")
        table.add("  of which walks over all files", [sum(walks) / MINUTES], note=f"{len(walks)} in {MINUTES} min")
        table.add("  one look between two walks", [cost for cost in parts if cost <= floor / 2], target=0.015)
        near, _ = _follow(root, files + 5000)
        table.add("CPU per minute, within a tenth of the limit", [near], floor=floor, note="fresh at each look")
    finally:
        shutil.rmtree(root)


def _populate(root: Path, files: int) -> None:
    for number in range(DIRECTORIES):
        place = root / f"d{number:03d}"
        place.mkdir()
        for file in range(files // DIRECTORIES):
            os.close(os.open(place / f"f{file:04d}", os.O_WRONLY | os.O_CREAT, 0o644))
            os.truncate(place / f"f{file:04d}", 1)


def _follow(root: Path, limit: Optional[int]) -> tuple[float, List[float]]:
    """Return CPU s per minute, and of each look."""
    clock, rng = [1000.0], random.Random(1)
    original = workdir.time
    workdir.time = SimpleNamespace(monotonic=lambda: clock[0], time=time.time, thread_time=time.thread_time)
    try:
        tracker = workdir.WorkdirTracker(root, limit=limit)
        tracker.look()
        costs = []
        for minute in range(MINUTES):
            clock[0] += 60
            for number in range(20):
                place = root / f"d{rng.randrange(DIRECTORIES):03d}"
                with open(place / f"f{rng.randrange(100):04d}", "ab") as stream:
                    stream.write(b"more")
                if number % 4 == 0:
                    (place / f"new{minute}-{number}").write_bytes(b"new")
            costs.append(_cpu(tracker.look))
        return sum(costs) / MINUTES, costs
    finally:
        workdir.time = original


def _cpu(call: object) -> float:
    began = time.thread_time()
    call()  # type: ignore[operator]
    return time.thread_time() - began
