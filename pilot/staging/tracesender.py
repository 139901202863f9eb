"""Sends Rucio traces in the background: no transfer, no job and no report ever waits for the trace server.

::

    PilotDB, table traces ──► sender thread ── one POST with all that waits (at most BATCH) ──► trace server
          ▲                        ▲              201: marked as sent
          │ stored first           │ wake         4xx: once more one by one; one that is refused alone is dropped
    transfer threads ──────────────┘              no answer, 5xx: a pause with jitter, then again
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from pathlib import Path
from typing import Callable, NamedTuple, Optional, Sequence

from pilot.store.pilotdb import PilotDB
from pilot.store.transferrows import TraceEntry
from pilot.util.backoff import Backoff
from pilot.util.hostnames import HostNames
from pilot.util.redact import redact

logger = logging.getLogger(__name__)

BATCH = 200
"""Traces in one request at most."""
HOST_PATIENCE = 5.0
"""Seconds that traces wait at most for the node's name to be looked up."""
_AGAIN = frozenset({408, 425, 429})
"""HTTP codes from 400 to 499 after which the same request may be taken later."""

REFUSED, UNREACHABLE = 1, 7
"""Values of ``rucioTraceError``: an answer that is no success; no answer (curl's code for it)."""


class Answer(NamedTuple):
    """What came of a request; ``status`` 0 = no answer at all."""

    status: int
    text: str

    @property
    def taken(self) -> bool:
        """The server has the traces."""
        return self.status in (200, 201)

    @property
    def refused(self) -> bool:
        """The same request will never be taken."""
        return 400 <= self.status < 500 and self.status not in _AGAIN

    @property
    def shown(self) -> str:
        """One line for the log."""
        return redact(" ".join(f"{f'HTTP {self.status}: ' if self.status else ''}{self.text}".split()))[:300]


Post = Callable[[bytes], Answer]
"""Sends a JSON text; bounded in time; raises nothing."""


def body_of(entries: Sequence[TraceEntry], hosts: HostNames) -> bytes:
    """Return the request for some traces: a JSON array, the names of the node completed."""
    traces = []
    for entry in entries:
        name, address = hosts.get(str(entry.trace.get("hostname", "")))
        traces.append({**entry.trace, "hostname": name, "ip": address})
    return json.dumps(traces).encode()


def settle(store: PilotDB, entries: Sequence[TraceEntry], answer: Answer) -> None:
    """Mark what became of some traces. Several that were refused together are left as they are: to be sent alone."""
    ids = [entry.id for entry in entries]
    if answer.taken:
        store.mark_traces_sent(ids)
    elif not answer.refused:
        store.mark_traces_failed(ids, answer.shown)
    elif len(entries) == 1:
        logger.warning("the trace server refuses the trace of %s, which is dropped: %s", entries[0].transfer_id,
                       answer.shown)
        store.mark_traces_dropped(ids, answer.shown)


def deliver_waiting(store: PilotDB, post: Post, hosts: Optional[HostNames] = None) -> tuple[int, int, str]:
    """Send all that waits in a database, until a trace that goes alone gets no good answer.

    Returns:
        How many were sent, how many still wait, and why.
    """
    hosts = hosts or HostNames(HOST_PATIENCE)
    sent, alone = 0, 0
    while True:
        entries = store.open_traces(1 if alone else BATCH)
        if not entries:
            return sent, 0, ""
        answer = post(body_of(entries, hosts))
        settle(store, entries, answer)
        sent += len(entries) if answer.taken else 0
        if answer.taken or (answer.refused and len(entries) == 1):
            alone = max(0, alone - 1)
        elif answer.status and len(entries) > 1:
            alone = len(entries)
        else:
            return sent, store.waiting_traces(), answer.shown


