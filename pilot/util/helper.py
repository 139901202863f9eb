"""Helper processes: client libraries that may hang, crash or leak live in a process that can be killed.

```
 transfer thread ── call() ──► {"id":7,"op":"copy",...} ──► stdin  ┐  helper: one thread per order,
        ▲                                                          │  the library imported once
        └── events, result ◄── helper's thread ◄── stdout, stderr ◄┘
 cancelled:  {"cancel":7} ──► the library's own abort; no answer within 0.7 s: the call is given up, the helper
             finishes its clean-up (remote partial files) within 3 s or is killed with its children
 helper dead: orders of others are given to a new helper, once
```
One line of JSON per message. A helper ends by itself when the pilot vanishes (end of its stdin).
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from queue import Empty
from typing import Any, Callable, Iterator, Mapping, Optional

from pilot.common.exception import MiddlewareImportFailure, PilotException
from pilot.util.cancel import CancelToken
from pilot.util.helperprocess import Call, HelperProcess

logger = logging.getLogger(__name__)

GRACE = 0.7
"""Seconds that a cancelled order has for its answer."""
FORGOTTEN = 600.0
"""Seconds after which an environment without a helper is forgotten: each job of a pilot has its own."""
MOST = 4
"""Helpers of one library with different environments (a token was renewed, another proxy for outputs) that are kept."""
Event = Mapping[str, Any]


class HelperFailure(Exception):
    """The library refused; ``facts`` is what it said (``text``, ``errno``, ``xrootd``, ``status``, ...)."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        super().__init__(str(facts.get("text", "")))
        self.facts = facts
        self.text = str(facts.get("text", "")) or "no text"


class HelperLost(PilotException):
    """The helper process ended in the middle of an order (a crash of the client library, or killed from outside)."""

    default_code = 1099


class _Slot:
    """The helpers of one library and environment, one after the other."""

    def __init__(self, pythons: tuple[str, ...]) -> None:
        self.pythons = pythons
        self.turn = 0
        self.used = time.monotonic()
        """Monotonic s of the last order."""
        self.helper: Optional[HelperProcess] = None
        self.failed: list[HelperProcess] = []
        self.verdicts: dict[HelperProcess, str] = {}
        """Last one of a series that did not start -> what its waiters are told."""
        self.missing = ""
        """No Python here has the library: nobody needs to try again."""

    def next_python(self) -> str:
        """Return the one that worked, or the next to try."""
        return self.pythons[self.turn]

    def note_failure(self, helper: HelperProcess) -> None:
        """A helper did not start: go on to the next Python, or give up."""
        if self.helper is not helper:
            return  # another waiter has seen to it
        self.helper = None
        self.failed.append(helper)
        self.turn += 1
        if self.turn < len(self.pythons):
            return
        text = "; ".join(each.problem for each in self.failed)
        if all(each.missing for each in self.failed):
            self.missing = text
        self.verdicts = {helper: text}
        self.failed, self.turn = [], 0


