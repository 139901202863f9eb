"""Reports leave on their own thread: stored first, then sent, then marked; repeated until the server acknowledges.

::

    component ──post()──► PilotDB.outbox ──► sender thread ──► PanDA server
                                                 │ acknowledged: mark;  refused or unreachable: back off, again
                                                 └── commands in the answer ──► on_command(job id, commands)

Stale heartbeats are superseded in the store, final reports never. When the sender is stuck in a request (a hanging
server) a final report gets a second lane, so that a deadline can be kept.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Callable, Optional, Protocol

from pilot.panda.answers import UpdateAnswer, Verdict
from pilot.panda.commands import Commands, parse_commands
from pilot.panda.messages import reduced
from pilot.panda.server import PandaServer
from pilot.settings import Settings
from pilot.store.pilotdb import OutboxEntry, PilotDB
from pilot.util.backoff import Backoff

logger = logging.getLogger(__name__)

CommandHandler = Callable[[str, Commands], None]

# A message that needs this long has a stuck server before it: final reports then go by another connection.
_STUCK_AFTER = 1.0


class Reporter(Protocol):
    """What the control components see of the reporting."""

    last_success: float
    """Monotonic time of the last acknowledged message."""

    def post(self, job_id: str, message: Mapping[str, object], *, final: bool) -> None:
        """Store a message and have it sent; never blocks on the server."""

    def start(self) -> None:
        """Start the sender, if there is one."""

    def drain(self, seconds: float) -> int:
        """Wait at most ``seconds`` for the delivery of the final reports; number of those left."""

    def hurry(self) -> None:
        """Try again at once: a deadline is near, or the server may be back."""

    def close(self) -> None:
        """End the sender."""

    def trouble(self) -> str:
        """Return what is wrong with the sender's thread, '' when all is well."""

    def revive(self) -> None:
        """Send on by a new thread."""


