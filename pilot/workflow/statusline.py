"""On a terminal: one line below the log that says what the pilot is doing now, and how far its transfers are.

::

    job 7  payload 3 min 20 s  1.98 cores, CPU 6 min 30 s, RSS 1.20 GB
    job 7  stagein 12 s  data.root 42% (1.20 GB of 2.86 GB), 98.1 MB/s

It is looked at once a second, in memory only, and written when it has changed. Log lines take its place, and it comes
again below them (``util/logs.py``). The terminal's modes stay as they are: taking the line away restores everything.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Optional

from pilot.report.text import duration, percent, size
from pilot.store.viewrows import Moving
from pilot.util.logs import ERASE, SafeStreamHandler, one_record, stream_handler

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.control.lifecycle import Stage

logger = logging.getLogger(__name__)

_PERIOD = 1.0
"""s between two looks."""
_NAME = 32
"""Characters of a file's name."""


class StatusLine:
    """Keeps the line; a thread of its own."""

    def __init__(self, ctx: PilotContext) -> None:
        self._ctx = ctx
        self._handler: Optional[SafeStreamHandler] = None
        self._descriptor = -1
        self._over = threading.Event()
        self._words = ""
        """What there is to say. Made without the log's lock: whoever holds another lock may be about to log."""
        self._shown = ""
        self._since: dict[str, tuple[Stage, float]] = {}
        """Job -> its stage, and the monotonic s at which it was first seen there."""
        self._thread = threading.Thread(target=self._run, name="status-line", daemon=True)

    def start(self) -> bool:
        """Begin; False when the log does not go to the terminal."""
        handler = stream_handler()
        if handler is None or handler.stream is None:
            return False
        try:
            self._descriptor = handler.stream.fileno()
            self._thread.start()
        except (OSError, ValueError, RuntimeError) as exc:
            logger.debug("no status line: %s", exc)
            return False
        self._handler = handler
        handler.line = self
        return True

    def close(self) -> None:
        """Take the line away; once it has returned nothing more is written."""
        self._over.set()
        handler, self._handler = self._handler, None
        if handler is None:
            return
        handler.acquire()
        try:
            handler.line = None
            if handler.stream is not None:
                handler.stream.write(ERASE)
                handler.stream.flush()
        except (OSError, ValueError):
            return  # the terminal is gone
        finally:
            handler.release()

    def look(self) -> None:
        """Find out what there is to say now."""
        words = one_record(" | ".join(self._jobs()) or self._without_job()).replace("\n", " ")
        self._words = words.encode("ascii", "replace").decode()  # one character, one column

    def text(self) -> str:
        """Return the line as it fits the terminal now; '' while another program has the terminal."""
        if not self._in_front():
            return ""
        try:
            columns = os.get_terminal_size(self._descriptor).columns or 80
        except OSError:
            columns = 80
        words = self._words
        return words if len(words) < columns else f"{words[:max(0, columns - 4)]}..."[:max(0, columns - 1)]

    def _in_front(self) -> bool:
        """Whether the terminal is this process group's; it is also when the terminal knows no such groups."""
        try:
            return os.tcgetpgrp(self._descriptor) == os.getpgrp()
        except OSError:
            return True

    def _run(self) -> None:
        while not self._over.wait(_PERIOD):
            handler = self._handler
            if handler is None or handler.stream is None:
                return
            try:
                self.look()
            except Exception as exc:  # noqa: BLE001 - a view never puts a traceback on somebody's terminal
                logger.debug("the status line cannot be made: %s: %s", type(exc).__name__, exc)
                continue
            handler.acquire()
            try:
                words = self.text()
                if handler.line is self and words and words != self._shown:
                    handler.write("", self)
                    self._shown = words
            except (OSError, ValueError) as exc:
                logger.debug("no status line any more: %s", exc)
                return
            finally:
                handler.release()

    # --- what it says -------------------------------------------------------------------------------------------------

    def _jobs(self) -> list[str]:
        road = getattr(self._ctx, "road", None)
        if road is None:
            return []
        tracks = [(job.jobid, road.track(job.jobid)) for job in road.jobs()]
        return [self._job(job_id, track.state.stage) for job_id, track in tracks if track is not None]

    def _job(self, job_id: str, stage: Stage) -> str:
        now = time.monotonic()
        known = self._since.get(job_id)
        if known is None or known[0] is not stage:
            known = self._since[job_id] = (stage, now)
        words = f"job {job_id}  {stage.value} {duration(now - known[1])}"
        copies = [copy for (owner, _), found in list(self._ctx.store.moving.items()) if owner == job_id
                  for copy in found]
        sample = self._ctx.store.newest.get(job_id)
        if copies:
            more = [f"{len(copies) - 2} more"] if len(copies) > 2 else []
            return f"{words}  {'; '.join([*map(_copy, copies[:2]), *more])}"
        if sample is not None and stage.value == "payload":
            memory = f"PSS {size(sample.pss)}" if sample.pss else f"RSS {size(sample.rss)}"
            return f"{words}  {sample.cores:.2f} cores, CPU {duration(sample.cpu)}, {memory}"
        return words

    def _without_job(self) -> str:
        line = self._ctx.store.present_status("getjob")
        return f"no job  {line}" if line and line != "idle" else "no job"


def _copy(copy: Moving) -> str:
    seconds = copy.at - copy.began
    name = copy.lfn if len(copy.lfn) <= _NAME else f"{copy.lfn[:_NAME - 3]}..."
    share = percent(copy.bytes, copy.total)
    if not copy.bytes or seconds <= 0:
        return f"{name} for {duration(seconds)}"
    done = f"{share}% ({size(copy.bytes)} of {size(copy.total)})" if share is not None else size(copy.bytes)
    return f"{name} {done}, {size(copy.bytes / seconds)}/s"
