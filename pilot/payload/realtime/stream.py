"""The thread that follows a job's files and sends their lines. The files are its buffer: what a slow server does not
take stays there, up to a limit; memory holds one bounded queue. Nobody waits for it longer than he wants.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Optional

from pilot.payload.realtime.follow import Follower
from pilot.payload.realtime.plan import Plan
from pilot.payload.realtime.records import Record, make_record
from pilot.payload.realtime.sinks import Sink, SinkError, make_sink
from pilot.util.logowner import owners
from pilot.util.redact import redact

logger = logging.getLogger(__name__)

QUEUE_LINES = 4000
QUEUE_BYTES = 4 << 20
"""With so much in memory no more is read; one more piece of a file (``follow.CHUNK``) may come on top."""
BATCH_LINES = 500
BATCH_BYTES = 512 << 10
FLUSH_SECONDS = 10.0
"""After the end of the payload: so long the rest is tried to be sent."""
_LONGEST_PAUSE = 60.0
_TURN_BYTES = 16 << 20
"""Characters per file and turn, so that one file cannot keep the thread for itself."""


class Stream:
    """Sends the lines of one job; ``start``, ``finish`` (read to the end, flush), ``join``."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.sent = 0
        self.dropped = 0
        """Lines that were read and will never be sent."""
        self._followers = [Follower(file.find, file.root) for file in plan.files]
        self._queue: deque[Record] = deque()
        self._bytes = 0
        self._wake = threading.Event()
        self._ending = False
        self._limit = float("inf")
        self._pause_until = 0.0
        self._failures = 0
        self._told = False
        self._told_lost = False
        self._thread = threading.Thread(target=self._run, name=f"rtlog-{plan.job_id}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def running(self) -> bool:
        """True while its thread lives."""
        return self._thread.is_alive()

    def finish(self, seconds: float = FLUSH_SECONDS) -> None:
        """Let it read the files to their end and send what it can within ``seconds``; returns at once."""
        self._limit = min(self._limit, time.monotonic() + seconds)
        self._ending = True
        self._wake.set()

    def join(self, timeout: float) -> bool:
        """Wait at most ``timeout`` s for the thread's end; True when it has ended."""
        self._thread.join(max(0.0, timeout))
        if self._thread.is_alive():
            logger.warning("job %s: the log server hangs: real-time logging is given up, %s", self.plan.job_id,
                           self._balance())
            self._told = True
        return not self._thread.is_alive()

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        sink: Optional[Sink] = None
        owners.work_for(self.plan.job_id)  # what is said here belongs into this job's log
        try:
            sink = make_sink(self.plan)
            logger.info("job %s: real-time logging of %s to %s", self.plan.job_id,
                        ", ".join(file.name for file in self.plan.files), sink.place)
            self._loop(sink)
        except SinkError as exc:
            logger.warning("job %s: no real-time logging: %s", self.plan.job_id, exc)
        except Exception:  # a fault here must cost these lines only
            logger.exception("job %s: internal error in real-time logging", self.plan.job_id)
        finally:
            for follower in self._followers:
                follower.close()
            if sink is not None:
                sink.close()

    def _loop(self, sink: Sink) -> None:
        next_send = 0.0
        while True:
            ending = self._ending
            now = time.monotonic()
            due = ending or now >= next_send
            self._turn(sink, send=due and now >= self._pause_until, at_end=ending)
            if due:
                next_send = now + (sink.period or 0.0)
            if ending:
                self._flush(sink)
                break
            if self._wake.wait(self.plan.period):
                self._wake.clear()
        if not self._told:
            logger.log(logging.WARNING if self._lost() else logging.INFO, "job %s: real-time logging has ended: %s",
                       self.plan.job_id, self._balance())

    def _turn(self, sink: Sink, *, send: bool, at_end: bool) -> None:
        for follower in self._followers:
            follower.look()
            if follower.lost and not self._told_lost:
                self._told_lost = True
                logger.warning("job %s: real-time logging: %d bytes are left out, the files grow faster than lines can "
                               "be sent; what more is left out is said at the end", self.plan.job_id, follower.lost)
            taken = 0
            while taken < _TURN_BYTES and not (self._is_full() and not (send and self._send(sink))):
                if self._ending and time.monotonic() > self._limit:
                    return
                lines = follower.lines(at_end=at_end)
                if not lines and not follower.unread:
                    break
                for line in lines:
                    self._put(make_record(line, self.plan.fields))
                    taken += len(line) + 1
                taken += 1
        while send and self._queue and self._send(sink):
            pass

    def _put(self, record: Record) -> None:
        self._queue.append(record)
        self._bytes += len(record.text)

    def _is_full(self) -> bool:
        """True when no more is read: what the server does not take waits in the files (``follow.LAG_LIMIT``)."""
        return len(self._queue) > QUEUE_LINES or self._bytes > QUEUE_BYTES

    def _send(self, sink: Sink) -> bool:
        """Send one batch; False when the server does not take it now."""
        batch, size = [], 0
        for record in self._queue:
            batch.append(record)
            size += len(record.text)
            if len(batch) >= BATCH_LINES or size >= BATCH_BYTES:
                break
        if not batch:
            return True
        try:
            sink.send(batch)
        except SinkError as exc:
            if not exc.lost:
                self._failed(exc)
                return False
            if not self._failures:
                logger.warning("job %s: real-time logging: %d lines are refused: %s", self.plan.job_id, len(batch),
                               redact(str(exc)))
            self._failures += 1
            self.dropped += len(batch)
        else:
            if self._failures:
                logger.info("job %s: real-time logging: the server takes lines again", self.plan.job_id)
            self._failures, self._pause_until = 0, 0.0
            self.sent += len(batch)
        for record in batch:
            self._queue.popleft()
            self._bytes -= len(record.text)
        return True

    def _failed(self, exc: SinkError) -> None:
        if not self._failures:
            logger.warning("job %s: real-time logging waits, lines stay in their files: %s", self.plan.job_id,
                           redact(str(exc)))
        self._failures += 1
        pause = min(self.plan.period * 2 ** min(self._failures - 1, 10), _LONGEST_PAUSE)
        self._pause_until = time.monotonic() + pause

    def _flush(self, sink: Sink) -> None:
        """The last lines: tried until the time is up, with short pauses."""
        pause = 0.2
        while (self._queue or any(follower.unread for follower in self._followers)) and time.monotonic() < self._limit:
            if self._send(sink):
                self._turn(sink, send=True, at_end=True)
                continue
            time.sleep(min(pause, max(0.0, self._limit - time.monotonic())))  # not on the job's path
            pause *= 2

    def _lost(self) -> int:
        return self.dropped + len(self._queue) + sum(item.lost + item.unread for item in self._followers)

    def _balance(self) -> str:
        lost = sum(follower.lost + follower.unread for follower in self._followers)
        unread = f" and {lost} bytes that were not read" if lost else ""
        return f"{self.sent} lines sent, {self.dropped + len(self._queue)} lines dropped{unread}"