class Outbox:
    """The sender of stored messages.

    Args:
        store: where messages are kept.
        server: where they go.
        settings: section ``server`` gives the pauses.
        on_command: called in the sender's thread with (job id, commands) of each answer to a heartbeat.
    """

    def __init__(self, store: PilotDB, server: PandaServer, settings: Settings, on_command: CommandHandler) -> None:
        self._store = store
        self._server = server
        self._settings = settings
        self._on_command = on_command
        self._condition = threading.Condition()
        self._closed = False
        self._in_flight: set[int] = set()
        self._busy_since: Optional[float] = None
        self._paused_until = 0.0
        self._urgent = False
        """A final report has come while another message was on its way: it does not wait when that one fails."""
        shortest = max(settings.server.retry_base, 0.01)
        self._backoff = Backoff(shortest, max(settings.server.retry_max, shortest))
        self._not_before: dict[int, float] = {}
        self._refusals: dict[int, int] = {}
        self._generation = 0
        self._waiting = bool(store.undelivered())
        self.last_success = time.monotonic()
        """Monotonic time of the last acknowledged message."""
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)

    def start(self) -> None:
        """Start the sender; what an earlier pilot left in the store goes out first."""
        self._thread.start()

    # --- what the components call ------------------------------------------------------------------------------------

    def post(self, job_id: str, message: Mapping[str, object], *, final: bool) -> None:
        """Store the message, wake the sender."""
        state = str(message.get("state", ""))
        number = self._store.put_message(job_id, message, final=final, state=state)
        with self._condition:
            self._waiting = True
            self._generation += 1
            if final:
                # the server may be back since the last heartbeat failed, or refuse the one in flight: one try at once
                self._paused_until = 0.0
                self._urgent = self._busy_since is not None
            stuck = self._busy_since is not None
            self._condition.notify_all()
        if final and stuck:
            try:
                threading.Thread(target=self._second_lane, args=(number,), name="reporter-2", daemon=True).start()
            except RuntimeError as exc:
                logger.warning("no second way for the final report of job %s, it waits for the first: %s", job_id, exc)

    def drain(self, seconds: float) -> int:
        """Wait at most ``seconds`` until all final reports are acknowledged or refused; number of those left."""
        limit = time.monotonic() + seconds
        with self._condition:
            while True:
                if self._closed:
                    return 0  # the store may be gone; nobody waits for the answer any more
                left = len(self._store.undelivered(finals_only=True))
                pause = limit - time.monotonic()
                if not left or pause <= 0:
                    return left
                self._condition.wait(pause)

    def hurry(self) -> None:
        """Look into the store and try at once: a deadline is near, the server may be back, a report was put there."""
        with self._condition:
            self._waiting = True
            self._paused_until = 0.0
            self._not_before.clear()
            self._backoff.reset()
            self._generation += 1
            self._condition.notify_all()

    def close(self) -> None:
        """End the sender after the message in flight; undelivered messages stay in the store."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    # --- the sender --------------------------------------------------------------------------------------------------

    def trouble(self) -> str:
        """Return what is wrong with the sender: ``has died``, ``is stuck``; '' when all is well."""
        if self._closed or self._thread.ident is None:
            return ""
        if not self._thread.is_alive():
            return "has died"
        since, server = self._busy_since, self._settings.server
        longest = 4 * (server.connect_timeout + server.read_timeout) + self._settings.monitor.call_time
        return "is stuck" if since is not None and time.monotonic() - since > longest else ""

    def revive(self) -> None:
        """Send on by a new thread; a stuck one ends when it comes back."""
        with self._condition:
            self._busy_since = None
            self._in_flight.clear()
            self._waiting = True
            self._generation += 1
            self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
            self._thread.start()
            self._condition.notify_all()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._closed and not self._waiting:
                    self._condition.wait()
                if self._closed or threading.current_thread() is not self._thread:
                    return
                generation = self._generation
            batch, pause = self._ready()
            if batch:
                self._busy_since = time.monotonic()
                try:
                    self._send(batch)
                finally:
                    with self._condition:
                        if threading.current_thread() is self._thread:
                            self._busy_since = None
                        self._condition.notify_all()
                continue
            with self._condition:
                if self._generation != generation:
                    continue
                self._waiting = pause is not None
                if pause is not None:
                    self._condition.wait(pause)

    def _ready(self) -> tuple[list[OutboxEntry], Optional[float]]:
        """Return the messages that may go now, or the seconds until the first one may (None: nothing is waiting)."""
        now = time.monotonic()
        with self._condition:
            if self._closed:
                return [], None  # the store may be gone
            entries = [entry for entry in self._store.undelivered() if entry.id not in self._in_flight]
            if not entries:
                return [], None
            if now < self._paused_until:
                return [], self._paused_until - now
            due = [entry for entry in entries if self._not_before.get(entry.id, 0.0) <= now]
            if not due:
                return [], min(self._not_before[entry.id] for entry in entries) - now
            # One message per job and turn; several jobs share a request.
            batch = list({entry.job_id: entry for entry in reversed(due)}.values())[::-1]
            self._in_flight.update(entry.id for entry in batch)
            return batch, None

    def _second_lane(self, number: int) -> None:
        """Deliver one final report by another connection when the sender stays stuck."""
        with self._condition:
            limit = time.monotonic() + _STUCK_AFTER
            stuck_since = self._busy_since
            while self._busy_since == stuck_since and time.monotonic() < limit and not self._closed:
                self._condition.wait(limit - time.monotonic())
            if self._closed or number in self._in_flight:
                return  # closed: the store may be gone already
            if stuck_since is None or self._busy_since != stuck_since:
                return  # the sender is free again: it does this
            entries = [entry for entry in self._store.undelivered(finals_only=True) if entry.id == number]
            if not entries:
                return
            self._in_flight.add(number)
        logger.warning("a request to the server hangs; the final report of job %s goes by another connection",
                       entries[0].job_id)
        self._send(entries)

    def _send(self, batch: list[OutboxEntry]) -> None:
        started = time.monotonic()
        try:
            messages = [self._prepared(entry) for entry in batch]
            answers = self._server.update_jobs(messages)
        except Exception as exc:  # a report must survive whatever a library throws
            logger.exception("unexpected error while sending an update")
            answers = [UpdateAnswer(Verdict.RETRY, text=str(exc))] * len(batch)
        seconds = time.monotonic() - started
        try:
            with self._condition:  # close() waits: once it has returned, the store is left alone
                unheard = [entry for entry, answer in zip(batch, answers) if answer.verdict is Verdict.RETRY]
                if unheard and not self._closed:
                    self._pause(unheard, next(answer.text for answer in answers if answer.verdict is Verdict.RETRY))
                for entry, answer in zip(batch, answers):
                    if answer.verdict is not Verdict.RETRY and not self._closed:
                        self._judge(entry, answer, seconds)
        finally:
            with self._condition:
                self._in_flight.difference_update(entry.id for entry in batch)
                # What failed is the sender's again. It may sleep: it saw nothing to do while the second lane was at it.
                self._waiting = True
                self._generation += 1
                self._condition.notify_all()

    def _prepared(self, entry: OutboxEntry) -> Mapping[str, object]:
        if self._refusals.get(entry.id, 0) < 2:
            return entry.message
        return reduced(entry.message)

    def _pause(self, batch: list[OutboxEntry], why: str) -> None:
        """No usable answer: the server, not the message, is in trouble; everything waits."""
        pause = 0.0 if self._urgent else self._backoff.next()
        self._paused_until = time.monotonic() + pause
        self._urgent = False
        for entry in batch:
            self._store.mark_attempt(entry.id, why)
        logger.warning("update of job %s was not delivered (%s); next try in %.1f s",
                       ", ".join(entry.job_id for entry in batch), why, pause)

    def _judge(self, entry: OutboxEntry, answer: UpdateAnswer, seconds: float) -> None:
        verdict = answer.verdict
        if verdict is Verdict.DELIVERED:
            self._delivered(entry, answer, seconds)
        elif verdict in (Verdict.INVALID, Verdict.DROP_FIELD):
            # the server client has left out what it could: what remains is our fault, and is no use repeating
            self._store.mark_refused(entry.id, answer.text)
            logger.error("the server calls the update of job %s (%s) invalid: %s; it is kept and not repeated",
                         entry.job_id, entry.state, answer.text)
        else:
            self._later(entry, answer)

    def _later(self, entry: OutboxEntry, answer: UpdateAnswer) -> None:
        """The server answered and did not take this message: another try, slowly or without the optional fields."""
        self._store.mark_attempt(entry.id, answer.text)
        if answer.verdict is Verdict.REFUSED:
            pause = self._settings.server.retry_max  # a proxy or token may be renewed
        else:
            self._refusals[entry.id] = self._refusals.get(entry.id, 0) + 1
            pause = 0.0 if self._refusals[entry.id] == 2 else self._backoff.next()
        self._not_before[entry.id] = time.monotonic() + pause
        logger.warning("the server did not take the update of job %s (%s): %s; next try in %.1f s",
                       entry.job_id, entry.state, answer.text, pause)

    def _delivered(self, entry: OutboxEntry, answer: UpdateAnswer, seconds: float) -> None:
        self._store.mark_delivered(entry.id)
        self._not_before.pop(entry.id, None)
        self._refusals.pop(entry.id, None)
        self._backoff.reset()
        self.last_success = time.monotonic()
        logger.info("job %s: server has '%s' (%.0f ms%s)", entry.job_id, entry.state, seconds * 1000,
                    f", command {answer.command}" if answer.words else "")
        if entry.final:
            os.environ["SERVER_UPDATE"] = "DONE_FINAL"  # plug-ins and scripts look at it
        else:
            # a command in the answer to a final report is no instruction (recorded)
            self._on_command(
                entry.job_id, parse_commands(answer.command)._replace(pilot_secrets=answer.pilot_secrets))


class FileReporter:
    """Reports to a file instead of the server (``-z``): writing it counts as delivery.

    Args:
        store: keeps the final reports for ``--status``.
        path: ``heartbeat.json``; replaced by rename, never truncated in place (readers look at any time).
    """

    def __init__(self, store: PilotDB, path: Path) -> None:
        self._store = store
        self._path = path
        self._left = 0
        self.last_success = time.monotonic()

    def start(self) -> None:
        """Nothing to start."""

    def post(self, job_id: str, message: Mapping[str, object], *, final: bool) -> None:
        """Write the message."""
        number = self._store.put_message(job_id, message, final=final, state=str(message.get("state", "")))
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                json.dump(dict(message), stream)
            os.replace(temporary, self._path)
        except OSError as exc:
            logger.error("update of job %s could not be written to %s: %s", job_id, self._path, exc)
            self._store.mark_attempt(number, str(exc))
            self._left += int(final)
            return
        self._store.mark_delivered(number)
        self.last_success = time.monotonic()

    def drain(self, seconds: float) -> int:
        """Number of final reports that could not be written."""
        return self._left

    def hurry(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing runs."""

    def trouble(self) -> str:
        """There is no sender."""
        return ""

    def revive(self) -> None:
        """Nothing to do."""
