"""The checks of one job: calls each when its time has come, and tells the monitor of the first breach.

::

    monitor ── look(Look) ──────────► process checks, at once
       │   ── look_at_files() ──► lane ──► walk, statvfs ──► file checks
       ◄── CheckFailed(breach) ── lane ── evidence (listings, core dump), bounded ◄── first breach
"""

from __future__ import annotations

import logging
import os
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Callable, Optional, Sequence, TypeVar, Union

from pilot.control.messages import CheckFailed
from pilot.control.watch.checklist import file_checks, process_checks, workdir_tracker
from pilot.control.watch.lane import Lane
from pilot.monitoring.checks import Blind, Breach, FileCheck, FileLook, Look, ProcessCheck
from pilot.util.bounded import TookTooLong, bounded
from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.space import directory_size, free_space, pod_storage_limit, size_of

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.control.watch.memoryguard import MemoryGuard
    from pilot.info.job import Job
    from pilot.monitoring.workdir import WorkdirTracker, WorkdirView

logger = logging.getLogger(__name__)

FIRST_SIZE_LOOK = 5.0

_Check = TypeVar("_Check", ProcessCheck, FileCheck)


class CheckDesk:
    """Checks one job from its entry on the road until its tail begins."""

    def __init__(self, ctx: PilotContext, job: Job, post: Callable[[CheckFailed], None]) -> None:
        self._ctx, self._job, self._post = ctx, job, post
        self._processes: Optional[Sequence[ProcessCheck]] = None
        self._guard: Optional[MemoryGuard] = None
        self._files: Optional[Sequence[FileCheck]] = None
        self._next: dict[str, float] = {}
        self._blind: dict[str, str] = {}
        self._token = CancelToken()
        self._broken = False
        self._lane = Lane(f"files-{job.jobid}", min(120.0, 2.0 * ctx.settings.pilot.disk_space_verification_time))
        self._looking = threading.Lock()
        self._hung = False
        self._evidence = Lane(f"evidence-{job.jobid}")
        self._tracker: Optional[WorkdirTracker] = None
        self._rest: Optional[WorkdirTracker] = None
        self._payload_began: Optional[float] = None
        self._pid = 0
        self._cpu_seconds = 0.0
        self.view: Optional[WorkdirView] = None
        """The newest known, None before the first look; from the lane's thread."""
        self._largest = 0

    def payload_started(self, began: float, pid: int) -> None:
        """A payload has started at ``began`` (monotonic s), with the process ``pid``."""
        self._payload_began, self._pid = began, pid

    def payload_ended(self) -> None:
        """Its processes are gone."""
        self._payload_began, self._pid = None, 0

    def close(self) -> None:
        """The job's tail begins: nothing is checked any more."""
        self._broken = True
        self._token.cancel(1200, "the job is over")

    @property
    def guard(self) -> MemoryGuard:
        """The job's memory limit; from the monitor's thread."""
        if self._guard is None:
            from pilot.control.watch.memoryguard import MemoryGuard  # payloads that end at once need none

            self._guard = MemoryGuard(self._ctx, self._job)
        return self._guard

    # --- looks --------------------------------------------------------------------------------------------------------

    def look(self, look: Look) -> None:
        """Let the process checks look; from the monitor's thread."""
        self._cpu_seconds = look.cpu_seconds
        if self._processes is None:
            self._processes = process_checks(self._ctx, self._job, self.guard)
        for check in self._due(self._processes):
            self._take(check, self._ask(check.name, partial(check.look, look)))

    def look_at_files(self) -> None:
        """Have the job's files looked at; returns at once."""
        if self._broken:
            return
        begun = self._lane.ask("a look at the job's directory", self._look_at_files)
        hangs = not begun and self.hangs > 0
        if hangs != self._hung and (begun or hangs):
            self._hung = hangs
            self._ctx.store.add_note(self._job.jobid, "files", (
                f"a look at {self._job.workdir} has not come back for {self.hangs:.0f} s (a dead mount?): free space, "
                "sizes, looping and kill file are not checked until it does") if hangs else "files are looked at again")

    @property
    def hangs(self) -> float:
        """Seconds that a look at the files hangs beyond patience; 0 = it does not."""
        return self._lane.hangs

    @property
    def size(self) -> int:
        """Bytes that the job's directory holds, 0 while that is not known."""
        return 0 if self.view is None else self.view.size

    def own_size(self) -> int:
        """Return the largest size of the directory so far, inputs and outputs not counted (bytes, for ``workDirSize``).

        Looks once more, unless a look is under way, which may hang.
        """
        if self._job.workdir.name and self._looking.acquire(blocking=False):
            try:
                if self._tracker is None:
                    self._note_size(directory_size(self._job.workdir).bytes)
                else:
                    self._note_size(self._tracker.look().size)
            except OSError as exc:
                logger.warning("job %s: the size of %s is not known at its end: %s", self._job.jobid, self._job.workdir,
                               exc.strerror)
            finally:
                self._looking.release()
        return self._largest

    def _note_size(self, size: int) -> None:
        names = (spec.lfn for spec in (*self._job.indata, *self._job.outdata))
        self._largest = max(self._largest, size - size_of(self._job.workdir, names))

    def _look_at_files(self) -> None:
        with self._looking:
            if not self._job.workdir.name:
                return  # not made yet
            self._ask("work directory", self._measure)
            if self.view is None or self._tracker is None or self._files is None:
                return
            began, now = self._payload_began, time.monotonic()
            free = free_space(self._ctx.home, self._ctx.environ, self._used_in_pod())
            look = FileLook(now, time.time(), None if began is None else now - began, self.view, free,
                            self._cpu_seconds, self._tracker, self._pid)
            for check in self._due(self._files):
                self._take(check, self._ask(check.name, partial(check.look, look)))

    def _measure(self) -> None:
        """Look at the directory."""
        if self._tracker is None or self._files is None:  # not in the life of a short job
            self._tracker = workdir_tracker(self._ctx, self._job)
            self._files = file_checks(self._ctx, self._job)
        try:
            self.view = self._tracker.look()
        except FileNotFoundError:
            return  # gone; other checks may have something to say about that
        except OSError as exc:
            self.view = self._tracker.view  # the other checks go on
            raise Blind(f"{self._job.workdir}: {exc.strerror}") from exc
        self._note_size(self.view.size)

    def _used_in_pod(self) -> Optional[int]:
        """Bytes on disk that count against the storage limit of a pod; None without one."""
        if self.view is None or pod_storage_limit(self._ctx.environ) is None:
            return None
        if self._rest is None:
            from pilot.monitoring.workdir import WorkdirTracker

            own = os.path.relpath(self._job.workdir, self._ctx.home)
            self._rest = WorkdirTracker(self._ctx.home, leave_out=frozenset([own]))
        try:
            return self.view.blocks + self._rest.look().blocks
        except OSError:
            return None  # then everything is counted

    def _due(self, checks: Sequence[_Check]) -> list[_Check]:
        now = time.monotonic()
        found = [check for check in checks if not self._broken and self._next.get(check.name, 0.0) <= now]
        self._next.update((check.name, now + check.period * 0.95) for check in found)
        return found

    def _ask(self, name: str, call: Callable[[], Optional[Breach]]) -> Optional[Breach]:
        """Ask a check; one that cannot measure, or is at fault itself, fails no job, but is not silent either."""
        try:
            breach = call()
            problem = ""
        except Blind as exc:
            breach, problem = None, str(exc)
        except Exception as exc:  # the other checks go on
            logger.exception("job %s: check '%s' failed", self._job.jobid, name)
            breach, problem = None, f"internal error: {type(exc).__name__}: {exc}"
        if problem != self._blind.get(name, ""):
            self._blind[name] = problem
            text = f"cannot measure: {problem}" if problem else "measures again"
            logger.warning("job %s: check '%s' %s", self._job.jobid, name, text)
            self._ctx.store.add_note(self._job.jobid, name, text)
        return breach

    def _take(self, check: Union[ProcessCheck, FileCheck], breach: Optional[Breach]) -> None:
        if breach is None or self._broken:
            return
        self._broken = True
        logger.error("job %s: check '%s': %s", self._job.jobid, check.name, breach.text)
        if not self._evidence.ask(f"evidence of check '{check.name}'", lambda: self._prove(check, breach)):
            self._post(CheckFailed(self._job.jobid, check.name, breach))  # no thread can be had: no evidence, then

    def _prove(self, check: Union[ProcessCheck, FileCheck], breach: Breach) -> None:
        try:
            bounded(lambda: check.evidence(breach), check.evidence_time, self._token, "evidence")
        except CancelledError:
            return  # the job has come to its end in the meantime
        except TookTooLong as exc:
            logger.warning("job %s: evidence for the breach: %s", self._job.jobid, exc)
        except Exception:
            logger.exception("job %s: no evidence for the breach", self._job.jobid)
        self._post(CheckFailed(self._job.jobid, check.name, breach))
