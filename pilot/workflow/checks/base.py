"""What a check finds, and what it may ask for."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Callable, NamedTuple, Optional

from pilot.util.cancel import CancelToken

if TYPE_CHECKING:
    from pilot.info.infoservice import InfoService
    from pilot.info.queuedata import QueueData
    from pilot.options import Options
    from pilot.panda.credentials import Credentials
    from pilot.settings import Settings
    from pilot.user.base import Experiment

OK, WARN, FAIL, SKIP = "ok", "warn", "FAIL", "-"
"""Good; a pilot can run, but look at it; a pilot cannot do its work here; not looked at, and why."""


class Finding(NamedTuple):
    """One row of the table."""

    name: str
    status: str
    found: str
    cure: str = ""
    """What to do; empty when all is well."""
    code: int = 0
    """Pilot error code of a FAIL: it decides the exit code."""


Check = Callable[["Scene"], Iterable[Finding]]


def ok(name: str, found: str) -> Finding:
    """All is well."""
    return Finding(name, OK, found)


def warn(name: str, found: str, cure: str) -> Finding:
    """A pilot can run here, but somebody should look at it."""
    return Finding(name, WARN, found, cure)


def fail(name: str, code: int, found: str, cure: str) -> Finding:
    """A pilot cannot do its work here; it would end with ``code``, or its jobs would."""
    return Finding(name, FAIL, found, cure, code)


def skip(name: str, why: str) -> Finding:
    """Not looked at."""
    return Finding(name, SKIP, why)


@dataclass
class Scene:
    """What a check may ask for; shared by all of them, read only but for the queue, which one check provides."""

    options: Options
    settings: Settings
    environ: Mapping[str, str]
    credentials: Credentials
    server_url: str
    here: Path
    """The directory in which pilots are to run: ``-a``, else the current one."""
    limit: float
    """s that a check may take (setting ``limits.node_check_time``)."""
    experiment: Optional[Experiment] = None
    experiment_trouble: str = ""
    info: Optional[InfoService] = None
    token: CancelToken = field(default_factory=CancelToken)
    """Cancelled when nobody waits for the checks any longer."""
    root: Path = Path("/")
    """Stands for the root directory, so that tests can show the files of other machines."""
    _queue: Optional[QueueData] = None
    _queue_known: Event = field(default_factory=Event)

    def set_queue(self, queue: Optional[QueueData]) -> None:
        """Say which queue it is; None = its description cannot be had."""
        self._queue = queue
        self._queue_known.set()

    def queue(self) -> Optional[QueueData]:
        """Return the queue's description, None without one; waits for it as long as the check of the queue may take."""
        self._queue_known.wait(self.limit)
        return self._queue

    def now(self) -> float:
        """Return the time (epoch s)."""
        return time.time()


def size(count: float) -> str:
    """Return bytes in words: ``12.3 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def span(seconds: float) -> str:
    """Return a time in words: ``3.2 h``."""
    if abs(seconds) < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if abs(seconds) < 7200 else (
        f"{seconds / 3600:.1f} h" if abs(seconds) < 172800 else f"{seconds / 86400:.1f} days")
