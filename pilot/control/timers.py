"""Timers of one thread: a heap of (when, what). The thread blocks until the next one is due; nothing polls."""

from __future__ import annotations

import heapq
import itertools
import time
from typing import Callable, Optional

Action = Callable[[], None]


class Timers:
    """Named timers in monotonic seconds; setting a name again replaces it. For use by one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, str, Action]] = []
        self._current: dict[str, int] = {}
        self._numbers = itertools.count()

    def at(self, when: float, name: str, action: Action) -> None:
        """Run ``action`` at ``when``."""
        number = next(self._numbers)
        self._current[name] = number
        heapq.heappush(self._heap, (when, number, name, action))

    def after(self, seconds: float, name: str, action: Action) -> None:
        """Run ``action`` in ``seconds``."""
        self.at(self._clock() + seconds, name, action)

    def cancel(self, name: str) -> None:
        """Forget the timer ``name``; silently nothing when there is none."""
        self._current.pop(name, None)

    def cancel_prefix(self, prefix: str) -> None:
        """Forget all timers whose names begin with ``prefix``."""
        for name in [name for name in self._current if name.startswith(prefix)]:
            del self._current[name]

    def next_in(self) -> Optional[float]:
        """Seconds until the next timer, 0 when one is due, None when there is none."""
        self._drop_stale()
        return max(0.0, self._heap[0][0] - self._clock()) if self._heap else None

    def run_due(self) -> None:
        """Run what is due."""
        while True:
            self._drop_stale()
            if not self._heap or self._heap[0][0] > self._clock():
                return
            _, _, name, action = heapq.heappop(self._heap)
            del self._current[name]
            action()

    def _drop_stale(self) -> None:
        while self._heap and self._current.get(self._heap[0][2]) != self._heap[0][1]:
            heapq.heappop(self._heap)
