"""The pilot's own memory monitor: looks at the payload's processes in /proc and writes the files that prmon writes.

It runs where there is no prmon, costs no process, and never more than some 30 ms of CPU time a minute: RSS of all
processes comes from the pass over /proc that is made anyhow; PSS, swap and I/O (the kernel walks the page tables for
them, some 5 ms per GB) are looked at as often as that allows, largest processes first, and estimated from RSS in
between.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Callable, NamedTuple, Optional

from pilot.info.memory import IO, MEMORY, OUTPUT, SNAPSHOT, SUMMARY, MemoryUse
from pilot.util.copying import placed
from pilot.util.procfs import PAGE_BYTES, TICKS_PER_SECOND, ProcInfo
from pilot.version import PILOT_VERSION

logger = logging.getLogger(__name__)

COLUMNS = ("Time", "wtime", "utime", "stime", "nprocs", "nthreads", *("vmem", "pss", "rss", "swap"), *IO)

_DETAIL_SECONDS = 0.02
"""CPU seconds after which one look at the details is broken off."""
_DETAIL_PAUSE = 2000.0
"""A look at the details is followed by a pause of this many times its CPU time."""
_FILE_LIMIT = 8192


class _Details(NamedTuple):
    """What costs: kB and bytes of one process. ``rss`` as it was then (kB)."""

    rss: int
    pss: int
    swap: int
    io: tuple[int, ...]


_NOTHING = _Details(0, 0, 0, (0, 0, 0, 0))


class MemorySampler:
    """Measures one payload. Thread-safe: the monitor samples, the payload's thread finishes."""

    def __init__(self, workdir: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is measured or written yet.

        Args:
            workdir: the job's directory.
            clock: monotonic seconds.
        """
        self.writes = False
        """Write the monitor's files (another monitor does it otherwise)."""
        self._workdir = workdir
        self._clock = clock
        self._begin = clock()
        self._lock = Lock()
        self._next_details = 0.0
        self._known: dict[tuple[int, int], _Details] = {}
        self._last: tuple[int, ...] = ()
        self._peak = [0, 0, 0, 0]
        self._sum = [0, 0, 0, 0]
        self._totals = [0, 0, 0, 0]
        self._times = [0.0, 0.0]
        self._samples = 0
        self._wrote = False
        self._finished = False

    def sample(self, processes: Sequence[ProcInfo]) -> None:
        """Take one sample of ``processes`` (the payload's tree); none are no sample."""
        with self._lock:
            if not processes or self._finished:
                return
            self._look(processes)
            if self.writes:
                self._write(processes)

    def use(self) -> Optional[MemoryUse]:
        """Return what is known so far, None before the first sample."""
        with self._lock:
            return self._use()

    def finish(self) -> Optional[MemoryUse]:
        """The payload has ended: no more samples; the summary is written. Returns what is known."""
        with self._lock:
            self._finished = True
            if self.writes and self._samples:
                self._summarise(SUMMARY)
                with suppress(OSError):
                    (self._workdir / SNAPSHOT).unlink()
            return self._use()

    def _use(self) -> Optional[MemoryUse]:
        if not self._samples:
            return None
        seconds = self._clock() - self._begin
        return MemoryUse(
            tuple(self._peak), tuple(total // self._samples for total in self._sum), tuple(self._totals),
            tuple(int(total / seconds) if seconds > 0 else 0 for total in self._totals),
            self._times[0], self._times[1], seconds)

    # --- measuring ----------------------------------------------------------------------------------------------------

    def _look(self, processes: Sequence[ProcInfo]) -> None:
        kb = PAGE_BYTES // 1024
        if self._clock() >= self._next_details:
            self._look_closely(processes)
        rss = sum(info.rss for info in processes) * kb
        vmem = sum(info.vsize for info in processes) // 1024
        pss = swap = 0
        io = [0, 0, 0, 0]
        for info in processes:
            details = self._known.get(info.key)
            if details is None:  # not looked at (yet): what is not shared is the better guess for small ones
                pss += info.rss * kb
                continue
            pss += details.pss * info.rss * kb // details.rss if details.rss else 0
            swap += details.swap
            io = [total + value for total, value in zip(io, details.io)]
        self._last = (rss, vmem, swap, min(pss, rss))
        self._samples += 1
        self._peak = [max(pair) for pair in zip(self._peak, self._last)]
        self._sum = [total + value for total, value in zip(self._sum, self._last)]
        # what ended processes have moved is in their parents' accounts, unless nobody has waited for them
        self._totals = [max(pair) for pair in zip(self._totals, io)]
        user = sum(info.utime + info.cutime for info in processes) / TICKS_PER_SECOND
        system = sum(info.stime + info.cstime for info in processes) / TICKS_PER_SECOND
        self._times = [max(self._times[0], user), max(self._times[1], system)]

    def _look_closely(self, processes: Sequence[ProcInfo]) -> None:
        begin = time.thread_time()
        known: dict[tuple[int, int], _Details] = {}
        for info in sorted(processes, key=lambda item: item.rss, reverse=True):
            if time.thread_time() - begin > _DETAIL_SECONDS:
                before = self._known.get(info.key)
                if before is not None:
                    known[info.key] = before
                continue
            details = read_details(info.pid)
            if details is not None:
                known[info.key] = details
        self._known = known
        self._next_details = self._clock() + (time.thread_time() - begin) * _DETAIL_PAUSE

    # --- files --------------------------------------------------------------------------------------------------------

    def _write(self, processes: Sequence[ProcInfo]) -> None:
        rss, vmem, swap, pss = self._last
        values = (int(time.time()), int(self._clock() - self._begin), *(int(value) for value in self._times),
                  len(processes), sum(info.threads for info in processes), vmem, pss, rss, swap, *self._totals)
        line = "\t".join(map(str, values)) + "\n"
        if not self._wrote:
            line = "\t".join(COLUMNS) + "\n" + line
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            flags |= os.O_APPEND if self._wrote else os.O_TRUNC
            descriptor = os.open(self._workdir / OUTPUT, flags, 0o644)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)
        except OSError as exc:
            logger.debug("%s cannot be written: %s", OUTPUT, exc)
        self._wrote = True
        self._summarise(SNAPSHOT)

    def _summarise(self, name: str) -> None:
        use = self._use()
        if use is None:
            return
        largest = {**dict(zip(MEMORY, use.peak)), **dict(zip(IO, use.totals or ())),
                   "utime": int(use.utime), "stime": int(use.stime), "wtime": int(use.seconds)}
        average = {**dict(zip(MEMORY, use.average)), **dict(zip(IO, use.rates or ()))}
        content = {"Max": largest, "Avg": average, "HW": {}, "prmon": {"Version": f"pilot {PILOT_VERSION}"}}
        try:
            with placed(self._workdir / name) as part:
                part.write_text(json.dumps(content, indent=1), encoding="utf-8")
        except OSError as exc:
            logger.debug("%s cannot be written: %s", name, exc)


def read_details(pid: int) -> Optional[_Details]:
    """Return PSS, swap and I/O of a process; None when it is gone or not ours to look at."""
    rollup, counters = _read(f"/proc/{pid}/smaps_rollup"), _read(f"/proc/{pid}/io")
    if not rollup and not counters:
        return None
    sizes = {} if rollup else {b"Rss": 1, b"Pss": 1}  # before Linux 4.14: all of it counts as not shared
    for line in rollup.split(b"\n"):
        name, colon, rest = line.partition(b":")
        if colon and name in (b"Rss", b"Pss", b"Swap"):
            sizes[name] = int(rest.split()[0])
    io = dict.fromkeys(IO, 0)
    for line in counters.split(b"\n"):
        name, colon, rest = line.partition(b":")
        key = name.decode("ascii", "replace")
        if colon and key in io:
            io[key] = int(rest)
    return _Details(sizes.get(b"Rss", 0), sizes.get(b"Pss", 0), sizes.get(b"Swap", 0), tuple(io.values()))


def _read(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(descriptor, _FILE_LIMIT)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
