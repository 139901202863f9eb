"""Stop and abort as one small object: a reason, a deadline, and an event that wakes every blocking wait.

Signal handlers do nothing but post to it; the main thread, which blocks in :meth:`Shutdown.next_wake`, does the rest::

    kernel ──signal──► handler ──SimpleQueue + pipe──► main thread ──► Shutdown.begin() ──► token (wakes waits, ...)
                                                              └──────► road: SIGNAL event for every job on it

The pipe is what the main thread sleeps on: the kernel may hand a signal to any thread, and may do so in the moment
before the main thread falls asleep; a lock would sleep through both, a byte in a pipe is never missed.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import signal
import threading
import time
from types import FrameType
from typing import NamedTuple, Optional, Union

from pilot.common.errorcodes import SIGNAL_CODES
from pilot.util.cancel import CancelToken
from pilot.util.hardening import FAULTS, block_faults

logger = logging.getLogger(__name__)

# What the wrapper forwards and batch systems send. SIGCONT and SIGUSR2 reach the pilot too and must end nothing.
_ENDING_SIGNALS = ("SIGTERM", "SIGINT", "SIGQUIT", "SIGXCPU", "SIGUSR1", "SIGSEGV", "SIGBUS", "SIGHUP", "SIGALRM",
                   "SIGVTALRM", "SIGXFSZ", "SIGABRT", "SIGFPE", "SIGILL", "SIGPROF")
_HARMLESS_SIGNALS = ("SIGCONT", "SIGUSR2")


class StopReason(NamedTuple):
    """Why the pilot ends.

    ``code``: pilot error code for the jobs that are still on the road (0: none is aborted); ``exit_code``: pilot error
    code that decides the process's exit code (0: ends well); ``signum``: signal number, 0 when it was none.
    """

    text: str
    code: int = 0
    exit_code: int = 0
    signum: int = 0


class SignalArrived(NamedTuple):
    """A signal has arrived (posted by the handler)."""

    signum: int


class WorkDone(NamedTuple):
    """The road is empty and no more jobs will come."""


Wake = Union[SignalArrived, WorkDone]


def signal_code(signum: int, *, kubernetes: bool = False) -> tuple[int, str]:
    """Return (pilot code, signal name) for a signal; SIGTERM in a pod is a preemption.

    Source: the published signal table; decision 1 of the design (SIGUSR1 1206, SIGBUS 1207, others 1200).
    """
    try:
        name = signal.Signals(signum).name
    except ValueError:
        name = f"signal {signum}"
    if kubernetes and name == "SIGTERM":
        return 1379, name
    return SIGNAL_CODES.get(name, 1200), name


class Shutdown:
    """State of the pilot's end. The first reason wins; later signals neither extend nor shorten the deadline.

    Args:
        grace: seconds from the first signal to the latest exit.
        kubernetes: SIGTERM means preemption.
    """

    def __init__(self, grace: float, *, kubernetes: bool = False) -> None:
        self.grace = grace
        self.kubernetes = kubernetes
        self.stopping = CancelToken()
        """Cancelled: no further job is fetched, waits for one end at once."""
        self.reason: Optional[StopReason] = None
        self._wakes: queue.SimpleQueue[Wake] = queue.SimpleQueue()
        self._ear, self._bell = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def __del__(self) -> None:
        for descriptor in (self._ear, self._bell):
            os.close(descriptor)

    @property
    def signum(self) -> int:
        """Number of the signal that ends the pilot, 0 when none came."""
        return self.reason.signum if self.reason else 0

    def install_handlers(self) -> None:
        """Take over the signals (main thread only)."""
        signal.set_wakeup_fd(self._bell, warn_on_full_buffer=False)
        for name in _ENDING_SIGNALS + _HARMLESS_SIGNALS:
            number = getattr(signal, name, None)
            if number is not None and number not in FAULTS:
                signal.signal(number, self._handle)
        block_faults()
        threading.Thread(target=self._listen, name="faults", daemon=True).start()

    def _handle(self, signum: int, _frame: Optional[FrameType]) -> None:
        self._post(SignalArrived(signum))

    def _listen(self) -> None:
        """Wait for faults that somebody sends; real ones end the process at once."""
        while True:
            self._post(SignalArrived(int(signal.sigwait(FAULTS))))

    def _post(self, wake: Wake) -> None:
        self._wakes.put(wake)  # SimpleQueue.put is reentrant: safe in a handler
        try:
            os.write(self._bell, b".")
        except BlockingIOError:
            pass  # full of rings that nobody has heard yet: one more says nothing new

    def next_wake(self, timeout: Optional[float] = None) -> Optional[Wake]:
        """Block until something wakes the main thread; None after ``timeout`` s."""
        limit = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                return self._wakes.get_nowait()
            except queue.Empty:
                left = None if limit is None else limit - time.monotonic()
            if left is not None and left <= 0:
                return None
            if select.select([self._ear], [], [], left)[0]:
                os.read(self._ear, 4096)

    def work_done(self) -> None:
        """Tell the main thread that there is nothing left to do."""
        self._post(WorkDone())

    def begin_signal(self, signum: int) -> bool:
        """React to a signal in the main thread; True when it is the one that ends the pilot."""
        code, name = signal_code(signum, kubernetes=self.kubernetes)
        if name in _HARMLESS_SIGNALS:
            logger.info("received %s: nothing to do", name)
            return False
        if self.reason is not None and self.reason.signum:
            logger.info("received %s: the pilot is ending already (%s)", name, self.reason.text)
            return False
        logger.critical("received %s (signal %d): the pilot ends within %.0f s, jobs get error code %d",
                        name, signum, self.grace, code)
        # Where no more jobs were to come anyway, a signal is still the stronger reason: it brings the deadline.
        self.reason = StopReason(f"signal {name}", code, code, signum)
        self.stopping.set_deadline(time.monotonic() + self.grace)
        self.stopping.cancel(code, name)
        return True

    def stop(self, reason: StopReason) -> None:
        """Fetch no more jobs; jobs on the road go on."""
        if self.reason is None:
            self.reason = reason
            logger.info("no further job: %s", reason.text)
            self.stopping.cancel(reason.code, reason.text)

    def fail(self, reason: StopReason) -> None:
        """The pilot itself is in trouble: what is on the road ends, within the same time as after a signal."""
        if self.reason is None or not self.reason.signum:
            self.reason = reason
        self.stopping.set_deadline(time.monotonic() + self.grace)
        self.stopping.cancel(reason.code, reason.text)

    @property
    def deadline(self) -> Optional[float]:
        """Latest exit in monotonic seconds; None while no signal has come."""
        return self.stopping.deadline

    def remaining(self, default: float) -> float:
        """Seconds until the latest exit, ``default`` while no signal has come."""
        return self.stopping.remaining(default)
