"""The pilot's own pulse: who has not felt it for long was suspended (SIGSTOP, a frozen control group, a laptop's lid).

Felt often, by whoever passes by: the main thread, the writer of the pilot heartbeat file, the looping check. The
payload stands still with the pilot, so that time must not count against it. Source: control and monitoring document 8.
"""

from __future__ import annotations

import logging
import time
from threading import Lock
from typing import Callable, NamedTuple

logger = logging.getLogger(__name__)


class Standstill(NamedTuple):
    """A suspension that has just been found; s."""

    monotonic: float
    """What the monotonic clock has run on meanwhile: it stands still itself while the machine sleeps."""
    total: float
    """With the sleep of the machine."""


def boot_time() -> float:
    """Return s since the boot, a sleep of the machine included."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


class Pulse:
    """One per pilot; thread-safe.

    Args:
        threshold: s without a beat that are a suspension.
        monotonic, boot, wall: clocks, s.
    """

    def __init__(self, threshold: float, *, monotonic: Callable[[], float] = time.monotonic,
                 boot: Callable[[], float] = boot_time, wall: Callable[[], float] = time.time) -> None:
        self.threshold = threshold
        self._monotonic, self._boot, self._wall = monotonic, boot, wall
        self._lock = Lock()
        self._beat = (monotonic(), boot())
        self._offset = wall() - boot()
        self._longest = 0.0
        self._written = boot()
        self._suspended = 0.0
        self._history: list[tuple[float, float]] = []
        self._unread = 0.0

    def begin(self) -> None:
        """From now on it is felt often; what was before is no suspension."""
        with self._lock:
            self._beat = (self._monotonic(), self._boot())

    def beat(self) -> Standstill:
        """The pilot lives. Returns how long it has stood still before this, zeros when it has not."""
        with self._lock:
            now, boot, offset = self._monotonic(), self._boot(), self._wall() - self._boot()
            gap, total = now - self._beat[0], boot - self._beat[1]
            step, self._offset = offset - self._offset, offset
            self._beat = (now, boot)
            found = Standstill(0.0, 0.0)
            if total > self.threshold:
                found = Standstill(gap, total)
                self._suspended += gap
                self._history.append((now, gap))
                self._unread = total
        if found.total:
            logger.warning("the pilot has stood still for %.0f s (%s): it does not count against the job", found.total,
                           "SIGSTOP, a frozen control group" if gap > total / 2 else "the machine has slept")
        if abs(step) > self.threshold:
            logger.warning("the node's clock was set %s by %.0f s: checks go by the time since the boot",
                           "forward" if step > 0 else "back", abs(step))
        return found

    @property
    def suspended(self) -> float:
        """Monotonic s of all suspensions so far."""
        with self._lock:
            return self._suspended

    def suspended_before(self, moment: float) -> float:
        """Return the part of ``suspended`` that was over at a time of the monotonic clock."""
        with self._lock:
            return sum(gap for at, gap in self._history if at <= moment)

    def read(self) -> float:
        """Return ``suspended`` and note that the check that it matters to knows of it now."""
        with self._lock:
            self._unread = 0.0
            return self._suspended

    def document(self) -> dict[str, int]:
        """Return the content of the pilot heartbeat file: longest time between two of them (s), time of this one
        (epoch s), length of a suspension (s) that the looping check has not read yet."""
        with self._lock:
            now = self._boot()
            self._longest, self._written = max(self._longest, now - self._written), now
            return {"max_diff_time": int(self._longest), "last_pilot_update": int(self._wall()),
                    "time_since_detection": int(self._unread)}
