"""The company of a payload: processes beside it, started once it runs, ended with it.

::

    payload ───────────────────────────────────────────────┤
      memory monitor   dies: started again, at most 5 times ┤ SIGUSR1: writes its summary
      coprocess        of the job                           ┤ SIGTERM, SIGKILL
      ...              what the experiment wants            ┤

One thread, the payload's own, waits for all of them. Nothing here ever fails a payload that runs.
"""

from __future__ import annotations

import logging
import queue
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Callable, Optional, Union

from pilot.common.exception import PilotException
from pilot.control.memorymonitor import MEMORY_MONITOR, MemoryMonitor
from pilot.control.utilities import stop_grace, tell_experiment
from pilot.control.watch.lane import Lane
from pilot.info.payloadtask import Moment, PayloadTask, UtilityCommand
from pilot.payload.killer import send
from pilot.payload.utilities import (
    CANCELLED,
    ENDED,
    Ended,
    Running,
    read_arguments,
    start_utility,
    stop_utility,
)

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.control.plan import PayloadPlan
    from pilot.control.watch.memoryguard import MemoryGuard
    from pilot.info.memory import MemoryUse
    from pilot.monitoring.sampler import Reading
    from pilot.payload.child import Child
    from pilot.util.procfs import ProcInfo

logger = logging.getLogger(__name__)

STOPPED = "stopped"
"""The payload is to be ended, but not the job."""
_SEARCH_PAUSE = 5.0
_SEARCHES = 120
"""How often, and after how many s, the payload's process is looked for inside of its container."""


