"""The time limit of each job on the road, from the pilot's leave-by time and its own ``maxWalltime``; monitor's thread.

::

    payload runs ──────────────┤ leave-by: 1213, its log is stored
    payload has ended, outputs leave ──────┤ last call: what has not left by now is broken off, 1213
    log archive and log ──────────────────────┤ tail: the report goes without the log
                               └── margin ────────┤ the slot is over

The margin follows the job: what it has written so far, at the rate at which this pilot's transfers went.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Optional

from pilot.control.lifecycle import Event, Stage
from pilot.control.shutdown import StopReason
from pilot.monitoring.leaveby import SLOT_SHARE, End, Leave
from pilot.store.viewrows import Limit

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.control.road import Track
    from pilot.control.timers import Timers
    from pilot.info.job import Job

logger = logging.getLogger(__name__)

REACHED_MAXTIME = 1213
_BEFORE_THE_TAIL = (Stage.RECEIVED, Stage.STAGEIN, Stage.PAYLOAD)
_LAST_CALL, _TAIL = 4, 20
"""The last call for outputs comes a quarter of the least margin before the end, that for the log a twentieth."""
_OUTPUTS_TIMER, _TAIL_TIMER = ":time:outputs", ":time:tail"
_LEAST_TAIL = 60.0
"""s of margin below which the log is not broken off: seconds make no difference to it."""
_SAFETY = 1.5
"""Transfers at the end of a slot may be slower than those before."""
_MEASURABLE = 64 * 1024
"""Bytes from which on a transfer says something about the rate."""


class TimeLimits:
    """The limits of the jobs on the road. ``timers`` are the monitor's."""

    def __init__(self, ctx: PilotContext, timers: Timers) -> None:
        self._ctx, self._timers = ctx, timers
        self._jobs: dict[str, Job] = {}
        self._own: dict[str, Optional[End]] = {}
        self._began: dict[str, float] = {}
        self._rates: dict[str, tuple[float, str]] = {}

    def entered(self, job: Job) -> None:
        """A job is on the road."""
        self._jobs[job.jobid] = job
        self._own[job.jobid] = self._own_end(job)
        leave = self._set(job)
        left = leave.at - time.monotonic()
        if 0 < left < job.maxwalltime:
            logger.warning("job %s may take %d s (maxWalltime), %.0f s are left: it is tried all the same (%s)",
                           job.jobid, job.maxwalltime, left, leave.text)

    def waits(self, job_id: str, *, goes_on: bool) -> None:
        """A job that waits has the pilot's limit only; its own counts from the moment that it goes on."""
        job = self._jobs.get(job_id)
        if job is not None:
            self._own[job_id] = self._own_end(job) if goes_on else None
            self._set(job)

    def payload_started(self, job: Job, began: float) -> None:
        """Its payload has started at ``began`` (monotonic s)."""
        if job.jobid in self._jobs:
            self._began.setdefault(job.jobid, began)
            self._rates[job.jobid] = self._rate()
            self._set(job)

    def written(self, job: Job, size: int) -> None:
        """Its directory holds ``size`` bytes, inputs included: what of them will have to leave decides the margin."""
        if job.jobid not in self._began:
            return
        own = max(0, size - sum(spec.filesize for spec in job.indata if spec.require_transfer()))
        rate, origin = self._rates[job.jobid]
        need = self._ctx.settings.shutdown.term_grace + _SAFETY * own / rate
        why = f"{own / 1e9:.1f} GB at {rate / 1e6:.1f} MB/s, {origin}" if own > 1e8 else f"{own} B, {origin}"
        if self._ctx.leave.set_need(job.jobid, need, why):
            leave = self._ctx.leave.now
            logger.info("job %s: the leave-by time is in %.0f s: %s", job.jobid, leave.at - time.monotonic(),
                        leave.text)
            self.moved()

    def gone(self, job_id: str) -> None:
        """Its final report is written; its timers are the monitor's to forget."""
        for known in (self._jobs, self._own, self._began, self._rates):
            known.pop(job_id, None)
        if self._ctx.leave.set_need(job_id, 0.0):
            self.moved()

    def moved(self) -> None:
        """The leave-by time has moved: so do the limits of all jobs."""
        for job in list(self._jobs.values()):
            self._set(job)

    # --- setting ------------------------------------------------------------------------------------------------------

    def _own_end(self, job: Job) -> Optional[End]:
        queue = self._ctx.queue
        if not queue.job_maxwalltime or job.maxwalltime <= 0:
            return None
        seconds = job.maxwalltime * queue.pilot_walltime_grace
        return End(time.monotonic() + seconds, f"the job's maxWalltime allows {seconds:.0f} s", seconds)

    def _set(self, job: Job) -> Leave:
        leave = self._ctx.leave.of_job(self._own.get(job.jobid))
        for follower in (_OUTPUTS_TIMER, _TAIL_TIMER):  # of an end that is no longer the one
            self._timers.cancel(f"{job.jobid}{follower}")
        self._timers.at(leave.at, f"{job.jobid}:time", lambda: self._is_up(job, leave))
        began = self._began.get(job.jobid)
        if began is not None and leave.at < float("inf"):
            self._ctx.store.set_limit(job.jobid, Limit("time", round(leave.at - began, 1), "s", leave.text))
        return leave

    def _rate(self) -> tuple[float, str]:
        """Bytes per s of this pilot's transfers: of outputs, else of inputs, else the setting."""
        for way, words in (("stage-out", "as outputs went"), ("stage-in", "as inputs came")):
            moved, seconds = self._ctx.store.moved(way, _MEASURABLE)
            if moved and seconds > 0:
                return max(1.0, moved / seconds), words
        return float(self._ctx.settings.limits.transfer_rate), "setting limits.transfer_rate"

    # --- the end ------------------------------------------------------------------------------------------------------

    def _is_up(self, job: Job, leave: Leave) -> None:
        text = f"the max batch system time limit has been reached: {leave.text}"
        os.environ["REACHED_MAXTIME"] = "REACHED_MAXTIME"
        self._ctx.shutdown.stop(StopReason(text))
        track = self._ctx.road.track(job.jobid)
        if track is None:
            return
        least = self._ctx.leave.least if leave.length is None else min(self._ctx.leave.least,
                                                                       SLOT_SHARE * leave.length)
        if least >= _LEAST_TAIL:
            self._timers.at(leave.end - least / _TAIL, f"{job.jobid}{_TAIL_TIMER}", lambda: self._end_tail(track, text))
        if track.state.stage in _BEFORE_THE_TAIL:
            self._ctx.road.abort(job.jobid, Event.LIMIT, REACHED_MAXTIME, text)
        elif not track.state.failed:
            logger.warning("job %s: %s: what its payload has made may still leave until the slot ends", job.jobid, text)
            self._timers.at(leave.end - least / _LAST_CALL, f"{job.jobid}{_OUTPUTS_TIMER}",
                            lambda: self._last_call(job, text))

    def _last_call(self, job: Job, text: str) -> None:
        self._ctx.road.abort(job.jobid, Event.LIMIT, REACHED_MAXTIME, text)

    def _end_tail(self, track: Track, text: str) -> None:
        track.tail.cancel(REACHED_MAXTIME, text)
