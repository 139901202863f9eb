"""Payloads of many processes: what watching them costs, and how soon they are gone when they must be."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import List

from figures import Table
from rig import Bench, end, wait_for

_REFERENCE = 70.0 / 2
"""CPU s per minute of the reference pilot with 1,000 sleeping processes, measured over 120 s."""
_HEAVY = "import time; x = bytearray(b'x' * (300 << 20)); time.sleep(1000)"


def _crowd(bench: Bench, processes: int, before: str = "") -> str:
    return str(bench.payload(
        f"crowd{processes}",
        f"{before}\nfor ((i = 0; i < {processes}; i++)); do sleep 1000 & done\n"
        f"printf 1 > {bench.directory}/crowd{processes}.ready\nwait; sleep 1000",
    ))


def measure_watching(table: Table, python: str, seconds: float) -> None:
    """CPU per minute with the settings as delivered, for 1,000 and 5,000 sleeping processes."""
    seconds = max(seconds, 65.0)  # a sample is taken once a minute
    table.title(f"payload of sleeping processes, settings as delivered, {seconds:.0f} s, per minute")
    for processes, target in ((1000, 0.6), (5000, 0.0)):
        with Bench(python) as bench:
            bench.submit(_crowd(bench, processes))
            pilot = bench.start()
            wait_for(partial(bench.stamp, f"crowd{processes}.ready"))
            time.sleep(25)  # the looks soon after the start
            cpu, began = _all_threads(pilot.pid), time.monotonic()
            time.sleep(seconds)
            used = (_all_threads(pilot.pid) - cpu) / (time.monotonic() - began) * 60
            end(pilot)
        table.add(f"CPU of the pilot, {processes} processes", [used], target=target or None,
                  reference=_REFERENCE if processes == 1000 else None, note="/min")


def measure_ends(table: Table, python: str, runs: int) -> None:
    """SIGTERM that is ignored, and a broken memory limit."""
    table.title("1,000 processes that ignore SIGTERM; a payload that breaks its memory limit")
    gone: List[float] = []
    grace = 3.0
    for _ in range(runs):
        with Bench(python) as bench:
            bench.submit(_crowd(bench, 1000, "trap '' TERM"))
            pilot = bench.start(settings=[f"shutdown.term_grace={grace:g}"])
            wait_for(lambda: bench.stamp("crowd1000.ready"))
            began = time.monotonic()
            end(pilot)
            gone.append(time.monotonic() - began - grace)
    table.add("SIGTERM to exit, less the grace, everything dead", gone, target=1)
    table.add("breach to dead, limit checked once a second", [_breach(python) for _ in range(runs)], target=2)


def _breach(python: str) -> float:
    """Seconds from the moment at which a payload has its memory to its end."""
    queue = {"maxrss": 100, "params": {"pilot_rss_grace": 0}}
    with Bench(python, queue=queue) as bench:
        heavy = bench.payload("heavy", f"exec {python} -c \"{_HEAVY.replace('time.sleep', _stamp(bench))}\"")
        job = bench.submit(str(heavy), resource_type="SCORE_VHIMEM")
        pilot = bench.start(settings=["pilot.memory_usage_verification_time=1"])
        filled = float(wait_for(lambda: bench.stamp("heavy.filled")) or 0)
        pilot.wait()
        return bench.final_time(job) - filled


def _stamp(bench: Bench) -> str:
    path: Path = bench.directory / "heavy.filled"
    return f"open('{path}', 'w').write(str(time.time())); time.sleep"


def _all_threads(pid: int) -> float:
    """CPU time of a process in s, threads that have ended included (in steps of 10 ms)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
