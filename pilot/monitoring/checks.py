"""What a check is: one small class that looks at what a cycle has measured, and says when a limit is broken.

::

    one pass over /proc ──► Look ─────► ProcessCheck, ProcessCheck, ...     in the monitor's thread: never blocks
    one walk, one statvfs ► FileLook ─► FileCheck, FileCheck, ...           in the lane of the job's files: may hang

Checks measure nothing that another one has measured already. They know nothing of threads and queues: who calls
them, and what a breach leads to, is written in ``control/watch/checkdesk.py``; which checks a job has in
``control/watch/checklist.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Generic, NamedTuple, Optional, TypeVar

if TYPE_CHECKING:
    from pilot.info.memory import MemoryUse
    from pilot.monitoring.workdir import WorkdirTracker, WorkdirView
    from pilot.util.procfs import ProcInfo


class Ends(Enum):
    """What a breach ends."""

    JOB = "job"
    """The job fails with the code of the breach; its log is stored."""
    PAYLOAD = "payload"
    """The payload is ended, and what it has made counts as its result (kill file)."""


class Breach(NamedTuple):
    """A limit is broken. ``text``: what, where, which limit and where that comes from, what to do."""

    code: int
    text: str
    ends: Ends = Ends.JOB


class Look(NamedTuple):
    """One look at the processes of a payload, shared by all checks of a cycle."""

    now: float
    """Monotonic s."""
    elapsed: float
    """s since the payload's start."""
    processes: Sequence[ProcInfo]
    """The living processes of its tree, its first one first."""
    cpu_seconds: float
    """CPU time of the whole tree, ended processes included."""
    cores: float
    """Cores in use since the look before."""
    memory: Optional[MemoryUse] = None
    """Peaks and averages so far, as far as they are known without touching a file of the job."""


class FileLook(NamedTuple):
    """One look at what a job has on disk, shared by all checks of a cycle."""

    now: float
    """Monotonic s."""
    wall: float
    """Epoch s."""
    elapsed: Optional[float]
    """s since the payload's start; None while none runs."""
    view: WorkdirView
    """The job's directory."""
    free: Optional[int]
    """Bytes free in the main work directory; None = unknown."""
    cpu_seconds: float = 0.0
    """CPU time of the payload at the last look at its processes."""
    tracker: Optional[WorkdirTracker] = None
    """For a check that is about to judge: ``tracker.walk()`` looks at every file, where ``view`` may be 10 min old
    for files that seldom change (``view.walked``)."""
    pid: int = 0
    """Of the payload's first process; 0 while none runs."""


class Blind(Exception):
    """A check cannot measure; the text says why. The job goes on; log, status and report say so."""


Seen = TypeVar("Seen", Look, FileLook)


class Check(Generic[Seen]):
    """Base of the checks. ``name`` is unique within a job."""

    name = ""
    period = 60.0
    """s between two looks at least; 0 = at each one."""
    evidence_time = 60.0
    """s that evidence may take before the payload is ended all the same."""

    def look(self, look: Seen) -> Optional[Breach]:
        """Return the breach, None while all is well.

        Raises:
            Blind: it cannot be told.
        """
        raise NotImplementedError

    def evidence(self, breach: Breach) -> None:
        """Called once before the payload is ended, in a thread of its own with a limit of time: write what helps to
        understand the breach into the log. Trouble here changes nothing of the verdict."""


class ProcessCheck(Check[Look]):
    """Base of the checks of processes."""


class FileCheck(Check[FileLook]):
    """Base of the checks of files."""


class Keeper:
    """Base of what the pilot looks after now and then whatever job it has: its heartbeat file, its proxy, its threads.

    Called in the pilot's own lane, which may hang without harm to heartbeats and checks.
    """

    name = ""
    period = 60.0

    def look(self) -> None:
        """Do it."""
        raise NotImplementedError