class HelperPool:
    """The helpers of one pilot: started by the first order for a library, shared by all transfers, ended with the last
    session. Thread-safe.

    Args:
        workdir: where helpers run (client libraries write their logs there).
        pythons: interpreters to try, in order; empty = the pilot's own, then the system's ``python3``.
    """

    def __init__(self, workdir: Path = Path("/"), pythons: tuple[str, ...] = ()) -> None:
        self._workdir = str(workdir)
        self._pythons = pythons
        self._lock = threading.Lock()
        self._slots: dict[tuple[str, frozenset[tuple[str, str]]], _Slot] = {}
        self._old: list[HelperProcess] = []
        self._sessions = 0

    @contextmanager
    def session(self) -> Iterator[HelperPool]:
        """Helpers live at least as long as a session is open; after the last one they end."""
        with self._lock:
            self._sessions += 1
        try:
            yield self
        finally:
            with self._lock:
                self._sessions -= 1
                last = self._sessions == 0
            if last:
                self.close()

    def close(self, *, at_once: bool = False, wait: float = 0.0) -> None:
        """End all helpers when their orders are done; ``at_once``: kill them, their orders fail.

        ``wait``: s that the caller has for their end at most.
        """
        with self._lock:
            helpers = [slot.helper for slot in self._slots.values() if slot.helper is not None] + self._old
            for slot in self._slots.values():
                slot.helper = None
            self._old = [helper for helper in helpers if not helper.ended]
        for helper in helpers:
            helper.close(at_once=at_once)
        deadline = time.monotonic() + wait
        for helper in helpers if wait else ():
            helper.gone.wait(max(0.0, deadline - time.monotonic()))

    def call(
        self,
        library: str,
        op: str,
        args: Mapping[str, Any],
        *,
        env: Mapping[str, str],
        token: CancelToken,
        on_event: Optional[Callable[[Event], None]] = None,
    ) -> dict[str, Any]:
        """Have ``op`` of the worker module ``library`` done; blocks until its result.

        Args:
            library: module of ``pilot.copytool.worker``, or the full name of a module elsewhere (``package.module``).
            op: operation of the module.
            args: what the operation needs; goes to the helper as JSON.
            env: complete environment of the helper: helpers with different ones are different processes.
            token: cancelled = the order is broken off, within about a second.
            on_event: gets what the operation tells meanwhile; called in this thread.

        Raises:
            MiddlewareImportFailure: 1342, no interpreter here has the library.
            HelperFailure: the library refused.
            HelperLost: 1099, the helper died twice.
            CancelledError: the token was cancelled.
        """
        lost = ""
        begun = False

        def note(event: Event) -> None:
            nonlocal begun
            begun = True
            if on_event is not None:
                on_event(event)

        for _attempt in (1, 2):
            token.check()
            helper, call = self._order(library, op, args, env, token, again=begun)
            kind, value = self._wait(helper, call, token, note)
            if kind == "result":
                return dict(value or {})
            if kind == "failure":
                token.check()
                raise HelperFailure(value or {})
            lost = str(value)
            if helper.dismissed:
                break
            logger.warning("%s", lost)
        token.check()
        raise HelperLost(lost)

    def missing(self, library: str, env: Mapping[str, str], token: Optional[CancelToken] = None) -> str:
        """Return why the library cannot be used here, an empty text when it can; starts the helper to find out."""
        try:
            self._helper(library, env, token or CancelToken())
        except MiddlewareImportFailure as exc:
            return exc.detail
        return ""

    def _order(
        self, library: str, op: str, args: Mapping[str, Any], env: Mapping[str, str], token: CancelToken, *, again: bool
    ) -> tuple[HelperProcess, Call]:
        while True:
            helper = self._helper(library, env, token)
            call = helper.submit(op, args, again=again)
            if call is not None:
                return helper, call

    def _wait(
        self, helper: HelperProcess, call: Call, token: CancelToken, on_event: Callable[[Event], None]
    ) -> tuple[str, Any]:
        limit: Optional[float] = None

        def wake() -> None:
            call.inbox.put(("cancel", None))

        token.on_cancel(wake)
        try:
            while True:
                try:
                    kind, value = call.inbox.get(timeout=None if limit is None else max(0.0, limit - time.monotonic()))
                except Empty:
                    token.check()
                    raise HelperLost(f"{helper.library} gave no answer") from None
                if kind == "cancel":
                    limit = time.monotonic() + GRACE
                    helper.cancel(call)
                elif kind == "event":
                    if limit is None:
                        on_event(value)
                else:
                    return kind, value
        except BaseException:
            helper.cancel(call)
            helper.abandon(call)
            raise
        finally:
            token.forget(wake)

    def _helper(self, library: str, env: Mapping[str, str], token: CancelToken) -> HelperProcess:
        """Return a helper that has started; a start that hangs holds nobody whose token is cancelled."""
        key = (library, frozenset(env.items()))
        with self._lock:
            slot = self._slots.get(key)
            if slot is None:
                self._forget()
                slot = self._slots[key] = _Slot(self._pythons or _pythons())
        while True:
            with self._lock:
                if slot.missing:
                    raise MiddlewareImportFailure(slot.missing)
                slot.used = time.monotonic()
                helper = slot.helper
                if helper is None or (helper.retired and helper.started and not helper.problem):
                    self._old = [each for each in (*self._old, helper) if each is not None and not each.ended]
                    helper = slot.helper = HelperProcess(library, slot.next_python(), env, self._workdir)
                    self._thin_out(library)
            _wait_for_start(helper, token)
            if not helper.problem:
                return helper
            if helper.closed:
                raise HelperLost(f"{library}: the helper processes were ended before the order was begun")
            with self._lock:
                slot.note_failure(helper)
                if helper in slot.verdicts:
                    raise MiddlewareImportFailure(slot.verdicts[helper])

    def _forget(self) -> None:
        """Drop environments of long ago: they hold tokens, and a pilot may live for days. The caller locks."""
        old = time.monotonic() - FORGOTTEN
        self._slots = {key: slot for key, slot in self._slots.items() if slot.helper is not None or slot.used > old}

    def _thin_out(self, library: str) -> None:
        """Let the helpers go that have not been used for longest; they finish what they have. The caller locks."""
        rivals = [slot for (name, _), slot in self._slots.items() if name == library and slot.helper is not None]
        for slot in sorted(rivals, key=lambda slot: slot.used)[:-MOST]:
            if slot.helper is not None and slot.helper.started:  # one that starts is waited for
                slot.helper.close()
                self._old.append(slot.helper)
                slot.helper = None


def _wait_for_start(helper: HelperProcess, token: CancelToken) -> None:
    """Block until the helper is ready or has a problem.

    Raises:
        CancelledError: the token was cancelled.
    """
    if helper.started:
        return
    woken = threading.Event()
    helper.when_started(woken.set)
    token.on_cancel(woken.set)
    try:
        woken.wait()
    finally:
        token.forget(woken.set)
    if not helper.started:
        token.check()


def _pythons() -> tuple[str, ...]:
    """The pilot's interpreter, then the system's: distributions package gfal2 and XRootD for the latter only."""
    from shutil import which

    found = [sys.executable, which("python3") or "", "/usr/bin/python3"]
    return tuple(dict.fromkeys(path for path in found if path and os.access(path, os.X_OK)))
