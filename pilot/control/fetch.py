"""Gets jobs: from a file, else from the server; waits between attempts wake up at once when the pilot is to end.

Only answers count against ``-v`` and ``-x``. A server that cannot be reached has a patience of its own: transport
errors are repeated inside one request, and then count as one failure.
"""

from __future__ import annotations

import json
import logging
import os
import random
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Optional

from pilot.common.exception import MKDirFailure, PilotException
from pilot.control import ahead
from pilot.control.component import Component, describe
from pilot.control.messages import FetchJob, JobsGranted, NoMoreJobs, NotYet
from pilot.control.retrieval import RetrievalLimits
from pilot.control.shutdown import StopReason
from pilot.info.encoding import JobRefused, panda_id
from pilot.info.fakejob import fake_definition
from pilot.info.jobfile import find_job_file, take_job
from pilot.panda.answers import INVALID, JobAnswer, JobRequest
from pilot.panda.errors import TransportError
from pilot.util.backoff import Backoff

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.control.instructions import Told

logger = logging.getLogger(__name__)

_MEGABYTE = 1024 * 1024
# A request that may have cost the server a job is repeated only so often within one patience.
_MAX_DOUBTFUL = 5
_SECRET_KEYS = ("secrets", "pilotSecrets")


class _Stopped(Exception):
    """The pilot is to end; the text says why."""


class _NotYet(Exception):
    """Another job leaves, and there is no room for a second one beside it; the text says why."""


