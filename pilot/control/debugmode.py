"""Carries out the commands of debug mode beside the monitor, which must not wait for them; one at a time.

::

    monitor ── ask(job, command) ──► desk, a thread while there is something to do ── DebugAnswered ──► monitor
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Optional

from pilot.control.messages import DebugAnswered
from pilot.util.bounded import TookTooLong, bounded
from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.logowner import owners
from pilot.util.redact import redact

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.info.job import Job
    from pilot.payload.debugplace import DebugAnswer
    from pilot.payload.process import Child

logger = logging.getLogger(__name__)

_SPARE = 10.0
"""Seconds that a command gets beyond its own limit before it counts as hanging (a dead mount below the job)."""
_MAX_HANGING = 2
"""Commands that may hang for good; no other one is tried while there are so many."""


@dataclass(frozen=True)
class _Request:
    job: Job
    command: str
    child: Optional[Child]
    token: CancelToken


class DebugDesk:
    """Takes commands, answers them by messages to the monitor."""

    def __init__(self, ctx: PilotContext, post: Callable[[DebugAnswered], None]) -> None:
        self._ctx, self._post = ctx, post
        self._lock = threading.Lock()
        self._waiting: deque[_Request] = deque()
        self._open: dict[str, CancelToken] = {}
        self._works = False
        self._hanging = 0

    def ask(self, job: Job, command: str, child: Optional[Child]) -> bool:
        """Have a command carried out; returns at once.

        Args:
            job: whose directory and payload it is about.
            command: ``debug`` or a command of the operator.
            child: its payload, while it runs.

        Returns:
            False when the answer to an earlier command for this job is still to come: nothing is done then.
        """
        with self._lock:
            if job.jobid in self._open:
                return False
            request = _Request(job, command, child, CancelToken())
            self._open[job.jobid] = request.token
            self._waiting.append(request)
            if not self._works:
                self._works = True
                threading.Thread(target=self._work, name="debug-mode", daemon=True).start()
            return True

    def drop(self, job_id: str) -> None:
        """End what is being done for a job: nobody waits for the answer any more."""
        with self._lock:
            token = self._open.pop(job_id, None)
        if token is not None:
            token.cancel(1200, "debug mode is over")

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._works = False
                    return
                request = self._waiting.popleft()
            job_id = request.job.jobid
            owners.work_for(job_id)
            text, core = self._answer(request)
            with self._lock:
                wanted = self._open.get(job_id) is request.token
                if wanted:
                    del self._open[job_id]
            if wanted:
                self._post(DebugAnswered(job_id, request.command, text, str(core or "")))

    def _answer(self, request: _Request) -> tuple[str, Optional[Path]]:
        """Return text and core file; whatever goes wrong is a text."""
        from pilot.payload.debug import debug_answer
        from pilot.payload.debugplace import OUTPUT_LIMIT, DebugCommandRefused, DebugPlace
        from pilot.payload.textfiles import cut_bytes

        if self._hanging >= _MAX_HANGING:
            return f"{request.command}: not done, {self._hanging} earlier commands hang in the file system", None
        place = DebugPlace(request.job.workdir, self._ctx.supervisor, self._ctx.environ, request.child, request.token,
                           reserve=self._ctx.settings.pilot.free_space_limit)

        def call() -> DebugAnswer:
            with self._lock:
                self._hanging += 1
            try:
                return debug_answer(request.command, place)
            finally:
                with self._lock:
                    self._hanging -= 1

        limit = place.gdb_time_limit if request.command.lstrip().startswith("gdb") else place.time_limit
        try:
            return bounded(call, limit + _SPARE, request.token, "debug-command")
        except CancelledError:
            return "", None
        except DebugCommandRefused as exc:
            problem = exc.detail
        except (TookTooLong, OSError) as exc:
            problem = str(exc)
        except Exception as exc:  # a fault in here must not end debug mode, let alone the job
            logger.exception("job %s: debug command '%s' failed", request.job.jobid, request.command)
            problem = f"internal error: {type(exc).__name__}"
        return cut_bytes(redact(f"{request.command}: {problem}"), OUTPUT_LIMIT), None
