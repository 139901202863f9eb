"""A token that tells long work to stop: why, and by when; it wakes every blocking wait at once."""

from __future__ import annotations

import time
from threading import Event, Lock
from typing import Callable

from pilot.common.exception import PilotException


class CancelledError(PilotException):
    """The work was broken off by its owner: kill by the server, a signal, a limit."""

    default_code = 1200


class CancelToken:
    """Cancellation of one piece of work; thread-safe; the first reason wins.

    ``code`` and ``reason`` say why; ``deadline`` (``time.monotonic()`` seconds) is when even orderly work must be over.
    A parent token cancels its children.
    """

    def __init__(self, parent: CancelToken | None = None) -> None:
        self._event = Event()
        self._lock = Lock()
        self._callbacks: list[Callable[[], None]] = []
        self.code = 0
        self.reason = ""
        self._deadline: float | None = None
        self._parent = parent
        if parent is not None:
            parent.on_cancel(self._follow_parent)

    def _follow_parent(self) -> None:
        assert self._parent is not None
        self.cancel(self._parent.code, self._parent.reason)

    @property
    def cancelled(self) -> bool:
        """True once the work is to stop."""
        return self._event.is_set()

    def cancel(self, code: int, reason: str) -> bool:
        """Ask for the end; returns False when somebody else did before. Callbacks run in the caller's thread."""
        with self._lock:
            if self._event.is_set():
                return False
            self.code, self.reason = code, reason
            self._event.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()
        return True

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once when cancelled (at once when that has happened already). It must not block."""
        with self._lock:
            if not self._event.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def forget(self, callback: Callable[[], None]) -> None:
        """Take a callback back; silently nothing when it has run or was never given."""
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

    def detach(self) -> None:
        """The work is over: a parent that lives on no longer keeps this token."""
        if self._parent is not None:
            self._parent.forget(self._follow_parent)

    def set_deadline(self, deadline: float) -> None:
        """Set the latest end in ``time.monotonic()`` seconds; an earlier deadline stays."""
        with self._lock:
            if self._deadline is None or deadline < self._deadline:
                self._deadline = deadline

    @property
    def deadline(self) -> float | None:
        """Latest end (monotonic seconds), or None: the earliest of its own and its parent's."""
        own = self._deadline
        parent = self._parent.deadline if self._parent is not None else None
        if own is None or parent is None:
            return own if parent is None else parent
        return min(own, parent)

    def remaining(self, default: float) -> float:
        """Seconds until the deadline (never negative), ``default`` when there is none."""
        deadline = self.deadline
        return default if deadline is None else max(0.0, deadline - time.monotonic())

    def wait(self, timeout: float | None = None) -> bool:
        """Block until cancelled or ``timeout`` s have passed; True when cancelled."""
        return self._event.wait(timeout)

    def check(self) -> None:
        """Raise CancelledError when cancelled."""
        if self._event.is_set():
            raise CancelledError(self.reason, code=self.code)
