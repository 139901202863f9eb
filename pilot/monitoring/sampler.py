"""The pilot's own memory monitor: looks at the payload's processes in /proc and writes the files that prmon writes.

It runs where there is no prmon, costs no process, and never more than some 30 ms of CPU time a minute: RSS of all
processes comes from the pass over /proc that is made anyhow; PSS, swap and I/O (the kernel walks the page tables for
them, some 5 ms per GB) are looked at as often as that allows, largest processes first, and estimated from RSS in
between. Near the limit nothing is estimated. Where the payload has a control group with an account of its memory, that
stands in the place of PSS.
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
from pilot.monitoring.processdetails import Details, read_details
from pilot.util.copying import placed
from pilot.util.procfs import PAGE_BYTES, TICKS_PER_SECOND, ProcInfo
from pilot.version import PILOT_VERSION

logger = logging.getLogger(__name__)

COLUMNS = ("Time", "wtime", "utime", "stime", "nprocs", "nthreads", *("vmem", "pss", "rss", "swap"), *IO)

_DETAIL_SECONDS = 0.02
"""CPU seconds after which one look at the details is broken off."""
_PATIENCE = 10.0
"""s that the payload's end waits for a look that is under way."""
_DETAIL_PAUSE = 2000.0
"""A look at the details is followed by a pause of this many times its CPU time."""
_EXACT_SECONDS = 1.0
"""The same where an estimate comes near the limit: a verdict needs the true number."""
_NEAR = 0.9
"""Part of the limit from which on figures must be exact."""

BY_GROUP = "anon + file_mapped of its cgroup"
BY_PSS = "PSS"
BY_RSS = "RSS"


class Reading(NamedTuple):
    """The newest look: kB and bytes, and what ``pss`` really is (``BY_GROUP``, ``BY_PSS``, ``BY_RSS``)."""

    rss: int = 0
    vmem: int = 0
    swap: int = 0
    pss: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    source: str = ""


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
        self._looking = Lock()
        """Held during a look, which may hang."""
        self._next_details = 0.0
        self._known: dict[tuple[int, int], Details] = {}
        self.limit_kb = 0
        """The payload's limit; 0 = unknown."""
        self.last = Reading()
        """The newest look."""
        self._said_unreadable = False
        self._peak = [0, 0, 0, 0]
        self._sum = [0, 0, 0, 0]
        self._totals = [0, 0, 0, 0]
        self._times = [0.0, 0.0]
        self._samples = 0
        self._wrote = False
        self._finished = False

    def sample(self, processes: Sequence[ProcInfo], group_kb: Optional[int] = None) -> None:
        """Take one sample; may hang (see ``processdetails``), so not in the monitor's thread.

        Args:
            processes: the payload's tree; none are no sample.
            group_kb: what the payload holds by its control group, when that is known.
        """
        with self._looking:
            if not processes or self._finished:
                return
            self._look(processes, group_kb)
            if self.writes and not self._finished:
                self._write(processes)

    def use(self) -> Optional[MemoryUse]:
        """Return what is known so far, None before the first sample; never waits."""
        return self._use()

    def finish(self) -> Optional[MemoryUse]:
        """The payload has ended: no more samples; the summary is written. Returns what is known."""
        self._finished = True
        if not self._looking.acquire(timeout=_PATIENCE):
            logger.warning("the last look at the payload's memory hangs: no summary of it is written")
            return self._use()
        try:
            if self.writes and self._samples:
                self._summarise(SUMMARY)
                with suppress(OSError):
                    (self._workdir / SNAPSHOT).unlink()
            return self._use()
        finally:
            self._looking.release()

    def _use(self) -> Optional[MemoryUse]:
        if not self._samples:
            return None
        seconds = self._clock() - self._begin
        return MemoryUse(
            tuple(self._peak), tuple(total // self._samples for total in self._sum), tuple(self._totals),
            tuple(int(total / seconds) if seconds > 0 else 0 for total in self._totals),
            self._times[0], self._times[1], seconds, source=self.last.source)

    # --- measuring ----------------------------------------------------------------------------------------------------

    def _look(self, processes: Sequence[ProcInfo], group_kb: Optional[int]) -> None:
        if self._clock() >= self._next_details:
            self._look_closely(processes, _DETAIL_SECONDS)
        reading, io = self._reading(processes, group_kb)
        if group_kb is None and self.limit_kb and reading.pss > _NEAR * self.limit_kb:
            self._look_closely(processes, _EXACT_SECONDS)
            reading, io = self._reading(processes, group_kb)
        sizes = reading[:4]
        self._samples += 1
        self._peak = [max(pair) for pair in zip(self._peak, sizes)]
        self._sum = [total + value for total, value in zip(self._sum, sizes)]
        # what ended processes have moved is in their parents' accounts, unless nobody has waited for them
        self._totals = [max(pair) for pair in zip(self._totals, io)]
        self.last = reading._replace(read_bytes=self._totals[2], write_bytes=self._totals[3])
        user = sum(info.utime + info.cutime for info in processes) / TICKS_PER_SECOND
        system = sum(info.stime + info.cstime for info in processes) / TICKS_PER_SECOND
        self._times = [max(self._times[0], user), max(self._times[1], system)]

    def _reading(self, processes: Sequence[ProcInfo], group_kb: Optional[int]) -> tuple[Reading, list[int]]:
        """Return the sums over all processes, and their I/O."""
        kb = PAGE_BYTES // 1024
        rss = sum(info.rss for info in processes) * kb
        vmem = sum(info.vsize for info in processes) // 1024
        pss, swap, unread, shares = 0.0, 0, 0, self._shares(processes)
        io = [0, 0, 0, 0]
        for info in processes:
            details = self._known.get(info.key)
            if details is None:  # not looked at (yet): as its like, a forked worker shares what the others share
                pss += info.rss * kb * shares.get(info.comm, shares[""])
                continue
            if not details.readable:
                unread += 1
                pss += info.rss * kb
            elif details.rss:
                pss += details.pss * info.rss * kb / details.rss
            swap += details.swap
            io = [total + value for total, value in zip(io, details.io)]
        source = BY_PSS if unread < len(processes) else BY_RSS
        if unread and not self._said_unreadable:
            self._said_unreadable = True
            logger.warning("the memory of %d of the payload's %d processes is not shown to the pilot (/proc/<pid>/"
                           "smaps_rollup: another user's?): RSS counts for them, shared pages each time", unread,
                           len(processes))
        value = int(min(pss, rss))
        if group_kb is not None:
            value, source = group_kb, BY_GROUP
        return Reading(rss, vmem, swap, value, io[2], io[3], source), io

    def _shares(self, processes: Sequence[ProcInfo]) -> dict[str, float]:
        """Return PSS / RSS of what was looked at, by name of the program; '' of all together."""
        sums: dict[str, list[int]] = {"": [0, 0]}
        for info in processes:
            details = self._known.get(info.key)
            if details is not None and details.readable:
                for name in (info.comm, ""):
                    total = sums.setdefault(name, [0, 0])
                    total[0] += details.pss
                    total[1] += details.rss
        return {name: pss / rss if rss else 1.0 for name, (pss, rss) in sums.items()}

    def _look_closely(self, processes: Sequence[ProcInfo], limit: float) -> None:
        begin = time.thread_time()
        known: dict[tuple[int, int], Details] = {}
        for info in sorted(processes, key=lambda item: item.rss, reverse=True):
            if time.thread_time() - begin > limit:
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
        rss, vmem, swap, pss = self.last[:4]
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
