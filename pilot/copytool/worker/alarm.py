"""Things to do later, in one thread for all: one per file, for what hardly ever happens, is dear for small files."""

from __future__ import annotations

import logging
import threading
import time
from heapq import heappop, heappush
from itertools import count
from typing import Callable, Optional

logger = logging.getLogger(__name__)


class Alarm:
    """Something that is due at a time, unless it is taken back."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action: Optional[Callable[[], object]] = action

    def cancel(self) -> None:
        """It is not wanted any more; silently nothing when it has been done."""
        self.action = None


class Clock:
    """Carries alarms out. Thread-safe; its thread begins with the first one and never ends."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._alarms: list[tuple[float, int, Alarm]] = []
        self._numbers = count()
        self._runs = False

    def after(self, seconds: float, action: Callable[[], object]) -> Alarm:
        """Have ``action`` called in ``seconds``; it must not block, others wait behind it."""
        alarm = Alarm(action)
        due = time.monotonic() + seconds
        with self._changed:
            soonest = not self._alarms or due < self._alarms[0][0]
            heappush(self._alarms, (due, next(self._numbers), alarm))
            if not self._runs:
                threading.Thread(target=self._run, name="clock", daemon=True).start()
                self._runs = True
            elif soonest:
                self._changed.notify()
        return alarm

    def _run(self) -> None:
        while True:
            action = self._next().action
            try:
                if action is not None:
                    action()
            except Exception:  # costs this alarm only
                logger.exception("alarm")

    def _next(self) -> Alarm:
        """Wait for the next one that is due; those taken back go on the way, so that none wakes us for itself."""
        with self._changed:
            while True:
                while self._alarms and self._alarms[0][2].action is None:
                    heappop(self._alarms)
                wait = self._alarms[0][0] - time.monotonic() if self._alarms else None
                if wait is not None and wait <= 0:
                    return heappop(self._alarms)[2]
                self._changed.wait(wait)


CLOCK = Clock()
