"""A lane beside the monitor: does one thing at a time that may hang (a dead mount), so that the monitor never does.

The thread exists only while there is something to do. What hangs is left to the kernel; as long as it hangs, nothing
else is begun in that lane, and the log says so once.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Callable, Optional

from pilot.util.logowner import owners

logger = logging.getLogger(__name__)


class Lane:
    """One lane. ``name`` is that of its thread; ``patience`` the s after which it counts as hanging."""

    def __init__(self, name: str, patience: float = 120.0) -> None:
        self.name, self.patience = name, patience
        self._lock = threading.Lock()
        self._since: Optional[float] = None
        self._what = ""
        self._said = False
        self._without_thread = False
        """It was said that no thread can be had."""

    def ask(self, what: str, call: Callable[[], None]) -> bool:
        """Have ``call`` done soon; False, and nothing is done, while the one before is under way.

        Args:
            what: is done, for the log.
            call: the work; an exception is logged.
        """
        with self._lock:
            if self._since is not None:
                self._complain()
                return False
            self._since, self._what, self._said = time.monotonic(), what, False
        try:
            threading.Thread(target=owners.for_the_same_job(lambda: self._run(call)), name=self.name,
                             daemon=True).start()
        except RuntimeError as exc:  # the limit of processes is reached, by a fork bomb perhaps: later
            with self._lock:
                self._since = None
            if not self._without_thread:
                logger.warning("%s: %s has to wait: %s", self.name, what, exc)
            self._without_thread = True
            return False
        return True

    @property
    def hangs(self) -> float:
        """Seconds that something is under way beyond the patience, 0 when all is well."""
        with self._lock:
            busy = 0.0 if self._since is None else time.monotonic() - self._since
            return busy if busy > self.patience else 0.0

    def _complain(self) -> None:
        busy = time.monotonic() - (self._since or 0.0)
        if busy > self.patience and not self._said:
            self._said = True
            logger.error("%s: %s has not come back for %.0f s (a dead mount?): nothing of this kind is looked at until"
                         " it does", self.name, self._what, busy)

    def _run(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:  # the next look may succeed; what matters to the job is said by the checks
            logger.exception("%s: %s failed", self.name, self._what)
        finally:
            with self._lock:
                if self._said:
                    logger.warning("%s: %s came back after %.0f s", self.name, self._what,
                                   time.monotonic() - (self._since or 0.0))
                self._since = None