class TraceSender:
    """The sending thread of one pilot; it runs from the construction on.

    Args:
        store: where traces wait.
        post: sends one request.
        retry_base, retry_max: bounds of the pauses after failures, s.
        break_off: ends a request that is in flight.
        error_file: name of the file in a job's directory that tells of traces that fail; empty = none.
        hosts: the look-up of the node's name.
    """

    def __init__(
        self,
        store: PilotDB,
        post: Post,
        *,
        retry_base: float,
        retry_max: float,
        break_off: Callable[[], None] = lambda: None,
        error_file: str = "",
        hosts: Optional[HostNames] = None,
    ) -> None:
        self._store = store
        self._post = post
        self._break_off = break_off
        self._error_file = error_file
        self._hosts = hosts or HostNames(HOST_PATIENCE)
        base = max(retry_base, 0.01)
        self._backoff = Backoff(base, max(retry_max, base))
        self._condition = threading.Condition()
        self._wanted = False
        """Something may wait in the store."""
        self._closed = threading.Event()
        self._failed = False
        """The latest request has failed."""
        self._paused_until = 0.0
        self._alone = 0
        """So many traces go in requests of their own, because the server has not taken them together."""
        self._directories: dict[str, Path] = {}
        self._errors: dict[str, int] = {}
        self._idle_calls: list[Callable[[], None]] = []
        threading.Thread(target=self._run, name="traces", daemon=True).start()

    # --- what others call ---------------------------------------------------------------------------------------------

    def wake(self, job_id: str = "", directory: Optional[Path] = None) -> None:
        """There is a new trace in the store, of a job with this directory; returns at once."""
        with self._condition:
            if directory is not None:
                self._directories[job_id] = directory
            self._wanted = True
            self._condition.notify_all()

    def error(self, job_id: str) -> int:
        """What is wrong with the latest traces of a job: 0 = nothing, else REFUSED or UNREACHABLE."""
        with self._condition:
            return self._errors.get(job_id, 0)

    def begin_end(self, done: Callable[[], None]) -> None:
        """The pilot is about to end: one try at once, names are waited for no longer.

        ``done`` is called by the sender's thread (or at once) when all is sent, or when a request has failed.
        """
        self._hosts.hurry()
        with self._condition:
            if not self._closed.is_set():
                self._idle_calls.append(done)
                self._paused_until = 0.0
                self._failed = False
                self._wanted = True
                self._condition.notify_all()
                return
        done()

    def close(self) -> None:
        """End the sender: what is not sent stays in the store, which is left alone once this has returned."""
        with self._condition:
            self._closed.set()
            self._condition.notify_all()
        self._hosts.hurry()
        self._break_off()

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._wait():
                while self._turn():
                    pass
                self._tell_idle()
        except Exception:  # a fault in here costs traces, never a job
            logger.exception("internal error: no more traces are sent, they stay in the PilotDB")
            with self._condition:
                self._closed.set()
                self._failed = True
        self._tell_idle()

    def _wait(self) -> bool:
        """Block until there is something to be sent; False = the end."""
        with self._condition:
            while not self._closed.is_set():
                pause = self._paused_until - time.monotonic()
                if self._wanted and pause <= 0:
                    self._wanted = False
                    return True
                self._condition.wait(pause if self._wanted else None)
            return False

    def _tell_idle(self) -> None:
        with self._condition:
            if self._wanted and not self._failed and not self._closed.is_set():
                return
            calls, self._idle_calls = self._idle_calls, []
        for call in calls:
            call()

    def _turn(self) -> bool:
        """Make one request; False when nothing waits, or when it is time for a pause."""
        with self._condition:
            if self._closed.is_set():
                return False  # the store may be gone
            entries = self._store.open_traces(1 if self._alone else BATCH)
        if not entries:
            return False
        answer = self._post(body_of(entries, self._hosts))
        with self._condition:
            if self._closed.is_set():
                return False
            settle(self._store, entries, answer)
            self._note_errors(entries, 0 if answer.taken else REFUSED if answer.status else UNREACHABLE)
            together = len(entries) > 1
            self._alone = len(entries) if answer.status and together and not answer.taken else max(0, self._alone - 1)
            if answer.taken or answer.refused:
                self._failed = False
                self._backoff.reset()
                return True
            self._failed = self._wanted = True
            wait = self._backoff.next()
            self._paused_until = time.monotonic() + wait
        level = logging.WARNING if self._backoff.tries in (1, 10, 100) else logging.DEBUG
        logger.log(level, "%d trace(s) were not taken (%s); they wait, next try in %.1f s", len(entries), answer.shown,
                   wait)
        return False

    def _note_errors(self, entries: Sequence[TraceEntry], code: int) -> None:
        """Keep for the job metrics, and tell in the job's directory, whether its traces get away."""
        for job_id in {entry.job_id for entry in entries}:
            if self._errors.get(job_id, 0) == code:
                continue
            self._errors[job_id] = code
            directory = self._directories.get(job_id)
            if directory is not None and self._error_file:
                _write_error(directory / Path(self._error_file).name, code)


def _write_error(path: Path, code: int) -> None:
    """Write the number, or remove the file when all is well; the payload may have put anything in its place."""
    try:
        if not code:
            path.unlink(missing_ok=True)
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o644)
        try:
            os.write(descriptor, f"{code}\n".encode())
        finally:
            os.close(descriptor)
    except OSError as exc:
        logger.debug("%s was not written: %s", path, exc.strerror)
