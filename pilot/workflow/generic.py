"""The generic workflow: control components around one road, and a main thread that waits for signals or the end."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from pilot.common.exception import PilotException
from pilot.control.data import StageInLane, StageOutLane
from pilot.control.fetch import JobFetcher
from pilot.control.job import JobComponent
from pilot.control.lifecycle import Event
from pilot.control.messages import DeadlineSet, LookAround, ServerCommand
from pilot.control.monitor import MonitorComponent
from pilot.control.payload import PayloadComponent
from pilot.control.road import Road
from pilot.control.shutdown import SignalArrived, WorkDone
from pilot.control.traces import Transfers
from pilot.control.watch.blackhole import BlackHole
from pilot.control.watch.watchdog import STUCK, Watchdog, ask_bounded
from pilot.panda.commands import Commands
from pilot.panda.outbox import FileReporter, Outbox

if TYPE_CHECKING:
    from pilot.context import PilotContext

logger = logging.getLogger(__name__)

# Shares of the time between a signal and the latest exit: transfers, then the log have to be over.
_OUTPUTS_SHARE, _TAIL_SHARE = 0.75, 0.88
# The last tenth of that time, but not more than 3 s, is kept for reporting what could not end.
_REPORT_SHARE, _REPORT_SECONDS = 0.1, 3.0
# The slot's end comes this many s after the last attempt to deliver a report; there is always time for one.
_SLOT_SECONDS = 5.0
# What the process needs for its own end after that.
_EXIT_SECONDS = 0.5


def run(ctx: PilotContext) -> None:
    """Run jobs until none comes any more, or until the pilot is told to end; sets ``ctx.exit_error``.

    Raises:
        PilotException: the experiment's sanity check failed.
    """
    from pilot.workflow.background import start_background
    from pilot.workflow.leftovers import clear_own_directory, deliver_leftovers

    code, text = ask_bounded(ctx)
    if code:
        raise PilotException(text, code=code)
    clear_own_directory(ctx)
    ctx.reporter = _make_reporter(ctx)
    ctx.transfers = Transfers(ctx)
    ctx.road = Road(ctx)
    fetcher = JobFetcher(ctx)
    ctx.blackhole = BlackHole(ctx, fetcher.would_go_on)
    job = JobComponent(ctx, fetcher)
    ctx.road.job_component, ctx.road.monitor = job, MonitorComponent(ctx)
    ctx.road.stagein, ctx.road.stageout, ctx.road.payload = StageInLane(ctx), StageOutLane(ctx), PayloadComponent(ctx)
    components = [job, fetcher, ctx.road.monitor, ctx.road.stagein, ctx.road.stageout, ctx.road.payload]
    ctx.supervisor.start()
    ctx.reporter.start()
    for component in components:
        component.start()
    watchdog = Watchdog(ctx, components)
    if ctx.settings.telemetry.otlp_endpoint:
        from pilot.control.telemetry import start_telemetry

        start_telemetry(ctx)
    _look_for_signals(ctx)
    if ctx.options.subscribe_to_msgsvc:
        from pilot.control.instructions import listen

        ctx.instructions = listen(ctx)
    job.begin()
    deliver_leftovers(ctx)
    start_background(ctx)
    ctx.transfers.start()
    _wait(ctx, watchdog)
    if watchdog.struck:
        _report_lost(ctx, watchdog.struck)
    if ctx.instructions is not None:
        ctx.instructions.close()
    _drain(ctx)
    _drain_traces(ctx)
    if ctx.telemetry is not None:
        from pilot.control.telemetry import stop_telemetry

        stop_telemetry(ctx)
    ctx.road.monitor.close(ctx.shutdown.remaining(float("inf")))
    for component in components:
        component.stop()
    ctx.reporter.close()
    ctx.transfers.close()
    ctx.finished.set()


def _make_reporter(ctx: PilotContext) -> Outbox | FileReporter:
    """Return where updates go: to the server by way of the outbox, or with ``-z`` to a file."""
    if ctx.server is None:
        return FileReporter(ctx.store, ctx.home / ctx.settings.pilot.heartbeat_message)

    def on_command(job_id: str, commands: Commands) -> None:
        ctx.road.monitor.post(ServerCommand(job_id, commands))

    return Outbox(ctx.store, ctx.server, ctx.settings, on_command)


def _wait(ctx: PilotContext, watchdog: Watchdog) -> None:
    """Block until the road is empty and no job will come, or until the deadline after a signal has passed."""
    reserve = min(_REPORT_SHARE * ctx.shutdown.grace, _REPORT_SECONDS)
    while True:
        ending = ctx.shutdown.deadline is not None
        left = max(0.0, ctx.shutdown.remaining(0.0) - reserve) if ending else float("inf")
        wake = ctx.shutdown.next_wake(min(left, watchdog.next_in()))
        if isinstance(wake, WorkDone):
            return
        if isinstance(wake, SignalArrived):
            if wake.signum == signal.SIGCONT:
                ctx.pulse.beat()
            if ctx.shutdown.begin_signal(wake.signum):
                _begin_ending(ctx)
        elif ending and ctx.shutdown.remaining(0.0) <= reserve:
            _give_up(ctx)
            return
        watchdog.look()


def _look_for_signals(ctx: PilotContext) -> None:
    """See what has come while this thread was busy with the start: better no job than one that is failed at once."""
    wake = ctx.shutdown.next_wake(0.0)
    while wake is not None:
        if isinstance(wake, SignalArrived) and ctx.shutdown.begin_signal(wake.signum):
            _begin_ending(ctx)
        wake = ctx.shutdown.next_wake(0.0)


def _begin_ending(ctx: PilotContext) -> None:
    """A signal has come: no further job, every job on the road is told, the deadlines are set."""
    reason = ctx.shutdown.reason
    assert reason is not None
    now = time.monotonic()
    os.environ["PILOT_WRAP_UP"] = "QUICKLY"
    grace = ctx.shutdown.grace
    ctx.road.monitor.post(DeadlineSet(now + grace * _OUTPUTS_SHARE, now + grace * _TAIL_SHARE, reason))
    for job in ctx.road.jobs():
        ctx.road.abort(job.jobid, Event.SIGNAL, reason.code, f"the pilot received {reason.text}")
    ctx.reporter.hurry()
    ctx.road.job_component.post(LookAround())


def _give_up(ctx: PilotContext) -> None:
    """The deadline is here and a job is still on the road: report it without log and outputs."""
    from pilot.workflow.leftovers import remove_secrets, report_abandoned

    reason = ctx.shutdown.reason
    assert reason is not None
    logger.critical("the deadline is near: what is still on the road is reported as it is")
    why = f"the pilot received {reason.text}" if reason.signum else reason.text
    text = f"{why} and could not end the job in time"
    report_abandoned(ctx.store, "", code=reason.code, text=text, post=partial(ctx.reporter.post, final=True))
    remove_secrets(ctx.store, "", ctx.settings.pilot.pandasecrets)
    ctx.reporter.hurry()


def _report_lost(ctx: PilotContext, text: str) -> None:
    """A part of the pilot was stuck: a job that it had just been given may never have come on the road."""
    from pilot.workflow.leftovers import report_abandoned

    report_abandoned(ctx.store, "", code=STUCK, text=text, post=partial(ctx.reporter.post, final=True))
    ctx.reporter.hurry()


def _drain(ctx: PilotContext) -> None:
    """Wait for the delivery of final reports: as long as the settings allow, or as a signal's deadline leaves."""
    if not ctx.reporter.drain(0.0):
        return
    now = time.monotonic()
    # what is killed at the end of the slot says nothing: better to leave before it, with exit code 79
    limit = min(now + ctx.settings.server.final_patience, max(ctx.leave.now.end - _SLOT_SECONDS, now + _SLOT_SECONDS))

    def drain() -> None:
        ctx.reporter.drain(limit - time.monotonic())
        ctx.shutdown.work_done()

    threading.Thread(target=drain, name="drain", daemon=True).start()
    while ctx.reporter.drain(0.0):
        left = ctx.shutdown.remaining(limit) - min(_EXIT_SECONDS, ctx.shutdown.grace / 50)
        left = min(left, limit - time.monotonic())
        if left <= 0:
            return  # the time is up: what is left stays in the store
        wake = ctx.shutdown.next_wake(left)
        if isinstance(wake, SignalArrived) and ctx.shutdown.begin_signal(wake.signum):
            ctx.reporter.hurry()


def _drain_traces(ctx: PilotContext) -> None:
    """Give the last traces a moment to leave, after all reports; what is left stays in the store."""
    limit = time.monotonic() + ctx.settings.rucio.trace_patience
    over = threading.Event()

    def done() -> None:
        over.set()
        ctx.shutdown.work_done()

    if not ctx.transfers.begin_end(done):
        return
    while not over.is_set():
        left = limit - time.monotonic()
        if ctx.shutdown.deadline is not None:
            left = min(left, ctx.shutdown.remaining(0.0) - min(_EXIT_SECONDS, ctx.shutdown.grace / 50))
        if left <= 0:
            return
        wake = ctx.shutdown.next_wake(left)
        if isinstance(wake, SignalArrived):
            ctx.shutdown.begin_signal(wake.signum)
