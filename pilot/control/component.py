"""A control component: one thread with one typed inbox. It blocks there, does what a message asks for, and posts on."""

from __future__ import annotations

import logging
import queue
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, Optional

from pilot.common.exception import PilotException
from pilot.control.road import LeftBehind
from pilot.util.logowner import owners

if TYPE_CHECKING:
    from pilot.context import PilotContext

logger = logging.getLogger(__name__)


class Component:
    """Base of the components. Subclasses implement ``handle``; an exception there ends the message, not the thread.

    What a component does now is a step with a deadline (:meth:`say`); ``control/watch/watchdog.py`` looks.
    """

    name = "component"

    def __init__(self, ctx: PilotContext) -> None:
        self.ctx = ctx
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._stopped = False
        self.message: Any = None
        """In hand; None while it waits for one."""
        self._step_line = ""
        self._step_began = self._step_ends = float("inf")
        self.step_limit = float("inf")
        """s that the present step may take."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def post(self, message: object) -> None:
        """Put a message into the inbox; never blocks."""
        self._inbox.put(message)

    def stop(self) -> None:
        """Let the thread end once it has worked through its inbox."""
        self._stopped = True
        self._inbox.put(None)

    def join(self, timeout: float) -> None:
        """Wait for the thread's end at most ``timeout`` s."""
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    # --- what it is doing ---------------------------------------------------------------------------------------------

    def say(self, line: str, seconds: Optional[float] = None) -> None:
        """Publish what the component is doing now (``--status`` shows it), and begin a step.

        Args:
            line: what it does.
            seconds: that this may take before the component counts as stuck; None = as usual for it, infinite for what
                has limits of its own.
        """
        self.ctx.road.check_thread()
        self._step_line = line
        self.allow(self.step_time() if seconds is None else seconds)
        self.ctx.store.set_status(self.name, line)

    def allow(self, seconds: float) -> None:
        """Begin the present step's time anew: it has come on."""
        self.step_limit, self._step_began = seconds, time.monotonic()
        self._step_ends = self._step_began + seconds

    def step_time(self) -> float:
        """Seconds that a step of this component may take."""
        return float(self.ctx.settings.monitor.step_time)

    @property
    def lives(self) -> bool:
        """False when its thread has ended without being told to."""
        return self._stopped or self._thread.ident is None or self._thread.is_alive()

    def overdue(self, now: float) -> bool:
        """True when the step in hand should be over."""
        return self.message is not None and now > self._step_ends

    @property
    def doing(self) -> str:
        """Words for the step in hand."""
        line, seconds = self._step_line or type(self.message).__name__, time.monotonic() - self._step_began
        return f"'{line}' takes {seconds:.0f} s, allowed are {self.step_limit:.0f} s"

    def postpone(self, seconds: float) -> None:
        """Time has passed in which nobody could work."""
        self._step_ends += seconds

    def renew(self) -> None:
        """Go on with the next message in a new thread; the old one is left behind."""
        self.message = None
        self.ctx.road.leave_behind(self._thread)
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    # --- the thread ---------------------------------------------------------------------------------------------------

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
        try:
            self._loop()
        except LeftBehind:
            logger.warning("a thread of component %s that was stuck has come back: it ends", self.name)

    def _loop(self) -> None:
        while True:
            try:
                message = self._inbox.get(timeout=self.next_timeout())
            except queue.Empty:
                self._guard(_TIMEOUT)
                continue
            if self.ctx.road.is_left_behind():
                self._inbox.put(message)  # for the thread that has this one's place
                return
            if message is None:
                return
            self._guard(message)

    def _guard(self, message: Any) -> None:
        self.message = message
        self._step_line = "" if message is not _TIMEOUT else "a timer"
        self.allow(self.step_time())
        self._work(message)
        self.ctx.road.check_thread()
        self.message = None

    def _work(self, message: Any) -> None:
        owners.work_for(getattr(getattr(message, "job", None), "jobid", ""))
        try:
            if message is _TIMEOUT:
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


_TIMEOUT = object()
"""In the place of a message: the time of :meth:`Component.next_timeout` is over."""


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
