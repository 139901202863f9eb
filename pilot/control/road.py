"""Carries out the life cycle: applies events to jobs and posts the next step to the component that does it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Optional

from pilot.control.lifecycle import Event, InvalidTransition, JobState, Stage, Step, next_step
from pilot.control.messages import (
    Clean,
    JobEntered,
    JobGone,
    JobLeft,
    LookAround,
    Report,
    RunPayload,
    StageIn,
    StageOut,
    Validate,
)
from pilot.control.reports import last_resort_message
from pilot.info.job import Job
from pilot.util.cancel import CancelToken

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.control.component import Component
    from pilot.control.watch.checkdesk import CheckDesk
    from pilot.payload.utilities import Running

logger = logging.getLogger(__name__)


@dataclass
class Track:
    """A job on the road: its state, and the token that its tail (log archive and its transfer) obeys.

    ``job.cancel`` breaks off the stage that makes or moves results; ``tail`` only ends when a deadline passes.
    """

    job: Job
    state: JobState
    tail: CancelToken = field(default_factory=CancelToken)
    daemons: list[Running] = field(default_factory=list)
    """What utilities before the payload have left running for it (a cache)."""
    desk: Optional[CheckDesk] = None
    """Its checks; made by the monitor."""
    company_left: bool = False
    """True once they were ended."""


class LeftBehind(SystemExit):
    """Ends a thread that was stuck and comes back when another one does its work already."""


_FAILED_AS = {Stage.RECEIVED: Event.REJECTED, Stage.STAGEIN: Event.STAGEIN_FAILED, Stage.PAYLOAD: Event.PAYLOAD_FAILED,
              Stage.STAGEOUT: Event.STAGEOUT_FAILED, Stage.CLEANING: Event.CLEANED}
"""How a stage ends whose component cannot end it itself."""


class Road:
    """All jobs between grant and final report. Events may come from any thread; they are applied one by one."""

    def __init__(self, ctx: PilotContext) -> None:
        self._ctx = ctx
        self._lock = threading.RLock()
        self._tracks: dict[str, Track] = {}
        self._left_behind: set[threading.Thread] = set()
        self.job_component: Component
        self.stagein: Component
        self.stageout: Component
        self.payload: Component
        self.monitor: Component

    # --- looking ------------------------------------------------------------------------------------------------------

    def track(self, job_id: str) -> Optional[Track]:
        """The track of a job, None when it is not on the road."""
        with self._lock:
            return self._tracks.get(job_id)

    def jobs(self) -> list[Job]:
        """The jobs on the road, oldest first."""
        with self._lock:
            return [track.job for track in self._tracks.values()]

    def stages(self) -> list[Stage]:
        """The stages of the jobs on the road."""
        with self._lock:
            return [track.state.stage for track in self._tracks.values()]

    # --- acting -------------------------------------------------------------------------------------------------------

    def enter(self, job: Job) -> None:
        """Take a granted job on the road: it is validated next."""
        inputs = any(spec.require_transfer() for spec in job.indata)
        with self._lock:
            self._tracks[job.jobid] = Track(job, JobState(has_inputs=inputs))
        self.monitor.post(JobEntered(job))
        self.job_component.post(Validate(job))
        reason = self._ctx.shutdown.reason
        if reason is not None and reason.signum:
            # granted while a signal was on its way: it must not hang in 'sent' until the server times it out
            self.abort(job.jobid, Event.SIGNAL, reason.code, reason.text)

    def happened(self, job: Job, event: Event, detail: str = "") -> None:
        """Apply the regular end of a stage and hand the job on."""
        self.check_thread()
        with self._lock:
            track = self._tracks[job.jobid]
            try:
                track.state, step = next_step(track.state, event)
            except InvalidTransition as exc:
                story = "; ".join(f"{what}->{state}" for _, what, state, _ in self._ctx.store.story(job.jobid))
                raise InvalidTransition(exc.state, exc.event, story) from exc
            self._note(track, event, detail)
        self._do(track, step)

    def abort(self, job_id: str, event: Event, code: int, text: str) -> bool:
        """Break off a job: KILL, LIMIT or SIGNAL with its pilot code. False when it is not on the road (any more)."""
        with self._lock:
            track = self._tracks.get(job_id)
            if track is None:
                return False
            track.state, step = next_step(track.state, event)
            if step in (Step.INTERRUPT, Step.HURRY):
                self._note(track, event, text)
            if step is Step.INTERRUPT and track.job.errors.add(code, text):
                errors = track.job.errors
                self._ctx.store.add_error(job_id, next(error for error in errors if error.code == code))
        if step is Step.INTERRUPT:
            track.job.cancel.cancel(code, text)
            logger.warning("job %s: %s in stage %s: %s", job_id, event.value, track.state.stage.value, text)
        elif step is Step.HURRY:
            logger.warning("job %s: %s in stage %s: what is done may still leave", job_id, text,
                           track.state.stage.value)
        return step in (Step.INTERRUPT, Step.HURRY)

    def take_over(self, job: Job, stages: Collection[Stage], code: int, text: str) -> None:
        """End the stage of a job whose component is stuck, as a failure: it goes on through the one tail.

        Args:
            job: in the hands of that component.
            stages: that the component works for; a job that is in another one by now has come on all the same.
            code, text: why it fails.
        """
        track = self.track(job.jobid)
        if track is None or track.state.stage not in stages:
            return
        job.cancel.cancel(code, text)
        event = _FAILED_AS.get(track.state.stage)
        if event is None:  # the making of its report hangs: the shortest one has to do
            if job.errors.add(code, text):
                self._ctx.store.add_error(job.jobid, next(error for error in job.errors if error.code == code))
            self.drop(job, text)
        else:
            self.happened(job, event, text)

    def leave_behind(self, thread: threading.Thread) -> None:
        """What this thread says no longer counts: another one does its work."""
        self._left_behind.add(thread)

    def check_thread(self) -> None:
        """Raise LeftBehind in a thread that was left behind."""
        if self.is_left_behind():
            raise LeftBehind

    def is_left_behind(self) -> bool:
        """True in a thread that was left behind."""
        return bool(self._left_behind) and threading.current_thread() in self._left_behind

    def drop(self, job: Job, text: str) -> None:
        """Take a job off the road that cannot be ended in an orderly way, so that it is reported and keeps nobody."""
        with self._lock:
            if self._tracks.pop(job.jobid, None) is None:
                return
        job.cancel.cancel(1301, text)
        self.monitor.post(JobGone(job.jobid))
        self._ctx.reporter.post(job.jobid, last_resort_message(job, text), final=True)
        self.job_component.post(JobLeft(job))

    def _note(self, track: Track, event: Event, detail: str) -> None:
        stage = track.state.stage.value
        self._ctx.store.add_transition(track.job.jobid, event.value, stage, detail)
        if next(reversed(self._tracks), track.job.jobid) == track.job.jobid:
            os.environ["PILOT_JOB_STATE"] = stage  # of two jobs the one that came last
        logger.debug("job %s: %s -> %s", track.job.jobid, event.value, stage)

    def _do(self, track: Track, step: Step) -> None:
        job = track.job
        if step is Step.STAGE_IN:
            self.stagein.post(StageIn(job))
        elif step is Step.RUN_PAYLOAD:
            self.payload.post(RunPayload(job))
        elif step in (Step.STAGE_OUT_ALL, Step.STAGE_OUT_LOG):
            self.stageout.post(StageOut(job, outputs=step is Step.STAGE_OUT_ALL))
            self.job_component.post(LookAround())  # with pipelining the next job may come from here on
        elif step in (Step.REPORT_FINISHED, Step.REPORT_FAILED):
            self.job_component.post(Report(job, finished=step is Step.REPORT_FINISHED))
        elif step is Step.CLEAN:
            self.job_component.post(Clean(job))
        elif step is Step.LEAVE:
            with self._lock:
                del self._tracks[job.jobid]
            self.job_component.post(JobLeft(job))
