"""The memory monitor beside a payload: the experiment's (``lsetup prmon``), else prmon in PATH, else the pilot's own.

::

    the experiment's line ──dies at once──► prmon in PATH ──dies at once, or there is none──► the pilot's own sampler
       │ dies after it has written something: started again, at most 5 times in all ──────────────────▲

All three write the same two files. The sampler looks at the payload in any case; it writes only when nobody else does.
Source: payload document 9.
"""

from __future__ import annotations

import logging
import shlex
import shutil
import time
from typing import TYPE_CHECKING, Callable, Optional, Sequence

from pilot.info.memory import FILES, SUMMARY, MemoryUse, prmon_line, read_memory_use, read_summary
from pilot.info.payloadtask import UtilityCommand
from pilot.monitoring.sampler import MemorySampler
from pilot.util.cgroups import Group, memory_group, memory_in_use
from pilot.util.copying import placed

if TYPE_CHECKING:
    from pathlib import Path

    from pilot.context import PilotContext
    from pilot.control.plan import PayloadPlan
    from pilot.payload.child import Child
    from pilot.payload.utilities import Running
    from pilot.util.procfs import ProcInfo

logger = logging.getLogger(__name__)

MEMORY_MONITOR = "memorymonitor"
"""Label of the utility that is one."""

MAX_RESTARTS = 5
_PAUSE = 1.0
"""s between the end of a monitor and the next start."""
_SILENCE = 300.0
"""s without a new figure after which a monitor's figures count no more; it writes once a minute."""
SIGUSR1 = 10
PATIENCE = 20.0
"""s for writing the summary; prmon looks for the signal once a second."""


class MemoryMonitor:
    """The memory monitor of one turn of a payload."""

    def __init__(
        self, ctx: PilotContext, plan: PayloadPlan, child: Child,
        start: Callable[[UtilityCommand], Optional[Running]],
    ) -> None:
        """Remove what monitors before have left; nothing is started yet.

        Args:
            ctx: of the pilot.
            plan: of the payload.
            child: the payload.
            start: starts a process beside the payload; None when it cannot be started.
        """
        self._job, self._home = plan.task.job, ctx.home
        self._plan, self._child, self._begin = plan, child, start
        self._wanted = bool(ctx.settings.pilot.utility_after_payload_started)
        self._chain: list[UtilityCommand] = []
        self._external = False
        self._restarts = 0
        self._before = self._job.memory  # of earlier turns
        self._current: Optional[MemoryUse] = None
        self._checked: Optional[MemoryUse] = None
        self._said: Optional[MemoryUse] = None
        """What the external monitor said last, and since when."""
        self._said_at = 0.0
        self.next_start: Optional[float] = None
        """Monotonic time at which :meth:`start_again` is to be called."""
        self.sampler = MemorySampler(self._job.workdir)
        self.sampler.writes = self._wanted
        _remove(self._job.workdir, *FILES)
        _remove(self._home, SUMMARY)

    def start(self, pid: int, offered: Sequence[UtilityCommand]) -> None:
        """Start the first monitor of the chain.

        Args:
            pid: process to watch.
            offered: what the experiment has for that.
        """
        if not self._wanted:
            return
        self._chain = list(offered)
        path = shutil.which("prmon", path=self._plan.environ_outside.get("PATH", ""))
        if path:
            line = f"cd {shlex.quote(str(self._job.workdir))};{prmon_line(pid, shlex.quote(path))}"
            self._chain.append(UtilityCommand(MEMORY_MONITOR, line, signal=SIGUSR1, patience=PATIENCE))
        self.start_again()

    def start_again(self) -> None:
        """Start the monitor whose turn it is; when there is none left the pilot's own sampler writes the files."""
        self.next_start = None
        while self._chain:
            self.sampler.writes = False
            _remove(self._job.workdir, *FILES)
            if self._begin(self._chain[0]) is not None:
                self._external = True
                return
            self._chain.pop(0)
        self._external = False
        self.sampler.writes = True

    def gone(self, code: int) -> None:
        """The monitor has ended although the payload runs."""
        said = read_memory_use(self._job.workdir)
        if said is None:
            logger.warning("job %s: the memory monitor ended with exit code %d and has written nothing: %s",
                           self._job.jobid, code, "the next one is tried" if self._chain[1:] else
                           "the pilot samples the memory itself")
            self._chain.pop(0)
        elif self._restarts >= MAX_RESTARTS:
            logger.warning("job %s: the memory monitor has died %d times: the pilot samples the memory itself",
                           self._job.jobid, MAX_RESTARTS + 1)
            self._chain.clear()
        else:
            self._restarts += 1
            logger.warning("job %s: the memory monitor ended with exit code %d: it is started again (%d of %d)",
                           self._job.jobid, code, self._restarts, MAX_RESTARTS)
        if said is not None:
            self._before = _joined(self._before, said)
        self.next_start = time.monotonic() + _PAUSE

    def look(self, processes: Sequence[ProcInfo], limit_kb: int) -> None:
        """Look at the payload's processes and at what the monitor has written. May hang: not in the monitor's thread.

        Args:
            processes: of the payload.
            limit_kb: near it figures must be exact; 0 = unknown.
        """
        self.sampler.limit_kb = limit_kb
        self.sampler.sample(processes, self._in_group())
        external = read_memory_use(self._job.workdir) if self._external else None
        now = time.monotonic()
        if external != self._said:
            self._said, self._said_at = external, now
        elif now - self._said_at > _SILENCE:
            external = None  # it is stopped, or hangs itself
        own = self.sampler.use()
        self._checked = external if external is not None and external.known else own
        self._current = _joined(self._before, external or own)

    def _in_group(self) -> Optional[int]:
        """Return kB that the payload holds by a control group of its own, None without one."""
        group = memory_group(self._child.pid)
        if group is None:
            if self._child.group is None or not (self._child.group.directory / "memory.stat").exists():
                return None
            group = Group(self._child.group.directory, 2)  # the first process has ended or gone elsewhere
        used = memory_in_use(group)
        return used // 1024 if used is not None else None

    def use(self) -> Optional[MemoryUse]:
        """Return what was known at the last look, earlier turns included."""
        return self._current or self._before

    @property
    def checked(self) -> Optional[MemoryUse]:
        """What the limit is compared with: this turn's, by prmon where it runs and can be read."""
        return self._checked

    def finish(self) -> None:
        """The payload and the monitor are over: keep what they have measured; the summary goes to PILOT_HOME."""
        own = self.sampler.finish()
        current = read_memory_use(self._job.workdir) if self._external else None
        self._job.memory = _joined(self._before, current or own)
        content = read_summary(self._job.workdir)
        if content:
            try:
                with placed(self._home / SUMMARY) as part:
                    part.write_bytes(content)
            except OSError as exc:
                logger.warning("%s cannot be copied to %s: %s", SUMMARY, self._home, exc.strerror or exc)


def _joined(first: Optional[MemoryUse], second: Optional[MemoryUse]) -> Optional[MemoryUse]:
    return second if first is None else first if second is None else first.joined(second)


def _remove(directory: Path, *names: str) -> None:
    for name in names:
        try:
            (directory / name).unlink()
        except FileNotFoundError:
            continue
        except OSError as exc:
            logger.warning("the old %s cannot be removed: %s", name, exc.strerror)
