"""Jobs with files, end to end: 100 small inputs, 1 GiB in and out."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

from figures import Table
from rig import HERE, Bench


def file_fields(inputs: Mapping[str, Path], outputs: List[str]) -> Dict[str, Any]:
    """The file fields of a job definition."""

    def adler(path: Path) -> str:
        value = 1
        with open(path, "rb") as data:
            while chunk := data.read(1 << 20):
                value = zlib.adler32(chunk, value)
        return f"ad:{value:08x}"

    def repeat(text: str, count: int) -> str:
        return ",".join([text] * count)

    return {
        "inFiles": ",".join(inputs),
        "GUID": ",".join(f"GUID-{number}" for number in range(len(inputs))),
        "fsize": ",".join(str(path.stat().st_size) for path in inputs.values()),
        "checksum": ",".join(adler(path) for path in inputs.values()),
        "scopeIn": repeat("bench", len(inputs)),
        "realDatasetsIn": repeat("bench.in", len(inputs)),
        "ddmEndPointIn": repeat("LOCAL_DISK", len(inputs)),
        "outFiles": ",".join(outputs),
        "scopeOut": repeat("bench", len(outputs)),
        "realDatasets": repeat("bench.out", len(outputs)),
        "destinationDblock": repeat("bench.out", len(outputs)),
        "ddmEndPointOut": repeat("LOCAL_DISK", len(outputs)),
    }


class _Staged:
    """Runs jobs with files and keeps the gaps: getJob to payload, payload to final report."""

    def __init__(self, bench: Bench, work: str) -> None:
        self.bench = bench
        self.inputs, self.outputs = bench.directory / "in", bench.directory / "out"
        self.inputs.mkdir()
        self.outputs.mkdir()
        self.script = bench.payload("staged", work)
        self.stage_in: List[float] = []
        self.stage_out: List[float] = []
        self.rss: List[int] = []

    def run(self, inputs: Mapping[str, Path], outputs: List[str]) -> None:
        bench = self.bench
        job = bench.submit(str(self.script), **file_fields(inputs, outputs))
        for path in self.outputs.iterdir():
            path.unlink()
        ended = bench.run("--input-dir", str(self.inputs), "--output-dir", str(self.outputs))
        state = bench.job(job)["final"]["state"]
        missing = [name for name in outputs if not (self.outputs / name).exists()]
        if state != "finished" or missing:
            raise RuntimeError(f"job {job}: {state}, missing {missing}: {bench.job(job)['final']['pilotErrorDiag']}")
        start, finish = bench.stamp("staged.start"), bench.stamp("staged.end")
        assert start is not None and finish is not None
        granted = next(item["time"] for item in bench.requests(ended.started) if item["operation"] == "acquire_jobs")
        self.stage_in.append(start - granted)
        self.stage_out.append(bench.final_time(job) - finish)
        self.rss.append(ended.rss)


def measure_small(table: Table, python: str, runs: int) -> None:
    """100 inputs and 10 outputs of 64 KiB by mv."""
    table.title("100 inputs and 10 outputs of 64 KiB by mv, end to end (with getJob, checks, adler32, report)")
    names, outputs = [f"in.{number}" for number in range(100)], [f"out.{number}" for number in range(10)]
    for kind in ("symlink", "mv"):
        with Bench(python, queue={"copytools": {"mv": {"copy_in": kind}}}) as bench:
            staged = _Staged(bench, "for i in {0..9}; do cp -L in.$i out.$i; done")
            for _ in range(runs):
                for name in names:
                    (staged.inputs / name).write_bytes(os.urandom(65536))
                staged.run({name: staged.inputs / name for name in names}, outputs)
        table.add(f"copy_in {kind}: getJob to payload", staged.stage_in, target=0.3, reference=10.5, floor=0.05)
        table.add("  payload's end to final report", staged.stage_out, target=0.3, reference=3.6, floor=0.05)


def measure_large(table: Table, python: str, runs: int, size: int, directory: Optional[str]) -> None:
    """One file of ``size`` MiB in and out by cp, against ``cp`` and one pass of adler32.

    directory: where; None: a file system in memory with enough room, because a shared disk measures the neighbours.
    """
    memory = Path("/dev/shm")
    if directory is None and memory.is_dir() and shutil.disk_usage(memory).free > 6 * size << 20:
        directory = str(memory)
    where = directory or "the temporary directory"
    table.title(f"{size} MiB in and {size} MiB out by cp with adler32, in {where} (floor: cp + one pass of adler32)")
    queue = {"copytools": {"mv": {"copy_in": "cp", "copy_out": "cp"}}}
    with Bench(python, queue=queue, directory=directory) as bench:
        staged = _Staged(bench, "ln large.in large.out")
        source = staged.inputs / "large.in"
        block = os.urandom(1 << 20)
        with open(source, "wb") as out:
            for _ in range(size):
                out.write(block)
        copied, again = bench.directory / "copied", bench.directory / "again"
        raw_in, raw_out = [], []
        for _ in range(runs):
            # the same two copies one after the other, because the second has to wait for the disk more often
            raw_in.append(_raw_copy(source, copied))
            raw_out.append(_raw_copy(copied, again))
            copied.unlink()
            again.unlink()
            staged.run({"large.in": source}, ["large.out"])
    for name, ours, raw in (
        ("getJob to payload", staged.stage_in, raw_in),
        ("payload's end to final report", staged.stage_out, raw_out),
    ):
        floor = statistics.median(raw)
        table.add(name, ours, target=1.25 * floor, floor=floor)
    table.add(
        "peak RSS of the pilot", [kilobytes * 1.024e-3 for kilobytes in staged.rss], "MB", reference=406, floor=28.3
    )


def _raw_copy(source: Path, target: Path) -> float:
    """Seconds of ``cp`` and one pass of adler32."""
    began = time.monotonic()
    subprocess.run(["cp", str(source), str(target)], check=True)
    value = 1
    with open(source, "rb", buffering=0) as data:
        while chunk := data.read(1 << 20):
            value = zlib.adler32(chunk, value)
    return time.monotonic() - began


def measure_copies(table: Table, runs: int, size: int) -> None:
    """The staging room alone."""
    table.title("staging alone, without a pilot around it (benchmarks/copy_speed.py)")
    subprocess.run(
        [sys.executable, str(HERE / "copy_speed.py"), "--size", str(size), "--rounds", str(runs)], check=True
    )
