"""Sees to it that the pilot itself does not hang: each step of a component has its own deadline, each thread must live.

::

    component ── say(line, seconds) ──► step: deadline ◄── looked at every pilot.thread_check s ── main thread
                                                                │ overdue, or a thread has died
        stacks of all threads into the log ◄────────────────────┤
        a fresh thread for the component's inbox ◄──────────────┤   the old one is left behind: what it says no
        its job: 1317, on through the one tail ◄────────────────┤   longer counts
        the other jobs end, no further job, a deadline ◄────────┘

The main thread does the looking: it does nothing that could hang. A process that ends all the same too late is ended by
a timer. Source: control and monitoring document 7.15.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pilot.common.errorcodes import process_exit_code
from pilot.control.lifecycle import Event, Stage
from pilot.control.messages import DeadlineSet, LookAround, NoMoreJobs, PayloadEnded
from pilot.control.shutdown import StopReason
from pilot.control.utilities import stop_grace
from pilot.control.watch.checklist import is_wanted

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.control.component import Component
    from pilot.info.job import Job

logger = logging.getLogger(__name__)

STUCK, DIED = 1317, 1301
_STAGES = {
    "job": frozenset({Stage.RECEIVED, Stage.REPORTING, Stage.CLEANING}), "stage-in": frozenset({Stage.STAGEIN}),
    "payload": frozenset({Stage.PAYLOAD}), "stage-out": frozenset({Stage.STAGEOUT}),
}
"""Component -> stages of the jobs that are in its hands."""
_LATE = 5.0
"""s that the main thread may be late before the time counts for nobody: the pilot was suspended, or the node is
overloaded."""
_FRAMES = 40
_SPARE = 60.0
"""s beyond the pilot's own deadline until the process is ended from within."""


class Watchdog:
    """One per pilot; used by the main thread.

    Args:
        ctx: of the pilot.
        components: what is watched.
    """

    def __init__(self, ctx: PilotContext, components: Sequence[Component]) -> None:
        self._ctx, self._components = ctx, components
        ctx.pulse.begin()  # the start may have taken its time
        self._armed = False
        self.struck = ""
        """What was found wrong; '' = nothing so far."""
        self._threads, self._cpu = is_wanted(ctx, "threads"), is_wanted(ctx, "cpu_usage")
        self._period = float(ctx.settings.pilot.thread_check)
        self._next = time.monotonic() + self._period
        self._next_cpu = time.monotonic() + ctx.settings.pilot.cpu_check

    def next_in(self) -> float:
        """Seconds until :meth:`look` is due."""
        return max(0.0, self._next - time.monotonic())

    def look(self) -> None:
        """Look at everything, when the time has come."""
        now = time.monotonic()
        late = now - self._next
        if late < 0:
            return
        self._next = now + self._period
        self._ctx.pulse.beat()
        if late > _LATE:
            for component in self._components:
                component.postpone(late)
        if self._cpu and now >= self._next_cpu:
            self._next_cpu = now + self._ctx.settings.pilot.cpu_check
            self._say_usage()
        if not self._threads:
            return
        for component in self._components:
            if not component.lives:
                self._strike(component, DIED, f"the thread of component {component.name} has died")
            elif component.overdue(now):
                self._strike(component, STUCK, f"component {component.name} is stuck: {component.doing}")
        self._look_at_helpers()

    def _look_at_helpers(self) -> None:
        """The sender of reports and the collector of ended processes are no components, but nothing works without."""
        for name, part in (("reporter", self._ctx.reporter), ("reaper", self._ctx.supervisor)):
            problem = part.trouble()
            if problem:
                text = f"the thread '{name}' {problem}"
                logger.critical("%s; it gets a new one. Threads:\n%s", text, stacks())
                part.revive()
                if problem == "has died":
                    self._end_pilot(DIED, text)

    def _say_usage(self) -> None:
        import resource

        usage = resource.getrusage(resource.RUSAGE_SELF)
        logger.debug("the pilot itself: CPU time %.2f s, at most %.1f MB, %d threads", usage.ru_utime + usage.ru_stime,
                     usage.ru_maxrss / 1024, threading.active_count())

    # --- the end ------------------------------------------------------------------------------------------------------

    def _strike(self, component: Component, code: int, text: str) -> None:
        """End the job of a component that no longer works, and the pilot with it."""
        message = component.message
        self._arm(code)  # first: the log may lie on what hangs
        logger.critical("%s. Threads:\n%s", text, stacks())
        self._end_pilot(code, text)
        component.renew()
        stages = _STAGES.get(component.name, frozenset())
        job = getattr(message, "job", None) if stages else None
        if job is not None and component is self._ctx.road.payload:
            threading.Thread(target=self._end_payload, args=(job, code, text), name="end-payload", daemon=True).start()
        elif job is not None:
            self._ctx.road.take_over(job, stages, code, text)
        if component.name == "getjob":
            self._ctx.road.job_component.post(NoMoreJobs(StopReason(text, exit_code=code)))
        self._ctx.road.job_component.post(LookAround())

    def _end_payload(self, job: Job, code: int, text: str) -> None:
        """End what runs for the job, which its own thread no longer does, then let the job go on."""
        for child in self._ctx.supervisor.children():
            child.kill_tree(stop_grace(self._ctx))
        self._ctx.road.monitor.post(PayloadEnded(job.jobid))
        self._ctx.road.take_over(job, _STAGES["payload"], code, text)

    def _arm(self, code: int) -> None:
        """See to it that the process ends whatever else hangs."""
        if self._armed:
            return
        self._armed = True
        exit_code = process_exit_code(code)
        timer = threading.Timer(self._ctx.shutdown.grace + _SPARE, lambda: os._exit(exit_code))
        timer.daemon = True
        timer.start()

    def _end_pilot(self, code: int, text: str) -> None:
        if self.struck:
            return
        self.struck = text
        ctx = self._ctx
        self._arm(code)
        ctx.exit_error = ctx.exit_error or code
        ctx.shutdown.fail(StopReason(text, code, code))
        reason = ctx.shutdown.reason
        assert reason is not None
        now, left = time.monotonic(), ctx.shutdown.remaining(ctx.shutdown.grace)
        ctx.road.monitor.post(DeadlineSet(now + left * 0.75, now + left * 0.88, reason))
        for job in ctx.road.jobs():
            ctx.road.abort(job.jobid, Event.LIMIT, code, text)
        ctx.reporter.hurry()


