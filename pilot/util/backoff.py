"""Exponential back-off with full jitter: how long to wait before the next try. It computes, it never sleeps."""

from __future__ import annotations

import random
from typing import Callable


class Backoff:
    """Waits of a series of tries: uniformly between 0 and ``base * 2**n``, at most ``cap`` (s).

    Full jitter spreads thousands of pilots that lost the server at the same moment. The caller waits with
    ``CancelToken.wait(backoff.next())``, so that a stop wakes it.

    Args:
        base: upper bound of the first wait, s.
        cap: upper bound of every wait, s.
        rng: source of uniform numbers in [0, 1).
    """

    def __init__(self, base: float, cap: float, rng: Callable[[], float] = random.random) -> None:
        if base < 0 or cap < base:
            raise ValueError(f"back-off needs 0 <= base <= cap, got base={base} cap={cap}")
        self._base = base
        self._cap = cap
        self._rng = rng
        self.tries = 0
        """Waits handed out since the last reset."""

    @property
    def limit(self) -> float:
        """Upper bound of the next wait, s."""
        # The exponent is bounded: 2**1024 would overflow a float after long outages.
        return min(self._cap, self._base * 2.0 ** min(self.tries, 64))

    def next(self) -> float:
        """Return the next wait in s and count it."""
        wait = self.limit * self._rng()
        self.tries += 1
        return wait

    def reset(self) -> None:
        """Start again at ``base``, after a success."""
        self.tries = 0
