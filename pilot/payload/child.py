"""A process that the pilot has started: waiting for it, its descendants, its CPU time, its end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pilot.payload.kernel import ExitStatus
from pilot.payload.killer import KillReport, end_processes
from pilot.util import procfs
from pilot.util.oomkills import OomCount, oom_kills_since
from pilot.util.procfs import ProcInfo, ProcTable

if TYPE_CHECKING:
    from pilot.payload.cgroup import PayloadGroup
    from pilot.payload.process import Supervisor

logger = logging.getLogger(__name__)

MARKER = "PANDA_PILOT_PAYLOAD"
"""Environment variable that marks the processes of one Child; its value is random."""


class Child:
    """A process that the pilot has started, and all that descends from it; from ``Supervisor.spawn``; thread-safe."""

    def __init__(self, supervisor: Supervisor, pid: int, start_ticks: int, marker: str,
                 oom: OomCount | None = None, group: PayloadGroup | None = None) -> None:
        self._supervisor = supervisor
        self.pid = pid
        self.start_ticks = start_ticks
        self.session = pid
        self.marker = marker
        self.status: ExitStatus | None = None
        self.started = time.monotonic()
        self.orphan_seconds = 0.0
        """CPU seconds of orphaned descendants that have ended."""
        self.seen: frozenset[tuple[int, int]] = frozenset()
        """Identities of the descendants at the last look."""
        self.sessions = frozenset((pid,))
        """Sessions that they had then: a daemon makes its own."""
        self._oom = oom
        self.group = group
        """Its control group; None without."""
        self._ended = threading.Event()
        self._callbacks: list[Callable[[Child], None]] = []
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Child(pid={self.pid}, status={self.status})"

    @property
    def running(self) -> bool:
        """True while the process itself (not its descendants) has not ended."""
        return not self._ended.is_set()

    def wait(self, timeout: float | None = None) -> ExitStatus | None:
        """Block until the process has ended or ``timeout`` seconds have passed; None when it still runs."""
        self._ended.wait(timeout)
        return self.status

    def on_exit(self, callback: Callable[[Child], None]) -> None:
        """Call ``callback(child)`` once when the process has ended, in the reaper's thread: it must not block.

        When it has ended already the call comes at once, in the caller's thread.
        """
        with self._lock:
            if self.running:
                self._callbacks.append(callback)
                return
        callback(self)

    def finish(self, status: ExitStatus) -> None:
        """Take the status from the reaper, wake the waiters, run the callbacks."""
        if status.code != 0:
            pids = frozenset(pid for pid, _ in self.seen) | {self.pid}
            limit = self.group.memory_max if self.group is not None else 0
            status = status._replace(oom=oom_kills_since(self._oom), pids=pids, memory_max=limit)
        with self._lock:
            self.status = status
            self._ended.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            try:
                callback(self)
            except Exception:
                # The reaper serves every process of the pilot: a faulty callback must not end it.
                logger.exception("callback for the end of process %d failed", self.pid)

    def descendants(self, table: ProcTable | None = None) -> list[ProcInfo]:
        """Return the living processes of the tree, the process itself first, daemons handed to us included."""
        table = procfs.scan() if table is None else table
        return [info for info in self._supervisor.members(self, table) if info.alive]

    def kill_tree(self, grace: float = 10.0, deadline: float | None = None) -> KillReport:
        """End the whole tree: TERM, ``grace`` seconds, KILL until nothing is left; returns when it is gone.

        Args:
            grace: seconds from TERM to KILL, 0 for KILL at once.
            deadline: latest end in monotonic seconds.
        """
        at_once = self.group.kill if self.group is not None else None
        report = self._supervisor.end_stragglers(end_processes(self.descendants, grace, deadline, at_once), self)
        self._supervisor.settle(self)
        if report.seen:
            logger.info(
                "ended the process tree of %d: %d processes, %d needed SIGKILL, %d are left",
                self.pid, report.seen, report.killed, report.left,
            )
        return report

    def signal(self, number: int) -> bool:
        """Send a signal to the process itself; False when it has ended."""
        return self._supervisor.send_signal(self, number)

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds (user + system) of everything of the tree that has ended and was collected, orphans included.

        While the process runs this holds only orphans; see ``live_cpu_seconds``.
        """
        own = self.status.user + self.status.system if self.status is not None else 0.0
        return max(own + self.orphan_seconds, self._group_seconds() if self.status is not None else 0.0)

    def _group_seconds(self) -> float:
        """CPU seconds by its control group: exact, also for processes that nobody has waited for."""
        return (self.group.use().cpu_seconds or 0.0) if self.group is not None else 0.0

    def leave_group(self) -> None:
        """Its whole tree has ended: remove its control group, what that has counted stays."""
        if self.group is not None:
            self.group.remove()

    def live_cpu_seconds(self, table: ProcTable | None = None) -> float:
        """Return the CPU seconds used so far by the whole tree, living and ended; nothing is counted twice."""
        in_group = self._group_seconds()
        if in_group > 0:
            return in_group
        # First what has ended: what ends between the two looks is missed until the next sample, not counted twice.
        ended = self.cpu_seconds
        table = procfs.scan() if table is None else table
        return ended + table.cpu_seconds(info.pid for info in self._supervisor.members(self, table))
