"""control/monitor: heartbeats, samples, time limits, server commands, deadlines; it watches every job on the road.

One thread, one inbox, one set of timers: between two timers it sleeps in the kernel.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Mapping, Optional, Sequence

from pilot.control.component import Component
from pilot.control.debugmode import DebugDesk
from pilot.control.lifecycle import Event, Stage
from pilot.control.messages import (
    CheckFailed,
    DeadlineSet,
    DebugAnswered,
    JobEntered,
    JobGone,
    JobWaits,
    LeaveByMoved,
    MemoryLooked,
    PayloadEnded,
    PayloadStarted,
    ServerCommand,
)
from pilot.control.realtime import RealtimeLogs
from pilot.control.reports import heartbeat_message
from pilot.control.timers import Timers
from pilot.control.watch.checkdesk import FIRST_SIZE_LOOK, CheckDesk
from pilot.control.watch.checklist import keepers
from pilot.control.watch.lane import Lane
from pilot.control.watch.timelimits import TimeLimits
from pilot.info.job import Job
from pilot.monitoring.checks import Ends, Keeper, Look
from pilot.monitoring.cpu import CpuMeter
from pilot.monitoring.sampler import Reading
from pilot.payload.textfiles import cut_bytes
from pilot.store.viewrows import Sample
from pilot.util import procfs
from pilot.util.redact import redact

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.control.company import Company
    from pilot.panda.commands import Commands
    from pilot.payload.process import Child

logger = logging.getLogger(__name__)

_METRICS_PATIENCE = 10.0
"""s after which an update goes out without metrics."""
_FIRST_LOOKS = (1.0, 5.0, 20.0)
"""s after the payload's start; later ones come with the samples of its CPU time."""


OUTPUT_LIMIT = 2048
"""Bytes of the server's column ``stdout``."""


@dataclass
class Watch:
    """What the monitor knows of one job. ``view`` is its own copy for heartbeats: the job belongs to somebody else."""

    job: Job
    view: Job
    checks: Optional[CheckDesk] = None
    metrics: Lane = field(default_factory=lambda: Lane("metrics", _METRICS_PATIENCE))
    """Makes updates, whose metrics come from files of the job."""
    meter: CpuMeter = field(default_factory=CpuMeter)
    child: Optional[Child] = None
    company: Optional[Company] = None
    cpu_before: float = 0.0
    """CPU seconds of earlier turns."""
    debug: bool = False
    debug_command: str = ""
    debug_text: str = ""
    """Answer to ``debug_command``, empty until there is one."""
    refused: str = ""
    """What of the last command was refused and why; stands before the answers."""
    due: float = 0.0
    """Monotonic s of the next heartbeat."""
    closed: bool = False
    """The server wants no more heartbeats."""
    last_words: tuple[str, ...] = ()


