"""Worker threads for the copies of one group of files, and the watch over them.

```
 worker   next batch --> copy --> settle each file --> what is to be tried instead goes to the end of the queue
 caller   starts the workers and sleeps until  all is done  |  a copy stands still  |  the group is cancelled
```
A batch is one file, or several for a tool that moves them together. A copy that stands still for too long
(``StallRule``) is broken off through its token. One that does not let go even then waits in the kernel (a dead mount):
its thread is left behind, whatever it may still return is thrown away, and the orders that wait are not begun, for they
would hang one after the other.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from math import inf
from threading import Condition, Thread
from typing import Callable, Optional, Sequence

from pilot.common.exception import PilotException
from pilot.copytool.base import Outcome, Transfer, TransferFailure
from pilot.store.viewrows import Moving
from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.checksum import Progress
from pilot.util.logowner import owners

LET_GO = 5.0
"""Seconds that a copy has to return after it was broken off. Tools look at their token at least once a second."""

SHOW_AFTER, SHOW_EVERY = 4.0, 3.0
"""s after which a copy's progress is shown, and between two times: most copies are over before."""

Done = Callable[[Transfer, Outcome], None]
Move = Callable[[Sequence[Transfer], CancelToken, Progress, Done], None]
"""Moves a batch and tells the outcome of each of its files; raises nothing."""
Settle = Callable[[Transfer, Outcome, float, float], Optional[Transfer]]
"""(order, outcome, seconds, wall clock of the start in s since 1970) -> what to try instead, None = that was it."""
Show = Callable[[Sequence[Moving]], None]
"""Takes the progress of all copies that run for long, empty = none does any more; raises nothing."""


@dataclass(frozen=True)
class StallRule:
    """When a copy counts as hanging, and what that is called."""

    seconds: Callable[[Sequence[Transfer]], float]
    """That a batch may be without a sign of life (``math.inf`` = for ever)."""
    code: int
    """Pilot error code."""
    describe: Callable[[Transfer], str]
    """What is wrong and which limit was passed."""


class _Copy:
    """A batch that is under way."""

    def __init__(self, batch: Sequence[Transfer], stall: float, group: CancelToken) -> None:
        self.open: dict[int, Transfer] = {id(transfer): transfer for transfer in batch}
        """Files without an outcome."""
        self.batch = batch
        self.bytes = 0
        """Moved so far, as far as the tool tells."""
        self.stall = stall
        self.token = CancelToken(group)
        self.began, self.wall = time.monotonic(), time.time()
        self.moved = self.began
        """Monotonic s of the last sign of life."""
        self.broken: Optional[float] = None
        """Monotonic s at which it was told to end."""

    def progress(self, count: int) -> None:
        self.bytes += count
        self.moved = time.monotonic()

    def moving(self) -> Moving:
        """Return how far it has come."""
        first = next(iter(self.open.values()), self.batch[0])
        more = f" and {len(self.batch) - 1} more" if len(self.batch) > 1 else ""
        total = sum(transfer.size for transfer in self.batch)
        return Moving(first.direction.value, first.lfn + more, "", self.wall, time.time(),
                      min(self.bytes, total) if total else self.bytes, total)

    def next_look(self) -> float:
        """Monotonic s at which something has to be done about it if nothing changes."""
        return self.moved + self.stall if self.broken is None else self.broken + LET_GO


