"""A control component: one thread with one typed inbox. It blocks there, does what a message asks for, and posts on."""

from __future__ import annotations

import logging
import queue
import threading
import traceback
from typing import TYPE_CHECKING, Any, Optional

from pilot.common.exception import PilotException
from pilot.util.logowner import owners

if TYPE_CHECKING:
    from pilot.context import PilotContext

logger = logging.getLogger(__name__)


class Component:
    """Base of the components. Subclasses implement ``handle``; an exception there ends the message, not the thread."""

    name = "component"

    def __init__(self, ctx: PilotContext) -> None:
        self.ctx = ctx
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def post(self, message: object) -> None:
        """Put a message into the inbox; never blocks."""
        self._inbox.put(message)

    def stop(self) -> None:
        """Let the thread end once it has worked through its inbox."""
        self._inbox.put(None)

    def join(self, timeout: float) -> None:
        """Wait for the thread's end at most ``timeout`` s."""
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def say(self, line: str) -> None:
        """Publish what the component is doing now (``--status`` shows it)."""
        self.ctx.store.set_status(self.name, line)

    def next_timeout(self) -> Optional[float]:
        """Seconds until :meth:`timeout` has to be called; None = wait for a message for ever."""
        return None

    def timeout(self) -> None:
        """Called when :meth:`next_timeout` has passed without a message."""

    def handle(self, message: Any) -> None:
        """Do what ``message`` asks for."""
        raise NotImplementedError

    def failed(self, message: Any, exc: BaseException) -> None:
        """An exception left :meth:`handle`: end what the message was about in an orderly way."""

    def _run(self) -> None:
        while True:
            try:
                message = self._inbox.get(timeout=self.next_timeout())
            except queue.Empty:
                self._guard(None)
                continue
            if message is None:
                return
            self._guard(message)

    def _guard(self, message: Any) -> None:
        owners.work_for(getattr(getattr(message, "job", None), "jobid", ""))
        try:
            if message is None:
                self.timeout()
            else:
                self.handle(message)
        except Exception as exc:  # noqa: BLE001 - the last line of defence: the thread must live on
            logger.error("internal error in component %s at %r: %s", self.name, message, exc)
            logger.error("%s", traceback.format_exc())
            self._end_message(message, exc)

    def _end_message(self, message: Any, exc: BaseException) -> None:
        try:
            self.failed(message, exc)
        except Exception:  # noqa: BLE001 - the thread must live on for the other jobs
            logger.critical("component %s could not end %r in an orderly way:\n%s", self.name, message,
                            traceback.format_exc())
            job = getattr(message, "job", None)
            if job is not None:
                self.ctx.road.drop(job, f"internal error of the pilot: {describe(exc)[1]}")


def describe(exc: BaseException) -> tuple[int, str]:
    """Return (pilot code, text) of any exception: a PilotException's own, 1098 for a full disk, else 1319."""
    if isinstance(exc, PilotException):
        return exc.code, exc.detail
    if isinstance(exc, OSError) and exc.errno is not None:
        import errno

        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            return 1098, f"{exc.strerror}: {exc.filename or 'work directory'}; free space or raise the quota"
        return 1303, f"{exc.strerror}: {exc.filename}" if exc.filename else str(exc)
    return 1319, f"{type(exc).__name__}: {exc}"