class JobFetcher(Component):
    """The thread that asks for jobs. A FetchJob is answered by one JobsGranted, NotYet or NoMoreJobs to control/job."""

    name = "getjob"

    def __init__(self, ctx: PilotContext) -> None:
        super().__init__(ctx)
        options = ctx.options
        self._file_names = (ctx.settings.pilot.pandajobdata, ctx.settings.harvester.pandajob_file)
        self._push = options.harvester_submitmode.lower() == "push"
        timefloor = ctx.queue.timefloor if ctx.experiment.allow_timefloor(options.harvester_submitmode.lower()) else 0
        self.limits = RetrievalLimits.from_options(
            options.getjob_requests, options.getjob_failures, harvester=ctx.harvester, push=self._push,
            timefloor=timefloor)
        self._began = time.monotonic()
        self._asked_at = 0.0
        self._left_over: list[Mapping[str, object]] = []
        self._held = 0
        """Bytes that a job that leaves may still write here."""
        self._told: Optional[Told] = None
        """The message by which this job is asked for."""

    def has_left_over(self) -> bool:
        """True while jobs wait here that came in one file, or one answer, with a job that was handed on."""
        return bool(self._left_over)

    def would_go_on(self) -> bool:
        """True when another job would be asked for after the present one; from any thread."""
        return (not self.ctx.shutdown.stopping.cancelled and self.ctx.settings.pilot.pandajob != "fake"
                and self.limits.refusal(time.monotonic() - self._began) is None
                and self.ctx.leave.refusal() is None and self.ctx.queue.refusal() is None)

    def handle(self, message: Any) -> None:
        """Answer a FetchJob."""
        if not isinstance(message, FetchJob):
            raise TypeError(f"unexpected message {message!r}")
        self._asked_at = time.monotonic()
        answer: JobsGranted | NotYet | NoMoreJobs
        try:
            found = self._fetch(message.task_id)
            self.limits.got_job()
            answer = JobsGranted(tuple(found), time.monotonic() - self._asked_at, time.time(), self._held)
        except _Stopped as exc:
            answer = NoMoreJobs(StopReason(str(exc)))
        except _NotYet as exc:
            if self.ctx.instructions is not None and self._told is not None:
                self.ctx.instructions.take_back(self._told)
            answer = NotYet(str(exc))
        except PilotException as exc:
            logger.error("no job: %s", exc.diagnosis)
            answer = NoMoreJobs(StopReason(exc.diagnosis, exit_code=exc.code))
        self.say("idle")  # before the answer: after the last one the store is closed
        self.ctx.road.job_component.post(answer)

    def failed(self, message: Any, exc: BaseException) -> None:
        """An internal error ends the fetching, not the pilot's jobs."""
        code, text = describe(exc)
        reason = StopReason(f"internal error while getting a job: {text}", exit_code=1301 if code == 1319 else code)
        self.ctx.road.job_component.post(NoMoreJobs(reason))

    # --- the loop -----------------------------------------------------------------------------------------------------

    def _fetch(self, task_id: str) -> Sequence[Mapping[str, object]]:
        if self._left_over:
            if not self.ctx.shutdown.stopping.cancelled:
                self._check_ahead()
            return [self._left_over.pop(0)]
        wanted = task_id
        while True:
            self._check_stop()
            self._check_limits()
            task_id = self._instructed(wanted)
            self._check_ahead()
            self._check_node()
            if not self._overloaded():
                fake = self.ctx.settings.pilot.pandajob == "fake"
                jobs = self._test_job() if fake else self._from_file()
                if jobs is None and self.ctx.server is not None and not (self.ctx.harvester and self._push):
                    jobs = self._from_server(task_id)
                if jobs:
                    self._left_over.extend(jobs[1:])
                    return jobs[:1]
            self._check_limits()  # before the wait, not after it
            self._wait(self._pause())

    def _check_limits(self) -> None:
        refusal = self.limits.refusal(time.monotonic() - self._began)
        if refusal is not None:
            raise self._exhausted(refusal)

    def _instructed(self, task_id: str) -> str:
        """With ``--subscribe-to-msgsvc``: wait for the message that asks for a job, and return the task it names."""
        if self.ctx.instructions is None:
            return task_id
        self.say("waiting for an instruction of the message broker", float("inf"))
        self._told = self.ctx.instructions.wait()
        self.allow(self.step_time())
        self._check_stop()  # that may have taken hours
        self._check_limits()
        return task_id if self._told is None else self._told.task

    def _exhausted(self, refusal: str) -> Exception:
        if self.limits.unreachable and not self.limits.jobs:
            return PilotException(f"the PanDA server could not be reached; {refusal}", code=1318)
        if self.limits.is_hpc_without_jobs(self.ctx.queue.resource_type):
            return PilotException(refusal, code=1385)
        return _Stopped(refusal)

    def _check_stop(self) -> None:
        if self.ctx.shutdown.stopping.cancelled:
            raise _Stopped(self.ctx.shutdown.stopping.reason or "the pilot is ending")
        refusal = self.ctx.queue.refusal()
        if refusal is not None:  # set offline since the last job
            raise _Stopped(refusal[1])
        refusal_of_time = self.ctx.leave.refusal()
        if refusal_of_time is not None:
            raise _Stopped(refusal_of_time)

    def _check_ahead(self) -> None:
        """Before each request while another job leaves: is there room for a second one beside it?"""
        leaving = self.ctx.road.jobs()
        self._held = ahead.held_bytes(leaving)
        refusal = ahead.refusal(self.ctx, self._held) if leaving else None
        if refusal is not None:
            raise _NotYet(refusal)

    def _check_node(self) -> None:
        """A directory to work in, proxy and local space before each request: a node without them would eat jobs."""
        told = self._push and self.ctx.options.update_server
        if not told and not os.access(self.ctx.home, os.W_OK | os.X_OK):
            raise MKDirFailure(f"the work directory {self.ctx.home} is not writable: no job can run here")
        if self.ctx.options.verify_proxy:
            proxy = self.ctx.credentials.proxy() if self.ctx.credentials is not None else ""
            code, text = self.ctx.experiment.verify_proxy(proxy, at_start=True)
            if code:
                raise PilotException(f"{text}; -t switches this check off", code=code)
            if text:
                logger.warning("proxy: %s", text)
        if not told:
            from pilot.util.space import free_space

            free, need = free_space(self.ctx.home, self.ctx.environ), self.ctx.settings.pilot.free_space_limit
            if free is not None and free <= need:
                raise PilotException(
                    f"too little space left on local disk to run job: {free} B in {self.ctx.home} (need > {need} B, "
                    f"setting pilot.free_space_limit)", code=1098)

    def _overloaded(self) -> bool:
        pilot = self.ctx.settings.pilot
        if not pilot.enable_delay_to_get_job:
            return False
        load, limit = os.getloadavg()[0], (os.cpu_count() or 1) * pilot.load_factor
        if load > limit:
            self.limits.requested()
            logger.info("no job asked for in this turn: load %.1f is above %.1f", load, limit)
            return True
        return False

    def _wait(self, seconds: float) -> None:
        self.say(f"waiting {seconds:.0f} s before the next attempt", seconds + self.step_time())
        logger.info("next attempt to get a job in %.1f s", seconds)
        self.ctx.shutdown.stopping.wait(min(seconds, max(0.0, self.ctx.leave_by - time.monotonic())))

    def _pause(self) -> float:
        server = self.ctx.settings.server
        if self.ctx.harvester:
            return float(server.getjob_wait_harvester)
        return random.uniform(server.getjob_wait, max(server.getjob_wait, server.getjob_wait_max))

    # --- sources ------------------------------------------------------------------------------------------------------

    def _test_job(self) -> list[Mapping[str, object]]:
        """The one internal test job of setting ``pilot.pandajob: fake``; then nothing more."""
        pilot = self.ctx.settings.pilot
        if self.limits.jobs:
            raise _Stopped("pilot.pandajob is 'fake': one test job per pilot")
        self.limits.requested()
        job = fake_definition(pilot.testjobtype, pilot.testjobcommand, pilot.testtransfertype)
        self._remember(job)
        return [job]

    def _from_file(self) -> Optional[list[Mapping[str, object]]]:
        """Jobs from a pre-placed file; None when there is none."""
        ctx = self.ctx
        # $PILOT_WORK_DIR is what -a says; ctx.environ is older than the pilot's own export
        environ = {**ctx.environ, **({"PILOT_WORK_DIR": ctx.options.workdir} if ctx.options.workdir else {})}
        path = find_job_file(ctx.options, ctx.launch_dir, environ, names=self._file_names)
        if path is None:
            if ctx.server is None or (ctx.harvester and self._push):
                self.limits.requested()
                self.limits.failed()
                logger.info("no job definition file yet")
            return None
        self.limits.requested()
        jobs = take_job(path, harvester_or_pod=ctx.harvester or ctx.options.pod, pilot_home=ctx.home,
                        remember=self._remember)
        return list(jobs)

    def _from_server(self, task_id: str) -> Optional[list[Mapping[str, object]]]:
        """Jobs from the server; None when the answer holds none. Counts the answer."""
        self._asked_at = time.monotonic()
        answer = self._ask(self._request(task_id))
        self.limits.requested()
        if answer is None:
            self.limits.failed(unreachable=True)
            return None
        # stored before anything else: from here on a killed pilot cannot lose the job
        jobs = [job for job in answer.jobs if self._remember(job)]
        if jobs:
            return jobs
        self.limits.failed()
        if answer.jobs:
            return None
        if answer.status_code == INVALID:  # our request is at fault, or the server is of another kind
            raise PilotException(f"the server does not take this pilot's request for a job: {answer.text}", code=1318)
        if answer.permanent:
            raise PilotException(
                f"the server refuses this pilot's identity: {answer.text}; look at the proxy's role or the token",
                code=1177)
        logger.info("no job from the server: %s (status code %d)", answer.text or "no jobs in PanDA",
                    answer.status_code)
        return None

    def _ask(self, request: JobRequest) -> Optional[JobAnswer]:
        """One request, repeated through transport errors within the patience; None when that is used up."""
        server = self.ctx.server
        assert server is not None
        settings = self.ctx.settings.server
        backoff = Backoff(max(settings.retry_base, 0.01), max(settings.retry_max, settings.retry_base, 0.01))
        limit = time.monotonic() + settings.start_patience
        doubtful = 0
        while True:
            self.say("asking the server for a job", self._call_time())
            try:
                return server.acquire_jobs(request)
            except TransportError as exc:
                pause = backoff.next()
                if exc.maybe_processed:
                    # the server may have given a job away: repeat, but seldom (it fails such a job after 30 min)
                    doubtful += 1
                    pause = max(pause, 2.0 * settings.retry_base * doubtful)
                    logger.warning("getJob: %s; a job may have been given out unseen", exc.detail)
                else:
                    logger.warning("getJob: %s", exc.detail)
                if doubtful >= _MAX_DOUBTFUL or time.monotonic() + pause > min(limit, self.ctx.leave_by):
                    logger.error("the PanDA server could not be reached within %.0f s (server.start_patience)",
                                 settings.start_patience)
                    return None
                self.say(f"waiting {pause:.0f} s for the server", pause + self.step_time())
                if self.ctx.shutdown.stopping.wait(pause):
                    raise _Stopped(self.ctx.shutdown.stopping.reason) from exc

    def _call_time(self) -> float:
        """Seconds that a call of the server may take: in both dialects, and once more after a lost connection."""
        settings = self.ctx.settings
        return 4 * (settings.server.connect_timeout + settings.server.read_timeout) + settings.monitor.call_time

    def _request(self, task_id: str) -> JobRequest:
        ctx, options, environ = self.ctx, self.ctx.options, self.ctx.environ
        from pilot.util.space import free_space

        free = free_space(ctx.home, ctx.environ)
        limits = [] if free is None else [max(0, free - self._held) // _MEGABYTE]
        if ctx.queue.maxwdir > 0:
            limits.append(ctx.queue.maxwdir)
        return JobRequest(
            site_name=ctx.queue.resource, computing_element=options.queue, prod_source_label=ctx.job_label,
            disk_space=min(limits, default=0), memory=ctx.node.memory_mb, cpu=ctx.node.mhz, node=ctx.node.host_name,
            working_group=options.working_group, country_group=options.country_group,
            allow_other_country=options.allow_other_country, job_type=options.jobtype,
            prod_user_id=self._own_dn() if options.job_label == "self" else "",
            task_id=int(task_id) if task_id.isdigit() else None,
            via_topic=self._told is not None and options.allow_same_user, resource_type=options.resource_type,
            remaining_time=self.ctx.leave.remaining(),
            harvester_id=environ.get("HARVESTER_ID", ""), worker_id=environ.get("HARVESTER_WORKER_ID", ""))

    def _own_dn(self) -> str:
        from pilot.util.x509 import subject_dn

        proxy = self.ctx.credentials.proxy() if self.ctx.credentials is not None else ""
        return subject_dn(proxy) if proxy else ""

    def _remember(self, definition: Mapping[str, object]) -> bool:
        """Store a granted job; nothing slow may come before this. False when it has no usable PandaID."""
        try:
            job_id = panda_id(definition)
        except JobRefused as exc:
            logger.error("a job definition is refused, nothing can be reported for it: %s", exc.detail)
            return False
        attempt = str(definition.get("attemptNr", ""))
        shown = {key: value for key, value in definition.items() if key not in _SECRET_KEYS}
        self.ctx.store.add_job(job_id, int(attempt) if attempt.isdigit() else 0, self.ctx.token, time.time(),
                               json.dumps(shown, default=str), str(definition.get("transformation", "")))
        return True