def stacks() -> str:
    """Return where each thread of this process is, the innermost call last. No file is read for that: it may lie on
    what hangs."""
    frames = sys._current_frames()
    parts = []
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if frame is None:
            continue
        calls = traceback.StackSummary.extract(traceback.walk_stack(frame), limit=_FRAMES, lookup_lines=False)
        lines = [f"    {call.filename}:{call.lineno} in {call.name}" for call in reversed(calls)]
        parts.append("\n".join([f"  {thread.name}:", *lines]))
    return "\n".join(parts)


def ask_bounded(ctx: PilotContext) -> tuple[int, str]:
    """Return what the experiment's ``sanity_check`` says, signals heard meanwhile.

    Raises:
        PilotException: 1317, it does not come back.
        CancelledError: a signal has come.
    """
    from pilot.common.exception import PilotException
    from pilot.control.shutdown import SignalArrived
    from pilot.user.base import Experiment

    if type(ctx.experiment).sanity_check is Experiment.sanity_check:
        return ctx.experiment.sanity_check()
    answers: list[tuple[int, str]] = []
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            answers.append(ctx.experiment.sanity_check())
        except BaseException as exc:  # noqa: BLE001 - raised again in the main thread
            errors.append(exc)
        finally:
            ctx.shutdown.work_done()

    threading.Thread(target=ask, name="sanity-check", daemon=True).start()
    limit = time.monotonic() + ctx.settings.monitor.step_time
    while not answers and not errors:
        wake = ctx.shutdown.next_wake(max(0.0, limit - time.monotonic()))
        if isinstance(wake, SignalArrived):
            if ctx.shutdown.begin_signal(wake.signum):
                ctx.shutdown.stopping.check()
        elif wake is None:
            logger.critical("threads:\n%s", stacks())
            raise PilotException(
                f"the hook sanity_check of experiment {ctx.experiment.name} has not come back within "
                f"{ctx.settings.monitor.step_time:.0f} s (monitor.step_time)", code=STUCK)
    if errors:
        raise errors[0]
    return answers[0]
