"""The pause between two payloads of one pilot while outputs take their time to leave: one by one, and pipelined."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Dict, List, Optional

from figures import Table
from files import file_fields
from rig import HERE, ROOT, Bench

ASKING = 1.0
"""Seconds that the slow server needs for getJob."""
STORING = 3.0
"""Seconds that the slow storage needs for each file, without CPU."""


def measure(table: Table, python: str, runs: int, size: int, directory: Optional[str]) -> None:
    """Outputs of ``size`` MiB by cp with adler32, an input of 64 MiB; also with a slow server, and with a slow storage.

    A payload takes longer than the tail of the job before it, as on the grid.

    directory: where; None: a file system in memory with enough room, because a shared disk measures the neighbours.
    """
    memory = Path("/dev/shm")
    if directory is None and memory.is_dir() and shutil.disk_usage(memory).free > 6 * size << 20:
        directory = str(memory)
    table.title(
        f"several jobs in one pilot, each with 64 MiB in and {size} MiB out by cp with adler32, in "
        f"{directory or 'the temporary directory'} (reference: one by one)"
    )
    for what, asking, storing in (
        ("", 0.0, 0.0),
        (f", getJob takes {ASKING:.0f} s", ASKING, 0.0),
        (f", storage takes {STORING:.0f} s", 0.0, STORING),
    ):
        found: Dict[bool, List[float]] = {}
        for pipelining in (False, True):
            found[pipelining] = _pauses(python, runs, size, directory, pipelining, asking, storing)
        alone = table.add(f"payload's end to next payload's start{what}", found[False])
        ahead = table.add("  pipelined", found[True], reference=alone.median, floor=asking or None)
        table.add("  one by one / pipelined", [alone.median / ahead.median], "")


def _pauses(
    python: str, runs: int, size: int, directory: Optional[str], pipelining: bool, asking: float, storing: float
) -> List[float]:
    """Run ``runs`` + 1 jobs in one pilot; the pauses between their payloads in s."""
    queue = {
        "timefloor": 60,
        "params": {"pipelining": pipelining},
        "copytools": {tool: {"copy_in": "cp", "copy_out": "cp"} for tool in ("mv", "slow")},
        "acopytools": {"default": ["slow" if storing else "mv"]},
    }
    with Bench(python, queue=queue, directory=directory) as bench:
        source, outputs = bench.directory / "in", bench.directory / "out"
        source.mkdir()
        outputs.mkdir()
        (source / "data.in").write_bytes(bytes(64 << 20))
        # the job before the last one has left: no more than one runs ahead
        work = f"rm -f {outputs}/result.$(($1 - 2)); head -c {size}M /dev/zero > result.$1; sleep {1.5 + storing}"
        script = bench.payload("pipe", work)
        jobs = []
        for number in range(runs + 1):
            fields = file_fields({"data.in": source / "data.in"}, [f"result.{number}"])
            jobs.append(bench.submit(str(script), str(number), **fields))
        if asking:
            fault = {"operation": "acquire_jobs", "kind": "delay", "times": None, "seconds": asking}
            bench.call("POST", "faults", fault)
        options = ("--input-dir", str(source), "--output-dir", str(outputs), "-x", "1", "-v", "100")
        settings = ["server.getjob_wait=0", "server.getjob_wait_max=0"]
        settings.append('plugins.copytools={"slow": "slowtool:SlowTool"}')
        bench.run(*options, settings=settings, env={"PYTHONPATH": f"{HERE}:{ROOT}", "BENCH_STORING": str(storing)})
        states = [bench.job(job)["final"]["state"] for job in jobs]
        if set(states) != {"finished"}:
            raise RuntimeError(f"states of the jobs: {states}")
        return [
            float(bench.stamp(f"pipe{number + 1}.start") or "nan") - float(bench.stamp(f"pipe{number}.end") or "nan")
            for number in range(runs)
        ]
