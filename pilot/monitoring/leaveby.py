"""The ONE time by which a pilot has to leave, from everything that may end its slot.

::

    queue's maxtime | -l ─┐
    lease, batch limit ───┤ each an End: when, whose word, how long the slot was meant to be
    shutdowntime, ... ────┤
    proxy, token ─────────┘
              │  less the margin: what payload's death, outputs, log and report need
              ▼
          the earliest one decides: no payload runs beyond it, and no job is taken that cannot end before it

All times are monotonic seconds: what others say in epoch seconds is converted when it is read, and read again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import NamedTuple, Optional

SLOT_SHARE = 0.1
"""The margin, and the shortest job, are at most this part of a slot of known length."""
MOST_SHARE = 0.25
"""However much there is to store: the margin is never more than this part of the slot."""
_FAR = 10 * 365 * 86400.0


class End(NamedTuple):
    """One end of the slot."""

    at: float
    """Monotonic s."""
    text: str
    """Whose word it is, with its number: ``the queue's maxtime is 86400 s``."""
    length: Optional[float] = None
    """s that the slot was meant to be long; None for an end that was announced (a shutdown, a proxy)."""


class Leave(NamedTuple):
    """When the pilot has to leave; monotonic s."""

    at: float
    """No payload runs longer, no job is taken later."""
    end: float
    """The slot is over."""
    margin: float
    """s between the two."""
    text: str
    """Whose word it is and what the margin is."""
    length: Optional[float]


NEVER = Leave(float("inf"), float("inf"), 0.0, "nobody has set an end", None)


def from_epoch(epoch: float, started: float, *, now: Optional[float] = None,
               wall: Optional[float] = None) -> Optional[float]:
    """Return a time in epoch s as monotonic s; None when it is no time that can be meant: before the pilot's start
    (an old file, a clock that jumped), or years away.

    Args:
        epoch: what was read.
        started: monotonic s of the pilot's start.
        now, wall: the two clocks, for tests.
    """
    now = time.monotonic() if now is None else now
    at = now + epoch - (time.time() if wall is None else wall)
    return at if started < at < now + _FAR else None


def margin_of(end: End, started: float, least: float, need: float) -> float:
    """Return the s that are kept before ``end``.

    Args:
        end: of the slot.
        started: monotonic s of the pilot's start.
        least: s that are kept in any case (setting ``limits.leave_margin``), in short slots a tenth of them.
        need: s that the job's outputs are expected to need.
    """
    floor = least if end.length is None else min(least, end.length * SLOT_SHARE)
    length = end.at - started if end.length is None else end.length
    return min(max(floor, need), max(floor, MOST_SHARE * length))


def earliest(ends: Mapping[str, End], started: float, least: float, need: float = 0.0,
             why: str = "") -> Leave:
    """Return the leave-by time; see ``margin_of``. ``why`` says what ``need`` comes from."""
    found = NEVER
    for end in ends.values():
        margin = margin_of(end, started, least, need)
        if end.at - margin < found.at:
            shown = f"{margin:.0f}" if margin >= 1 else f"{margin:.1f}"
            reason = f" ({why})" if why and margin_of(end, started, least, 0.0) < margin else ""
            found = Leave(end.at - margin, end.at, margin,
                          f"{end.text}, less {shown} s for the way out{reason}", end.length)
    return found


class LeaveBy:
    """The ends that are known, and what the jobs on the road need for their way out. Thread-safe.

    Args:
        started: monotonic s of the pilot's start.
        least: see ``margin_of``.
        shortest: s of the shortest job that is worth asking for (setting ``limits.shortest_job``).
    """

    def __init__(self, started: float = 0.0, least: float = 0.0, shortest: float = 0.0) -> None:
        self.started, self.least, self.shortest = started, least, shortest
        self._lock = threading.Lock()
        self._ends: dict[str, End] = {}
        self._needs: dict[str, tuple[float, str]] = {}
        self._leave = NEVER

    def set(self, name: str, end: Optional[End]) -> bool:
        """Set, move or forget (None) one end; True when the leave-by time has moved by a second or more."""
        with self._lock:
            if end is None:
                self._ends.pop(name, None)
            else:
                self._ends[name] = end
            return self._update()

    def set_need(self, job_id: str, seconds: float, why: str = "") -> bool:
        """Set what the results of a job need to leave (0: nothing any more); True when the leave-by time has moved."""
        with self._lock:
            if seconds > 0:
                self._needs[job_id] = (seconds, why)
            else:
                self._needs.pop(job_id, None)
            return self._update()

    def _update(self) -> bool:
        before = self._leave
        need, why = sum(seconds for seconds, _ in self._needs.values()), ", ".join(w for _, w in self._needs.values())
        self._leave = earliest(self._ends, self.started, self.least, need, why)
        # both may be infinite, and inf - inf is no number
        return before.at != self._leave.at and not abs(before.at - self._leave.at) < 1.0

    @property
    def now(self) -> Leave:
        """The leave-by time as far as it is known now."""
        return self._leave

    @property
    def ends(self) -> Mapping[str, End]:
        """All ends that are known."""
        with self._lock:
            return dict(self._ends)

    def of_job(self, own: Optional[End]) -> Leave:
        """Return the leave-by time of a job that has an end of its own (``maxWalltime``), or None."""
        if own is None:
            return self._leave
        with self._lock:
            need, why = sum(seconds for seconds, _ in self._needs.values()), ""
            return earliest({**self._ends, "job": own}, self.started, self.least, need, why)

    def refusal(self, moment: Optional[float] = None) -> Optional[str]:
        """Return why no job may be taken now, None when one may."""
        leave, moment = self._leave, time.monotonic() if moment is None else moment
        left = leave.at - moment
        if left <= 0:
            return f"the time limit of this pilot is reached ({leave.text})"
        need = self.shortest if leave.length is None else min(self.shortest, leave.length * SLOT_SHARE)
        if left < need:
            return (f"{left:.0f} s are left, too few for another job ({need:.0f} s, setting limits.shortest_job): "
                    f"{leave.text}")
        return None

    def remaining(self, moment: Optional[float] = None) -> Optional[int]:
        """Return the s that a job may take that is asked for now; None while the slot is as good as new, or has no end.

        A job that was made for the queue's whole ``maxtime`` is given to a pilot at the beginning of its slot only.
        """
        leave, moment = self._leave, time.monotonic() if moment is None else moment
        if leave.at == float("inf"):
            return None
        if leave.length is not None and leave.end - moment > (1 - SLOT_SHARE) * leave.length:
            return None
        return max(1, int(leave.at - moment))
