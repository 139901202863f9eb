"""CPU time and core count of a payload: about once a minute from /proc, finally from the kernel's own accounts.

A failure to measure never fails a job: a value that cannot be read leaves the last one standing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, Optional


class CpuSample(NamedTuple):
    """One measurement: CPU seconds since the payload's start, and the cores busy since the sample before."""

    seconds: float
    cores: float


class CpuMeter:
    """Keeps the CPU time of one payload, which only grows, and how many cores it kept busy.

    What is given to it is the time of *everything* of the payload: living processes with the children that they have
    waited for, and orphans that have ended (``Child.live_cpu_seconds``). Server fields: cpuConsumptionTime (whole s),
    actualCoreCount, meanCoreCount.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begin = self._last_time = clock()
        self._end: Optional[float] = None
        self.seconds = 0.0

    def sample(self, seconds: float) -> CpuSample:
        """Take the CPU seconds used so far.

        A smaller value than the last one (a process ended between two looks and was not waited for) changes nothing.
        """
        now = self._clock()
        used = max(seconds - self.seconds, 0.0)
        elapsed = now - self._last_time
        self.seconds += used
        self._last_time = now
        return CpuSample(self.seconds, round(used / elapsed, 2) if elapsed > 0 else 0.0)

    def finish(self, seconds: float) -> float:
        """Take the kernel's final account (s), keep the larger of it and the last sample, and return that."""
        self._end = self._clock()
        self.seconds = max(self.seconds, seconds)
        return self.seconds

    @property
    def mean_cores(self) -> float:
        """CPU time over wall time since the start, 2 decimals (actualCoreCount); 0.0 when no time has passed."""
        elapsed = (self._end if self._end is not None else self._clock()) - self._begin
        return round(self.seconds / elapsed, 2) if elapsed > 0 else 0.0
