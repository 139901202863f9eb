"""Starts processes and knows of every descendant of theirs until the last one has ended.

::

    pilot (child subreaper) ─┬─ bash (Child, leader of its own session) ── python ── ...
                             ├─ a daemon that bash's grandchild left behind: an orphan, handed to us by the kernel
                             └─ curl (another Child)

The kernel gives the pilot every descendant whose parent has ended (PR_SET_CHILD_SUBREAPER), so the whole tree can be
seen, its CPU time counted, and killed, without looking for processes by user name or by 'parent is 1', which on shared
nodes hits strangers.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import TYPE_CHECKING, Optional

from pilot.payload.child import MARKER, Child
from pilot.payload.kernel import (
    ExitStatus,
    become_subreaper,
    has_children,
    own_children,
    own_user,
    resign_subreaper,
)
from pilot.payload.killer import KillReport, end_processes, send
from pilot.util import procfs
from pilot.util.hardening import payload_inheritance
from pilot.util.oomkills import oom_count
from pilot.util.procfs import ProcInfo, ProcTable

if TYPE_CHECKING:
    from pilot.payload.cgroup import ControlGroups, PayloadGroup

logger = logging.getLogger(__name__)

__all__ = ["MARKER", "Child", "ExitStatus", "KillReport", "Supervisor"]

_REMEMBERED = 64
"""Ended children that are kept to name the owner of a late orphan."""

_STRAGGLER_SECONDS = 3.0
"""How long processes are hunted that fork faster than a scan."""

_FOREIGN_PATIENCE = 60.0
"""Seconds that an ended child which other code in the pilot has started is left for that code to collect."""


class Supervisor:
    """The one owner of child processes; one per pilot process. Thread-safe.

    A single thread collects every ended child, so nobody else in the pilot may call ``os.wait*`` or ``Popen.wait`` for
    a process of a foreign session. Processes that share the pilot's session are left to whoever started them.
    """

    def __init__(self, name: str = "", groups: Optional[ControlGroups] = None, *, bare_groups: bool = True) -> None:
        """Nothing is started yet.

        Args:
            name: random word that begins the marker of every process started here.
            groups: makes the control groups of payloads; None: made when the first one is wanted.
            bare_groups: those are also used where they do not account for memory.
        """
        self._bare_groups = bare_groups
        self._groups = groups
        self.subreaper = False
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._running: dict[int, Child] = {}
        self._ended: deque[Child] = deque(maxlen=_REMEMBERED)
        self._thread: Optional[threading.Thread] = None
        self._closed = False
        self._session = os.getsid(0)
        self._shared = False
        """True when processes that the pilot has not started may be its children: as process 1, or when it was exec'ed
        by a shell that had children. Then an orphan must prove that it is ours."""
        self._inherited: frozenset[tuple[int, int]] = frozenset()
        """Children from before our time (of the shell that exec'ed the pilot): nobody else collects them."""
        self._id = name or secrets.token_hex(8)
        self._count = 0

    def start(self) -> None:
        """Become subreaper and start the reaper's thread; a second call does nothing."""
        with self._lock:
            if self._thread is not None:
                return
            if has_children():
                self._inherited = frozenset(info.key for info in procfs.scan().children(os.getpid()))
            self._shared = os.getpid() == 1 or bool(self._inherited)
            self.subreaper = become_subreaper()
            self._thread = threading.Thread(target=self._reap, name="reaper", daemon=True)
            self._thread.start()

    def spawn(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        stdout: int | None = None,
        stderr: int | None = None,
        stdin: int | None = DEVNULL,
        grouped: bool = False,
    ) -> Child:
        """Start a process in a session of its own and return at once.

        Args:
            argv: program and arguments; no shell is involved.
            cwd: its working directory.
            env: its complete environment; the marker variable is added.
            stdout, stderr: file descriptors, ``subprocess.DEVNULL`` or ``subprocess.STDOUT``; None inherits the
            pilot's. stdin: file descriptor or DEVNULL.
            grouped: it is a payload, and gets a control group of its own where there can be one.

        Raises:
            OSError: the program or the directory does not exist or may not be used, or no process can be made.
        """
        self.start()
        group = self._new_group() if grouped else None
        with self._lock:
            self._count += 1
            marker = f"{self._id}.{self._count}"
            # before the process is there: what was killed earlier was a stranger
            oom = (group.oom_count() if group is not None else None) or oom_count()
            line = group.wrapped(argv) if group is not None else list(argv)
            with payload_inheritance():
                process = Popen(
                    line, cwd=cwd, env={**env, MARKER: marker}, stdin=stdin, stdout=stdout, stderr=stderr,
                    close_fds=True, start_new_session=True,
                )
            # The reaper owns the status; without this Popen would try to collect it when it is garbage.
            process.returncode = 0
            info = procfs.read_process(process.pid)
            child = Child(self, process.pid, info.start if info else 0, marker, oom, group)
            self._running[child.pid] = child
            self._changed.notify_all()
        return child

    def _new_group(self) -> Optional[PayloadGroup]:
        if self._groups is None:
            from pilot.payload.cgroup import ControlGroups

            self._groups = ControlGroups(self._id, os.environ, bare=self._bare_groups)
        return self._groups.new()

    def children(self) -> list[Child]:
        """Return the processes started here that have not ended."""
        with self._lock:
            return list(self._running.values())

    def members(self, child: Child, table: ProcTable) -> list[ProcInfo]:
        """Return the processes of ``table`` that belong to ``child``, zombies included, the leader first."""
        with self._lock:
            candidates = [*self._running.values(), *self._ended]
            known = {item.pid for item in self._running.values()}
        top = table.get(child.pid)
        root = child.pid if top is not None and top.start == child.start_ticks else 0
        orphans = [
            info.pid
            for info in self._orphans(table, known)
            if info.start >= child.start_ticks and self._owner(info, candidates) is child
        ]
        more = child.group.pids() if child.group is not None else ()
        found = table.tree(root, [*orphans, *more])
        child.seen = frozenset(info.key for info in found)
        child.sessions = frozenset((child.session, *(info.session for info in found)))
        return found

    def settle(self, child: Child, timeout: float = 2.0) -> None:
        """Wait until the reaper has collected what has ended, so that the CPU time of ``child`` is complete."""
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            zombies = [i for i in self.members(child, procfs.scan()) if not i.alive and i.ppid == os.getpid()]
            if not zombies:
                break
            with self._changed:
                self._changed.wait(0.02)
        if child.running and procfs.read_process(child.pid) is None:
            child.wait(timeout)

    def send_signal(self, child: Child, number: int) -> bool:
        """Signal the leader; it cannot be another process, since it is collected under the same lock."""
        with self._lock:
            if child.pid not in self._running:
                return False
            os.kill(child.pid, number)
            return True

    def close(self, grace: float = 0.0) -> None:
        """End whatever still runs and stop the thread; ``grace`` seconds from TERM to KILL."""
        report = self.end_stragglers(end_processes(self._everything, grace, time.monotonic() + grace + 10.0))
        if report.seen:
            logger.info("ended %d processes that were left, %d of them with SIGKILL", report.seen, report.killed)
        for child in self.children():
            child.wait(2.0)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self.subreaper:
            resign_subreaper()
        if self._groups is not None:
            self._groups.close()

    def end_stragglers(self, report: KillReport, child: Child | None = None) -> KillReport:
        """Kill what no scan can see: processes that fork and end faster than a pass over /proc takes.

        Each of them is a direct child of the pilot for its short life, so a quick look at these alone, again and again,
        meets it sooner or later; the tree has ended when there is no orphan, dead or alive, in three looks.

        Args:
            report: what ending the tree came to.
            child: whose orphans; None for all.
        """
        if report.left or not (self.subreaper or os.getpid() == 1):
            return report
        until = time.monotonic() + _STRAGGLER_SECONDS
        quiet, killed, alive = 0, set[tuple[int, int]](), 0
        while quiet < 3 and time.monotonic() < until:
            orphans = self._orphans_now(child)
            living = [info for info in orphans if info.alive]
            send(living, signal.SIGKILL)
            killed.update(info.key for info in living)
            alive = len(living)
            quiet = 0 if orphans else quiet + 1
            if orphans and not living:
                with self._changed:
                    self._changed.wait(0.002)
        if alive and quiet < 3:
            logger.warning("%d processes keep forking faster than they can be killed", alive)
        return KillReport(report.seen + len(killed), report.killed + len(killed), alive if quiet < 3 else 0)

    def _orphans_now(self, child: Child | None) -> list[ProcInfo]:
        """Return orphans of ``child`` (of anybody for None), zombies included, from a quick look."""
        with self._lock:
            candidates = [*self._running.values(), *self._ended]
            known = set(self._running)
        found = (procfs.read_process(pid) for pid in own_children() - known)
        orphans = (info for info in found if info is not None and info.session != self._session)
        owners = ((info, self._owner(info, candidates)) for info in orphans)
        return [info for info, owner in owners if owner is not None and child in (None, owner)]

    def _everything(self) -> list[ProcInfo]:
        """Return the living processes of all children."""
        table = procfs.scan()
        with self._lock:
            children = [*self._running.values(), *self._ended]
        found = {info.key: info for child in children for info in self.members(child, table) if info.alive}
        return list(found.values())

    # --- whose process is it ------------------------------------------------------------------------------------------

    def _orphans(self, table: ProcTable, known: set[int]) -> list[ProcInfo]:
        """Return processes that were handed over when their parent ended: children of the pilot that it has not
        started.

        Without subreaper they are somewhere below process 1: then the whole table is searched for our sessions and
        markers among the processes of this user.
        """
        if self.subreaper or os.getpid() == 1:
            return [i for i in table.children(os.getpid()) if i.pid not in known and i.session != self._session]
        return [i for i in table if i.pid not in known and i.session != self._session and own_user(i.pid)]

    def _owner(self, orphan: ProcInfo, candidates: Sequence[Child]) -> Child | None:
        """Return the Child that ``orphan`` descends from: by session, earlier look, marker, else by reason."""
        for child in candidates:
            if orphan.session in child.sessions or orphan.key in child.seen:
                return child if orphan.start >= child.start_ticks else None
        if not self.subreaper or self._shared or len(candidates) > 1:
            marker = procfs.read_environ(orphan.pid, MARKER) if orphan.alive else None
            for child in candidates:
                if child.marker == marker:
                    return child
        if not self.subreaper or self._shared:
            return None
        older = [child for child in candidates if child.start_ticks <= orphan.start]
        return max(older, key=lambda child: (child.running, child.start_ticks), default=None)

    def trouble(self) -> str:
        """Return ``has died`` when the reaper's thread has, '' when all is well."""
        thread = self._thread
        return "has died" if thread is not None and not self._closed and not thread.is_alive() else ""

    def revive(self) -> None:
        """Collect ended children by a new thread."""
        with self._lock:
            self._thread = threading.Thread(target=self._reap, name="reaper", daemon=True)
            self._thread.start()

    # --- the reaper ---------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        """Collect ended children for ever; blocked in the kernel while there is nothing to do."""
        foreign, since = 0, 0.0
        while not self._closed:
            try:
                result = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:
                self._wait_for_work()
                continue
            if result is None or self._closed:
                continue
            if result.si_pid != foreign:
                foreign, since = result.si_pid, time.monotonic()
            waited = time.monotonic() - since
            if self._collect(foreign, even_foreign=waited > _FOREIGN_PATIENCE):
                foreign = 0
                continue
            self._collect_beside(foreign)
            with self._changed:
                self._changed.wait(min(0.01 + waited / 10, 0.25))

    def _collect_beside(self, foreign: int) -> None:
        """Collect ours while somebody else's ended child, not collected yet, stands in front of them."""
        for info in procfs.scan().children(os.getpid()):
            if not info.alive and info.pid != foreign:
                self._collect(info.pid)

    def _wait_for_work(self) -> None:
        """Block until there is a child again."""
        with self._changed:
            if self._closed:
                return
            if not self._running:
                # As process 1 we are handed strangers' orphans at any time: look after them now and then.
                self._changed.wait(30.0 if os.getpid() == 1 else None)
                return
            if has_children():
                return
            stolen = list(self._running.values())
            self._running.clear()
            self._ended.extend(stolen)
        for child in stolen:
            logger.error("exit status of process %d was taken by other code in the pilot: reported as 255", child.pid)
            child.finish(ExitStatus(255, 0, 0.0, 0.0, 0))

    def _collect(self, pid: int, *, even_foreign: bool = False) -> bool:
        """Collect ``pid`` if it has ended and is ours, or was here before us; False when it is left alone."""
        with self._lock:
            child = self._running.get(pid)
            info = None if child is not None else procfs.read_process(pid)
            if child is None and info is None:
                return True
            is_foreign = info is not None and info.session == self._session and info.key not in self._inherited
            if is_foreign and not even_foreign:
                return False
            candidates = [*self._running.values(), *self._ended]
        owner = self._owner(info, candidates) if info is not None else None
        with self._lock:
            try:
                ended, status, usage = os.wait4(pid, os.WNOHANG)
            except ChildProcessError:
                return True
            if not ended:
                return False
            if child is not None:
                del self._running[pid]
                self._ended.append(child)
            elif owner is not None:
                owner.orphan_seconds += usage.ru_utime + usage.ru_stime
            self._changed.notify_all()
        if child is not None:
            child.finish(ExitStatus.from_wait(status, usage))
        return True
