"""The looping check of one job, and the evidence that is taken before a looping payload is ended.

::

    every file look ──► LoopingRule ──► against it? ──► every file, now ──► still? ──► 1150
                                                                             │
              process table, newest files, backtrace, core file ◄────────────┘   bounded; trouble changes nothing

Source: control and monitoring document 7.11, payload document 11.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Callable, Optional

from pilot.common.exception import PilotException
from pilot.monitoring.checks import Breach, FileCheck, FileLook
from pilot.monitoring.looping import (
    Idleness,
    LoopingRule,
    Touched,
    describe,
    looping_limit,
    newest_files,
    sign_of_life,
)
from pilot.payload.killer import wait_channel
from pilot.store.viewrows import Limit
from pilot.util import procfs
from pilot.util.redact import redact

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.info.job import Job
    from pilot.payload.child import Child
    from pilot.util.procfs import ProcInfo

logger = logging.getLogger(__name__)

LOOPING = 1150
_SPARE = 30.0
"""s for evidence beside gdb's."""
_MOST_PROCESSES = 100
_MOST_CHARACTERS = 200
_PATH_LENGTH = 50
_HELPERS = frozenset({
    "sh", "bash", "dash", "ksh", "zsh", "tcsh", "csh", "prmon", "MemoryMonitor", "apptainer", "singularity", "starter",
    "starter-suid", "conmon", "podman", "tini", "catatonit", "sleep", "tail", "tee", "cat",
})
"""Names of processes that carry no work of their own; ``prmon`` also runs below transforms."""


def job_signs(ctx: PilotContext, job: Job) -> Callable[[str], bool]:
    """Return which files of a job are signs of life of its payload."""
    return sign_of_life(ctx.settings, ctx.experiment.looping_exclusions, job.secret_paths)


class LoopingCase(FileCheck):
    """Ends a job whose payload does nothing any more: 1150."""

    name = "looping"

    def __init__(self, ctx: PilotContext, job: Job) -> None:
        self._ctx, self._job = ctx, job
        settings = ctx.settings
        self._limit = looping_limit(job, ctx.info.queue_for(job), settings)
        after = settings.pilot.looping_verification_time
        self._rule = LoopingRule(
            self._limit.seconds, job.corecount, after=after, stretch=settings.limits.looping_cpu_stretch,
            leave_by=lambda: ctx.leave_by)
        self.period = min(60.0, after)  # between two verdicts; what was seen in between is in the look
        self.evidence_time = _SPARE + settings.monitor.gdb_time
        self._suspended: Optional[float] = None
        self._counts = job_signs(ctx, job)
        self._pid = 0
        ctx.store.set_limit(job.jobid, Limit("looping", self._limit.seconds, "s", self._limit.origin))
        logger.info("job %s: its payload counts as looping when no file changes for %.0f s (%s), with CPU in use for"
                    " %.0f s", job.jobid, self._limit.seconds, self._limit.origin,
                    self._limit.seconds * settings.limits.looping_cpu_stretch)

    def look(self, look: FileLook) -> Optional[Breach]:
        """See ``FileCheck.look``."""
        if look.pid:
            self._pid = look.pid
        if self._against(look) is None:
            return None
        # files that seldom change are known from an older walk, and a clock that was set hides young files
        newest = next((item for item in newest_files(self._job.workdir, self._counts, look.wall)
                       if item.counts and item.changed <= look.wall), None)
        if newest is not None:
            self._rule.changed(look.now, look.wall - newest.changed)
        idle = self._against(look)
        return self._breach(idle, look, newest) if idle is not None else None

    def _against(self, look: FileLook) -> Optional[Idleness]:
        self._ctx.pulse.beat()
        suspended = self._ctx.pulse.read()
        if self._suspended is None:  # this check is made some time after the payload's start
            self._suspended = self._ctx.pulse.suspended_before(look.now - (look.elapsed or 0.0))
        idle = self._rule.look(look, suspended - self._suspended)
        self._suspended = suspended
        return idle

    def _breach(self, idle: Idleness, look: FileLook, newest: Optional[Touched]) -> Breach:
        text = describe(idle, self._limit, shortened(newest.path) if newest is not None else "",
                        look.wall - newest.changed if newest is not None else 0.0, look.view.files, self._rule.cores)
        return Breach(LOOPING, redact(text))

    # --- evidence -----------------------------------------------------------------------------------------------------

    def evidence(self, breach: Breach) -> None:
        """Write into the log what may explain it; see ``FileCheck.evidence``."""
        job = self._job
        child = next((item for item in self._ctx.supervisor.children() if item.pid == self._pid), None)
        processes = child.descendants() if child is not None else []
        tables: tuple[tuple[str, Callable[[], str]], ...] = (
            ("processes", lambda: process_table(processes)), ("files", lambda: file_table(job, self._counts)))
        for what, show in tables:
            try:
                logger.warning("job %s: %s of the looping payload:\n%s", job.jobid, what, show())
            except OSError as exc:  # one piece of evidence less
                logger.warning("job %s: no table of %s: %s", job.jobid, what, exc)
        if child is not None:
            self._look_inside(child, processes)

    def _look_inside(self, child: Child, processes: Sequence[ProcInfo]) -> None:
        """Backtrace and core file by gdb; whatever goes wrong here is a line in the log."""
        from pilot.payload.debugplace import DebugPlace
        from pilot.payload.gdb import core_size, run_gdb

        job, settings = self._job, self._ctx.settings
        if settings.monitor.gdb_time <= 0:
            return
        target = worker_process(processes)
        if target is None:
            return
        words = ["--pid", str(target.pid), "-ex", "thread apply all bt"]
        size, most = core_size(target.pid), settings.limits.log_archive_max_file
        if settings.monitor.looping_core and size <= most:
            words += ["-ex", "generate-core-file"]
        elif settings.monitor.looping_core:
            logger.warning("job %s: no core file of process %d: it would have up to %d B, the log archive takes %d B"
                           " (limits.log_archive_max_file)", job.jobid, target.pid, size, most)
        place = DebugPlace(
            job.workdir, self._ctx.supervisor, self._ctx.environ, child, job.cancel,
            gdb_time_limit=settings.monitor.gdb_time, reserve=settings.pilot.free_space_limit_running)
        try:
            text, core = run_gdb(words, place)
        except (PilotException, OSError) as exc:
            logger.warning("job %s: the looping payload is not looked into: %s", job.jobid,
                           exc.detail if isinstance(exc, PilotException) else exc)
            return
        job.keep_core = job.keep_core or core is not None
        logger.warning("job %s: process %d (%s) of the looping payload%s:\n%s", job.jobid, target.pid, target.comm,
                       f", its core file is {core.name}" if core is not None else "", redact(text[:20_000]))