class MonitorComponent(Component):
    """Watches; it never does a stage's work itself."""

    name = "monitor"

    def __init__(self, ctx: PilotContext) -> None:
        super().__init__(ctx)
        self._timers = Timers()
        self._watches: dict[str, Watch] = {}
        self._desk = DebugDesk(ctx, self.post)
        self._realtime = RealtimeLogs(ctx)
        self._limits = TimeLimits(ctx, self._timers)

    def start(self) -> None:
        """Start the thread, and what looks after the pilot itself."""
        for keeper in keepers(self.ctx):
            self._schedule_keeper(keeper)
        super().start()

    def _schedule_keeper(self, keeper: Keeper) -> None:
        lane = Lane(f"keeper-{keeper.name}")  # one that hangs holds up no other

        def look() -> None:
            lane.ask(keeper.name, keeper.look)
            self._timers.after(keeper.period, f"keeper:{keeper.name}", look)

        self._timers.after(keeper.period, f"keeper:{keeper.name}", look)

    def close(self, left: float) -> None:
        """The pilot ends: the last lines of real-time logging get a moment, at most ``left`` s."""
        self._realtime.close(left)

    # --- inbox --------------------------------------------------------------------------------------------------------

    def step_time(self) -> float:
        """It never waits for anything."""
        return float(self.ctx.settings.monitor.call_time)

    def next_timeout(self) -> Optional[float]:
        """Seconds until the next timer."""
        return self._timers.next_in()

    def timeout(self) -> None:
        """Run the timers that are due."""
        self._timers.run_due()

    def handle(self, message: Any) -> None:
        """Do what the message asks for."""
        handlers: Mapping[type, Callable[[Any], None]] = {
            PayloadStarted: self._payload_started, MemoryLooked: self._memory_looked, CheckFailed: self._check_failed,
            DebugAnswered: self._debug_answered, DeadlineSet: self._deadline, JobGone: self._gone}
        handler = handlers.get(type(message))
        if handler is not None:
            handler(message)
        elif isinstance(message, JobEntered):
            self._entered(message.job)
        elif isinstance(message, JobWaits):
            self._limits.waits(message.job_id, goes_on=message.goes_on)
        elif isinstance(message, LeaveByMoved):
            self._limits.moved()
        elif isinstance(message, PayloadEnded):
            self._payload_ended(message.job_id)
        elif isinstance(message, ServerCommand):
            self._command(message.job_id, message.commands)
        else:
            raise TypeError(f"unexpected message {message!r}")
        self._timers.run_due()

    def _gone(self, message: JobGone) -> None:
        gone = self._watches.pop(message.job_id, None)
        if gone is not None and gone.checks is not None:
            gone.checks.close()
        self._timers.cancel_prefix(f"{message.job_id}:")
        self._limits.gone(message.job_id)
        self._desk.drop(message.job_id)
        self._realtime.job_gone(message.job_id)

    def _entered(self, job: Job) -> None:
        watch = Watch(job, copy.copy(job), debug=job.debug, debug_command="debug" if job.debug else "")
        self._watches[job.jobid] = watch
        watch.checks = CheckDesk(self.ctx, job, self.post)
        track = self.ctx.road.track(job.jobid)
        if track is not None:
            track.desk = watch.checks
        self._schedule_heartbeat(watch)
        self._schedule_files(watch)
        self._limits.entered(job)

    # --- heartbeats ---------------------------------------------------------------------------------------------------

    def _schedule_heartbeat(self, watch: Watch, *, follows: bool = False) -> None:
        """Set the next heartbeat, a period from now, or from the time the last one was due (``follows``)."""
        pilot = self.ctx.settings.pilot
        period = pilot.debug_heartbeat if watch.debug else pilot.heartbeat
        now = time.monotonic()
        watch.due = watch.due + period if follows and watch.due + period > now else now + period
        self._timers.at(watch.due, f"{watch.job.jobid}:heartbeat", lambda: self._heartbeat(watch))

    def _heartbeat(self, watch: Watch) -> None:
        self._schedule_heartbeat(watch, follows=True)  # first: whatever fails below, the next one comes
        self._sample(watch)
        if watch.child is not None and watch.company is not None:
            watch.view.memory = watch.company.memory()
        if watch.debug and self._desk.ask(watch.job, watch.debug_command, watch.child):
            return  # it goes with the answer
        self._send_heartbeat(watch)

    def _send_heartbeat(self, watch: Watch) -> None:
        self._send_running(watch)
        track = self.ctx.road.track(watch.job.jobid)
        stage = track.state.stage.value if track is not None else "leaving"
        silence = time.monotonic() - self.ctx.reporter.last_success
        if silence > self.ctx.settings.pilot.lost_heartbeat:
            logger.error("job %s: no update has reached the server for %.0f s; it may have given the job up",
                         watch.job.jobid, silence)
        # this line also tells the wrapper that the pilot is alive: it looks at the log's modification time
        logger.info("job %s: %s, CPU time %.0f s", watch.job.jobid, stage, watch.view.cpu_seconds)

    def _send_running(self, watch: Watch) -> None:
        """Send an update, with the job's metrics unless the files that they are made from hang."""
        job_id, view, stdout = watch.job.jobid, copy.copy(watch.view), self._debug_stdout(watch)
        unsent = threading.Lock()

        def send(*, metrics: bool) -> None:
            message = heartbeat_message(self.ctx, view, "running", stdout=stdout, metrics=metrics)
            if unsent.acquire(blocking=False):
                self.ctx.reporter.post(job_id, message, final=False)

        def late() -> None:
            if not unsent.locked():
                send(metrics=False)

        if watch.metrics.ask("the metrics of the job", lambda: send(metrics=True)):
            self._timers.after(_METRICS_PATIENCE, f"{job_id}:metrics", late)
        else:
            late()

    # --- the payload --------------------------------------------------------------------------------------------------

    def _payload_started(self, started: PayloadStarted) -> None:
        job = started.job
        watch = self._watches.get(job.jobid)
        if watch is None:
            return
        is_first = watch.company is None
        watch.child, watch.company = started.child, started.company
        watch.view = copy.copy(job)
        watch.meter, watch.cpu_before = CpuMeter(), job.cpu_seconds
        if is_first:  # not in each turn of a job that has many
            self._send_running(watch)
        if watch.checks is not None:
            watch.checks.payload_started(started.child.started, started.child.pid)
            self._limits.payload_started(job, started.child.started)
            self._timers.after(FIRST_SIZE_LOOK, f"{job.jobid}:sample:files", watch.checks.look_at_files)
        self._schedule_sample(watch)
        for seconds in _FIRST_LOOKS:  # at the memory: most payloads are at their final size soon, some end soon
            if seconds < self._sample_interval:
                self._timers.after(seconds, f"{job.jobid}:sample:{seconds}", lambda: self._look_at_memory(watch))
        self._realtime.payload_started(job)

    def _payload_ended(self, job_id: str) -> None:
        self._realtime.payload_ended(job_id)
        watch = self._watches.get(job_id)
        if watch is not None:
            watch.child = None
            self._timers.cancel_prefix(f"{job_id}:sample")
            if watch.checks is not None:
                watch.checks.payload_ended()

    def _schedule_sample(self, watch: Watch) -> None:
        def sample() -> None:
            self._sample(watch)
            if watch.child is not None:
                self._schedule_sample(watch)

        self._timers.after(self._sample_interval, f"{watch.job.jobid}:sample", sample)

    @property
    def _sample_interval(self) -> float:
        """s between samples: no check of processes waits longer than its own period."""
        settings = self.ctx.settings
        return min(settings.monitor.cpu_interval, float(settings.pilot.memory_usage_verification_time))

    def _look_at_memory(self, watch: Watch) -> None:
        """One of the first looks: between two samples."""
        if watch.child is not None and watch.company is not None and watch.checks is not None:
            watch.company.look_at_memory(watch.child.descendants(), watch.checks.guard)

    def _sample(self, watch: Watch) -> None:
        """One look at /proc: CPU time of the payload's whole tree, cores in use. Trouble here never touches the job."""
        child = watch.child
        if child is None:
            return
        try:
            table = procfs.scan()
            processes = child.descendants(table)
        except OSError as exc:
            logger.warning("job %s: no sample of its processes: %s", watch.job.jobid, exc)
            return
        sample = watch.meter.sample(child.live_cpu_seconds(table))
        watch.view.cpu_seconds = watch.cpu_before + sample.seconds
        watch.view.core_counts = [*watch.view.core_counts, sample.cores]
        look = Look(time.monotonic(), time.monotonic() - child.started, processes, watch.view.cpu_seconds,
                    sample.cores)

        def looked() -> None:
            self.post(MemoryLooked(watch.job.jobid, child, look))

        if watch.company is None or watch.checks is None or not watch.company.look_at_memory(
                processes, watch.checks.guard, looked):
            self._memory_looked(MemoryLooked(watch.job.jobid, child, look))  # without a new figure

    def _memory_looked(self, message: MemoryLooked) -> None:
        """Everything is known of this sample: store it, let the checks look at it."""
        watch = self._watches.get(message.job_id)
        if watch is None or watch.child is not message.child:
            return  # that payload has ended meanwhile
        look, company = message.look, watch.company
        reading = Reading()
        if company is not None and not company.memory_hangs:
            look, reading = look._replace(memory=company.checked_memory), company.reading
        size = 0
        if watch.checks is not None:
            size = watch.checks.size
            watch.checks.look(look)
        rss = sum(info.rss for info in look.processes) * procfs.PAGE_BYTES
        self.ctx.store.add_sample(watch.job.jobid, Sample(
            time.time(), look.cpu_seconds, look.cores, rss, len(look.processes), reading.pss * 1024,
            reading.swap * 1024, reading.read_bytes, reading.write_bytes, workdir=size))

    # --- checks -------------------------------------------------------------------------------------------------------

    def _schedule_files(self, watch: Watch) -> None:
        def look() -> None:
            track = self.ctx.road.track(watch.job.jobid)
            if track is None or track.state.stage not in (Stage.RECEIVED, Stage.STAGEIN, Stage.PAYLOAD):
                return  # its tail has begun
            if watch.checks is not None and track.state.stage is not Stage.RECEIVED:  # there it may wait for space
                if watch.checks.view is not None:
                    self._limits.written(watch.job, watch.checks.view.size)
                watch.checks.look_at_files()
            self._schedule_files(watch)

        self._timers.after(self.ctx.settings.pilot.disk_space_verification_time, f"{watch.job.jobid}:files", look)

    def _check_failed(self, message: CheckFailed) -> None:
        """A limit is broken: end the job, or only its payload."""
        breach = message.breach
        self.ctx.store.add_note(message.job_id, message.check, breach.text)
        watch = self._watches.get(message.job_id)
        if breach.ends is Ends.PAYLOAD:
            if watch is not None and watch.company is not None:
                watch.company.end_payload(breach.text)
            return
        track = self.ctx.road.track(message.job_id)
        if track is not None and track.state.stage is Stage.STAGEOUT:
            logger.warning("job %s: its payload has ended while '%s' was looked into: the job is judged by its results",
                           message.job_id, message.check)
            return
        self.ctx.road.abort(message.job_id, Event.LIMIT, breach.code, breach.text)

    # --- limits, commands ----------------------------------------------------------------------------------------

    def _command(self, job_id: str, commands: Commands) -> None:
        watch = self._watches.get(job_id)
        if watch is None:
            return  # a late answer for a job that has left
        if commands.already_done or commands.stale:
            logger.warning("job %s: the server has closed this job (%s): no more heartbeats", job_id,
                           ",".join(commands.words))
            self._timers.cancel(f"{job_id}:heartbeat")
            watch.closed = True
            self._desk.drop(job_id)
        if commands.kill or commands.stale:  # an attempt that is over burns its CPU for nobody
            if not watch.job.cancel.cancelled:
                word = "tobekilled" if commands.kill else "badattemptnr"
                self.ctx.road.abort(job_id, Event.KILL, 1144, f"the server sent {word}")
            return
        if commands.already_done:
            return  # it says nothing about debug mode: taking that for 'off' would start the heartbeats again
        self._realtime.secrets_came(watch.job, commands.pilot_secrets)
        self._debug_mode(watch, commands)
        if commands.nocleanup:
            watch.job.keep_workdir = True
        if commands.words != watch.last_words:
            watch.last_words = commands.words
            if commands.softkill and not watch.job.is_eventservice:
                logger.info("job %s: softkill concerns event service jobs only, nothing to do", job_id)
            for text in commands.refused:
                logger.warning("job %s: operator command refused: %s", job_id, text)
            self._say_refused(watch, commands.refused)

    # --- debug mode ---------------------------------------------------------------------------------------------------

    def _debug_mode(self, watch: Watch, commands: Commands) -> None:
        # today's server ends debug mode by no longer naming it
        wanted = bool(commands.debug)
        command = (commands.debug_command or "debug") if wanted else ""
        if (wanted, command) == (watch.debug, watch.debug_command):
            return
        pilot = self.ctx.settings.pilot
        period = pilot.debug_heartbeat if wanted else pilot.heartbeat
        logger.info("job %s: debug mode %s, an update every %d s", watch.job.jobid,
                    f"on: {command}" if wanted else "off", period)
        watch.debug, watch.debug_command, watch.debug_text = wanted, command, ""
        self._desk.drop(watch.job.jobid)
        self._realtime.debug_changed(watch.job.jobid, wanted, command)
        if wanted:
            watch.job.keep_core = True  # cores are worth archiving now, whoever has made them
            watch.due = time.monotonic()
            self._heartbeat(watch)
        else:
            self._schedule_heartbeat(watch)

    def _debug_stdout(self, watch: Watch) -> str:
        if not watch.debug:
            return watch.refused
        room = OUTPUT_LIMIT - len(watch.refused.encode())
        return watch.refused + cut_bytes(watch.debug_text, room, keep_end=not watch.debug_command.startswith("gdb"))

    def _say_refused(self, watch: Watch, refused: Sequence[str]) -> None:
        """Tell the operator where he looks for the answer; at once when nothing else will come."""
        watch.refused = redact(f"refused: {', '.join(refused)[:300]!r} (one of tail, ls, ps, gdb, du, without ';')\n"
                               ) if refused else ""
        if refused and not watch.debug:
            self._send_heartbeat(watch)

    def _debug_answered(self, message: DebugAnswered) -> None:
        """Send what a command has come to; with a core file the payload's work is over."""
        watch = self._watches.get(message.job_id)
        if watch is None:
            return
        if message.command == watch.debug_command and not watch.closed:
            if not watch.debug_text:
                logger.info("job %s: debug command '%s' is answered, %d characters", message.job_id, message.command,
                            len(message.text))
            watch.debug_text = message.text
            self._send_heartbeat(watch)
        if message.core:
            logger.warning("job %s: gdb has written %s, the payload is ended", message.job_id, message.core)
            self.ctx.road.abort(message.job_id, Event.KILL, 1144,
                                "payload was killed after gdb produced requested core file")

    # --- deadlines ----------------------------------------------------------------------------------------------------

    def _deadline(self, message: DeadlineSet) -> None:
        """Break off transfers, then the log, when the pilot has to be gone."""

        def end_outputs() -> None:
            for job in self.ctx.road.jobs():
                job.cancel.cancel(message.reason.code, f"{message.reason.text}: no time left")

        def end_tails() -> None:
            self.ctx.lookups.cancel(message.reason.code, f"{message.reason.text}: no time left")
            for job in self.ctx.road.jobs():
                track = self.ctx.road.track(job.jobid)
                if track is not None:
                    track.tail.cancel(message.reason.code, f"{message.reason.text}: no time left")

        self._timers.at(message.outputs, "deadline:outputs", end_outputs)
        self._timers.at(message.tail, "deadline:tail", end_tails)
