"""Starts and ends the real-time logging of jobs; whatever goes wrong here costs log lines, never a job.

The monitor calls these methods; what they start lives in threads of its own (``pilot.payload.realtime``), and is
imported only when a job's lines are really to be sent.
"""

from __future__ import annotations

import functools
import logging
import time
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional, TypeVar

from pilot.info.job import Job
from pilot.util.logs import job_log_path

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.payload.realtime.plan import Plan
    from pilot.payload.realtime.stream import Stream

logger = logging.getLogger(__name__)

_Method = TypeVar("_Method", bound=Callable[..., None])


def _harmless(method: _Method) -> _Method:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> None:
        try:
            method(*args, **kwargs)
        except Exception as exc:  # noqa: BLE001 - the monitor has more important things to do
            logger.warning("real-time logging: internal error: %s: %s", type(exc).__name__, exc)

    return call  # type: ignore[return-value]


class _Debug(NamedTuple):
    on: bool = False
    command: str = ""


class RealtimeLogs:
    """The streams of the jobs whose payloads run."""

    def __init__(self, ctx: PilotContext) -> None:
        self._ctx = ctx
        self._jobs: dict[str, Job] = {}
        """Jobs whose payload runs."""
        self._debug: dict[str, _Debug] = {}
        self._secrets: dict[str, str] = {}
        self._streams: dict[str, Stream] = {}
        self._ending: list[Stream] = []

    @_harmless
    def payload_started(self, job: Job) -> None:
        """The payload runs: from now on its lines are sent, when that is wanted."""
        self._jobs[job.jobid] = job
        self._start(self._plan(job))

    @_harmless
    def payload_ended(self, job_id: str) -> None:
        """What is left of its lines is sent in the background; the pilot's own log goes on until the job has left."""
        self._jobs.pop(job_id, None)
        stream = self._streams.get(job_id)
        if stream is not None and not stream.plan.own_log:
            self._end(job_id)

    @_harmless
    def job_gone(self, job_id: str) -> None:
        """The job's final report is written."""
        self._debug.pop(job_id, None)
        self._secrets.pop(job_id, None)
        self._end(job_id)

    @_harmless
    def debug_changed(self, job_id: str, on: bool, command: str) -> None:
        """Debug mode of a job was switched on or off, or its command has changed."""
        self._debug[job_id] = _Debug(on, command)
        job = self._jobs.get(job_id)
        if job is not None:
            self._change(job)

    @_harmless
    def secrets_came(self, job: Job, text: str) -> None:
        """The server has sent ``pilotSecrets`` with an answer: credentials for a log server."""
        if text not in ("", "{}", self._secrets.get(job.jobid, job.pilotsecrets)):
            self._secrets[job.jobid] = text
            if job.jobid in self._jobs:
                self._change(job)

    def close(self, left: float) -> None:
        """The pilot ends: wait for the last lines, at most ``left`` s and the setting pilot.rtlogging_patience."""
        for job_id in list(self._streams):
            self._end(job_id)
        limit = time.monotonic() + max(0.0, min(left, self._ctx.settings.pilot.rtlogging_patience))
        for stream in self._ending:
            stream.finish(limit - time.monotonic())
        for stream in self._ending:
            stream.join(limit - time.monotonic() + 0.1)
        self._ending.clear()

    # --- streams ------------------------------------------------------------------------------------------------------

    def _change(self, job: Job) -> None:
        """Replace the stream, unless the new one would be the same: it would send everything once more."""
        stream, plan = self._streams.get(job.jobid), self._plan(job)
        if stream is None or plan is None or not stream.plan.is_like(plan):
            self._end(job.jobid)
            self._start(plan)

    def _start(self, plan: Optional[Plan]) -> None:
        if plan is not None:
            from pilot.payload.realtime.stream import Stream

            self._streams[plan.job_id] = Stream(plan)
            self._streams[plan.job_id].start()

    def _plan(self, job: Job) -> Optional[Plan]:
        ctx = self._ctx
        flags = ctx.queue.flags  # not with what the job overwrites: it must not have files of the node sent anywhere
        debug = self._debug.get(job.jobid, _Debug(job.debug, job.debug_command))
        if not (ctx.options.use_realtime_logging or flags.realtime_logfile or debug.on):
            return None
        from pilot.payload.realtime.plan import Circumstances, make_plan

        here = Circumstances(
            options=ctx.options, settings=ctx.settings, environ=ctx.environ, catchall=flags,
            server=ctx.experiment.realtime_server, tls=ctx.experiment.realtime_tls, verify=ctx.verify_tls(),
            pilot_log=job_log_path(job.jobid) or ctx.home / ctx.settings.pilot.pilotlog, debug=debug.on,
            debug_command=debug.command, secrets=self._secrets.get(job.jobid, ""))
        try:
            return make_plan(job, here)
        except ValueError as exc:
            logger.warning("job %s: no real-time logging: %s", job.jobid, exc)
            return None

    def _end(self, job_id: str) -> None:
        stream = self._streams.pop(job_id, None)
        if stream is not None:
            stream.finish()
            self._ending = [item for item in self._ending if item.running] + [stream]