class Company:
    """What runs beside one payload; made with it, gone with it."""

    def __init__(self, ctx: PilotContext, plan: PayloadPlan, child: Child) -> None:
        self.ctx, self.plan, self.child = ctx, plan, child
        self._job = plan.task.job
        self._wakes: queue.SimpleQueue[Union[str, Running]] = queue.SimpleQueue()
        self._beside: list[Running] = []
        self.reason = ""
        """Why the payload was ended although the job goes on; '' = it was not."""
        self._searches = 0
        self._next_search: Optional[float] = None
        self._monitor = MemoryMonitor(ctx, plan, child, self._start)
        self._lane = Lane(f"memory-{self._job.jobid}")

    def look_at_memory(self, processes: Sequence[ProcInfo], guard: MemoryGuard,
                       then: Optional[Callable[[], None]] = None) -> bool:
        """Have the payload's memory looked at; from the monitor's thread, returns at once.

        Args:
            processes: of the payload.
            guard: knows the limit.
            then: called after the look, in another thread.

        Returns:
            False: a look is under way (it hangs, when ``memory_hangs``), nothing is done.
        """
        def look() -> None:
            try:
                self._monitor.look(processes, guard.limit_kb(self.child.started, self.child.group))
            finally:
                if then is not None:
                    then()

        return self._lane.ask("a look at the payload's memory", look)

    @property
    def memory_hangs(self) -> bool:
        """True when a look at the memory does not come back."""
        return bool(self._lane.hangs)

    def memory(self) -> Optional[MemoryUse]:
        """Return what is known of the payload's memory, by the last look; from the monitor's thread."""
        return self._monitor.use()

    @property
    def checked_memory(self) -> Optional[MemoryUse]:
        """What the limit is compared with."""
        return self._monitor.checked

    @property
    def reading(self) -> Reading:
        """The newest look of the pilot's own sampler."""
        return self._monitor.sampler.last

    def end_payload(self, reason: str) -> None:
        """Have the payload ended, what it has made counts as its result; from the monitor's thread."""
        self.reason = reason
        logger.warning("job %s: the payload is to be ended: %s", self._job.jobid, reason)
        self._wakes.put(STOPPED)

    # --- start --------------------------------------------------------------------------------------------------------

    def start(self, coprocess: Optional[UtilityCommand]) -> None:
        """Start everything; what cannot be started is missing, and the log says so."""
        task = self.plan.task
        for utility in self._asked(Moment.WITH_PAYLOAD, task):
            self._start(utility)
        self._search()
        for utility in (*([coprocess] if coprocess is not None else []),
                        *self._asked(Moment.AFTER_PAYLOAD_STARTED2, replace(task, pid=self.child.pid))):
            self._start(utility)

    def _asked(self, moment: Moment, task: PayloadTask) -> Sequence[UtilityCommand]:
        try:
            return self.ctx.experiment.utility(moment, task, self.plan.command)
        except PilotException as exc:
            logger.error("job %s: nothing runs %s: %s", self._job.jobid, moment.value, exc.detail)
            return ()

    def _start(self, utility: UtilityCommand) -> Optional[Running]:
        logger.info("job %s: %s: %s", self._job.jobid, utility.label, self.plan.printable(utility.line))
        try:
            running = start_utility(self.ctx.supervisor, utility, self._job.workdir, self.plan.environ_outside)
        except (PilotException, OSError) as exc:
            logger.error("job %s: %s", self._job.jobid, exc)
            return None
        self._beside.append(running)
        running.child.on_exit(lambda _child: self._wakes.put(running))
        return running

    def _search(self) -> None:
        """Find the process to watch; in a container it comes into being some time after the payload's shell."""
        self._next_search = None
        pid = watched_process(self.plan, self.child)
        self._searches += 1
        if pid:
            offered = self._asked(Moment.AFTER_PAYLOAD_STARTED, replace(self.plan.task, pid=pid))
            self._monitor.start(pid, [utility for utility in offered if utility.label == MEMORY_MONITOR])
            for utility in offered:
                if utility.label != MEMORY_MONITOR:
                    self._start(utility)
        elif self._searches < _SEARCHES:
            self._next_search = time.monotonic() + _SEARCH_PAUSE
        else:
            logger.warning("job %s: no process with 'export PandaID=%s' in its arguments has come up in the"
                           " container: the pilot samples the memory itself", self._job.jobid, self._job.jobid)

    # --- until the payload ends ---------------------------------------------------------------------------------------

    def wait(self) -> str:
        """Block until the payload has ended (ENDED), the job is broken off (CANCELLED), or only the payload is to be
        (STOPPED)."""
        def ended(_child: Child) -> None:
            self._wakes.put(ENDED)

        def cancelled() -> None:
            self._wakes.put(CANCELLED)

        self.child.on_exit(ended)
        self._job.cancel.on_cancel(cancelled)
        try:
            while True:
                try:
                    wake = self._wakes.get(timeout=self._next_in())
                except queue.Empty:
                    self._due()
                    continue
                if isinstance(wake, str):
                    return wake
                self._gone(wake)
        finally:
            self._job.cancel.forget(cancelled)

    def _next_in(self) -> Optional[float]:
        times = [moment for moment in (self._next_search, self._monitor.next_start) if moment is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _due(self) -> None:
        now = time.monotonic()
        if self._next_search is not None and self._next_search <= now:
            self._search()
        if self._monitor.next_start is not None and self._monitor.next_start <= now:
            self._monitor.start_again()

    def _gone(self, running: Running) -> None:
        """One of them has ended before the payload."""
        self._beside.remove(running)
        stop_utility(running, stop_grace(self.ctx))  # what it left behind
        code = running.child.status.code if running.child.status is not None else 255
        if running.command.label == MEMORY_MONITOR:
            self._monitor.gone(code)
            return
        word = logger.info if code == 0 or code in running.command.harmless else logger.warning
        word("job %s: %s has ended with exit code %d, before the payload", self._job.jobid, running.command.label, code)
        self._tell(running, code)

    def _tell(self, running: Running, code: int) -> None:
        try:
            tell_experiment(self.ctx, self.plan, running.command, Ended(code, False, running))
        except PilotException as exc:
            logger.error("job %s: %s", self._job.jobid, exc.detail)

    # --- end ----------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """The payload is over: end all of them, the memory monitor first (it notices by itself), and take its words."""
        hurry = self._job.cancel.cancelled
        until = time.monotonic() + stop_grace(self.ctx)  # for all of them together, when the job is broken off
        if hurry:
            for running in self._beside:
                if running.command.label != MEMORY_MONITOR:
                    send(running.child.descendants(), signal.SIGTERM)
        for running in sorted(self._beside, key=lambda item: item.command.label != MEMORY_MONITOR):
            patience = running.command.patience
            if hurry:
                patience = min(patience, max(0.0, until - time.monotonic()))
            was_running = running.child.running
            stop_utility(running, patience)
            status = running.child.wait(1.0)
            if running.command.label != MEMORY_MONITOR and not was_running and status is not None:
                self._tell(running, status.code)
        self._beside.clear()
        self._monitor.finish()


def watched_process(plan: PayloadPlan, child: Child) -> int:
    """Return the process whose tree is the payload's: its shell, unless it runs in a container; 0 while unknown.

    In a container it is the first one below the shell that has ``export PandaID=<id>`` in its arguments.
    """
    job = plan.task.job
    if not plan.command.container and "runcontainer" not in job.transformation:
        return child.pid
    wanted = f"export PandaID={job.jobid}"
    for info in child.descendants():
        words = read_arguments(info.pid)
        if any(wanted in word for word in words) and "xrootd" not in words[0]:
            return info.pid
    return 0