def worker_process(processes: Sequence[ProcInfo]) -> Optional[ProcInfo]:
    """Return the process of a payload's tree that does, or should do, its work: the one that has used most CPU itself,
    the deepest of equals; a shell or a monitor only when there is nothing else."""
    depth: dict[int, int] = {}
    for info in processes:  # parents before children
        depth[info.pid] = depth.get(info.ppid, 0) + 1
    able = [info for info in processes if info.comm not in _HELPERS] or list(processes)
    return max(able, key=lambda info: (info.utime + info.stime, depth[info.pid], info.start), default=None)


def process_table(processes: Sequence[ProcInfo]) -> str:
    """Return one line per process: pid, parent, state, threads, CPU s, memory, what it waits for, command line."""
    lines = [f"{'pid':>8} {'ppid':>8} S threads    CPU s  RSS MB {'waits in':<20} command"]
    for info in processes[:_MOST_PROCESSES]:
        lines.append(f"{info.pid:>8} {info.ppid:>8} {info.state} {info.threads:>7} "
                     f"{(info.utime + info.stime) / procfs.TICKS_PER_SECOND:>8.1f} "
                     f"{info.rss * procfs.PAGE_BYTES >> 20:>7} {wait_channel(info.pid)[:20]:<20} {_command(info)}")
    if len(processes) > _MOST_PROCESSES:
        lines.append(f"and {len(processes) - _MOST_PROCESSES} more")
    return "\n".join(lines)


def file_table(job: Job, counts: Callable[[str], bool]) -> str:
    """Return one line per file that was changed last: age in s, size in bytes, path; marked when it does not count."""
    wall = time.time()
    return "\n".join(
        f"{wall - item.changed:>10.0f} s {item.size:>14} B {_printable(item.path)}{'' if item.counts else ' (no sign)'}"
        for item in newest_files(job.workdir, counts, wall)) or "there are none"


def _command(info: ProcInfo) -> str:
    try:
        with open(f"/proc/{info.pid}/cmdline", "rb") as stream:
            words = stream.read(4096).rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        words = ""
    return redact(_printable(words or f"[{info.comm}]"))[:_MOST_CHARACTERS]


def shortened(path: str) -> str:
    """Return a payload's path as a report can have it: printable, the end of a long one."""
    text = _printable(path)
    return text if len(text) <= _PATH_LENGTH else f"...{text[3 - _PATH_LENGTH:]}"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in os.fsencode(text).decode("utf-8", "replace"))