class Crew:
    """Carries out the orders of one group with one tool; used once.

    Args:
        batches: what to move; a batch is moved by one worker.
        move: does one batch.
        settle: takes each outcome; called once per order that was begun or given up, by one thread at a time.
        stall: when to break a copy off.
        token: of the group.
        show: is told now and then how far the copies have come that run for some seconds.
    """

    def __init__(
        self,
        batches: Sequence[Sequence[Transfer]],
        move: Move,
        settle: Settle,
        stall: StallRule,
        token: CancelToken,
        show: Optional[Show] = None,
    ) -> None:
        self._show = show
        self._shown = False
        """Something was shown, so that its end has to be told, too."""
        self._next_show = inf
        """Monotonic s."""
        self._waiting: deque[Sequence[Transfer]] = deque(batches)
        self._move = move
        self._settle = settle
        self._stall = stall
        self._token = token
        self._changed = Condition()
        self._running: list[_Copy] = []
        self._workers = 0
        self._look = inf
        """Monotonic s at which the caller looks again."""
        self._taken = False
        """A worker has begun."""
        self._hangs: Optional[PilotException] = None
        self._fault: Optional[Exception] = None

    def run(self, parallel: int) -> None:
        """Block until every order is settled, or the group was cancelled and the running copies have ended.

        An exception of ``settle`` is raised here, after the other copies.
        """
        self._token.on_cancel(self._wake)
        try:
            self._start(max(1, min(parallel, len(self._waiting))))
            with self._changed:
                while self._workers:
                    self._watch()
                if self._fault is not None:
                    raise self._fault
                if self._hangs is not None and not self._token.cancelled:
                    for transfer in [transfer for batch in self._waiting for transfer in batch]:
                        failure = self._failure(f"{transfer.lfn} was not tried: {self._hangs.detail}")
                        self._settle(transfer, failure, 0.0, time.time())
        finally:
            self._token.forget(self._wake)
            if self._shown and self._show is not None:
                self._show(())

    def _start(self, workers: int) -> None:
        for number in range(workers):
            with self._changed:
                self._workers += 1
            try:
                Thread(target=owners.for_the_same_job(self._work), name=f"copy-{number}", daemon=True).start()
            except RuntimeError:  # the limit of threads: fewer hands do it too, if need be this one, unwatched
                with self._changed:
                    self._workers -= 1
                break
        else:
            return
        if not self._workers and not self._taken:
            self._workers = 1
            self._work()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

    def _work(self) -> None:
        try:
            if not self._take_orders():
                return
        except Exception as exc:  # noqa: BLE001 - raised by run
            self._fault = exc
        with self._changed:
            self._workers -= 1
            self._changed.notify()

    def _take_orders(self) -> bool:
        """Carry out orders until there are no more; False when this worker was left behind meanwhile."""
        while True:
            with self._changed:
                stop = self._token.cancelled or self._hangs is not None or self._fault is not None
                if stop or not self._waiting:
                    return True
                batch = self._waiting.popleft()
                self._taken = True
                copy = _Copy(batch, self._stall.seconds(batch), self._token)
                self._running.append(copy)
                if copy.next_look() < self._look or (self._show is not None and self._look == inf):
                    self._changed.notify()
            if not self._carry_out(batch, copy):
                return False

    def _carry_out(self, batch: Sequence[Transfer], copy: _Copy) -> bool:
        """Move a batch and settle its files; False when it was given up meanwhile."""
        again: list[Transfer] = []

        def done(transfer: Transfer, outcome: Outcome) -> None:
            copy.progress(0)
            with self._changed:
                if copy not in self._running or copy.open.pop(id(transfer), None) is None:
                    return
                if isinstance(outcome, CancelledError) and not self._token.cancelled:
                    outcome = self._failure(outcome.detail)
                    outcome.remains = True  # its tool could not wait to see that the half of it is gone
                try:
                    other = self._settle(transfer, outcome, time.monotonic() - copy.began, copy.wall)
                except Exception as exc:  # noqa: BLE001 - raised by run
                    self._fault = exc
                    return
                if other is not None:
                    again.append(other)

        self._move(batch, copy.token, copy.progress, done)
        copy.token.detach()
        with self._changed:
            if copy not in self._running:
                return False
            self._running.remove(copy)
            if again:
                self._waiting.append(again)
        return True

    def _failure(self, text: str) -> TransferFailure:
        return TransferFailure(text, code=self._stall.code, state="CP_TIMEOUT")

    def _watch(self) -> None:
        """Do what has to be done about copies that hang, then sleep until the next look; the caller holds the lock."""
        now = time.monotonic()
        for copy in list(self._running):
            if copy.broken is None and self._token.cancelled:
                copy.broken = now
            elif copy.next_look() > now:
                continue
            elif copy.broken is None and not copy.open:
                copy.moved = now  # it is on its way back
            elif copy.broken is None:
                copy.broken = now
                copy.token.cancel(self._stall.code, self._stall.describe(next(iter(copy.open.values()))))
            else:
                self._leave_behind(copy, now)
        if not self._workers:
            return
        self._look = min((copy.next_look() for copy in self._running), default=inf)
        if self._show is not None:
            self._look = min(self._look, self._show_progress(self._show, now))
        self._changed.wait(None if self._look == inf else max(0.0, self._look - now))

    def _show_progress(self, show: Show, now: float) -> float:
        """Tell of long copies when it is time; returns the monotonic s of the next time."""
        first = min((copy.began for copy in self._running), default=inf) + SHOW_AFTER
        if first <= now and (self._next_show <= now or not self._shown):
            self._shown, self._next_show = True, now + SHOW_EVERY
            show([copy.moving() for copy in self._running if copy.began + SHOW_AFTER <= now])
        return max(first, self._next_show) if self._shown else first

    def _leave_behind(self, copy: _Copy, now: float) -> None:
        self._running.remove(copy)
        self._workers -= 1
        self._hangs = self._failure(f"{copy.token.reason}; it cannot be broken off either and was left behind")
        for transfer in copy.open.values():
            self._settle(transfer, self._hangs, now - copy.began, copy.wall)
