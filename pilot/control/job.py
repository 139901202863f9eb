"""control/job: asks for jobs, validates them, reports their end, cleans up, and decides whether there is a next one."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from pilot.common.exception import PilotException
from pilot.control import ahead, payloadproxy
from pilot.control.component import Component, describe
from pilot.control.data import add_error
from pilot.control.lifecycle import Event, Stage
from pilot.control.messages import (
    Clean,
    FetchJob,
    JobGone,
    JobLeft,
    JobsGranted,
    JobWaits,
    LookAround,
    NoMoreJobs,
    NotYet,
    Report,
    Validate,
)
from pilot.control.reports import final_message, heartbeat_message
from pilot.info.encoding import JobRefused
from pilot.info.job import Job
from pilot.info.jobparser import parse_job
from pilot.staging.outputfiles import write_output_files
from pilot.util.cancel import CancelledError
from pilot.util.logs import end_job_log, job_log_path, start_job_log
from pilot.util.redact import register_secret
from pilot.util.removal import remove_tree

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.control.fetch import JobFetcher

logger = logging.getLogger(__name__)


class JobComponent(Component):
    """Begins and ends every job."""

    name = "job"

    def __init__(self, ctx: PilotContext, fetcher: JobFetcher) -> None:
        super().__init__(ctx)
        self._fetcher = fetcher
        self._fetching = False
        self._no_more = False
        self._taken: set[str] = set()
        """Jobs that were granted and whose JobLeft was not seen yet."""
        self._one_by_one = False
        """There is no room for the next job beside the one that leaves."""
        self._held = 0
        """Bytes that the job before the last one may still write."""
        self._waiting: Optional[Job] = None
        """A job whose inputs have to wait until the job before it has left."""
        self._last_task = ""
        self._turn_began = 0.0
        """Monotonic s from which the next job's set-up counts: the pilot's start, later when a job is looked for."""

    def begin(self) -> None:
        """Ask for the first job."""
        self._next()

    def handle(self, message: Any) -> None:
        """Do what the message asks for."""
        if isinstance(message, Validate):
            self._validate(message.job)
        elif isinstance(message, Report):
            self._report(message.job, message.finished)
        elif isinstance(message, Clean):
            self._clean(message.job)
        elif isinstance(message, JobLeft):
            end_job_log(message.job.jobid)
            if self.ctx.telemetry is not None:
                from pilot.control.telemetry import job_left

                job_left(self.ctx, message.job)
            self._taken.discard(message.job.jobid)
            self.say("idle")
            self._one_by_one = False
            self._let_go_on()
            self._next()
        elif isinstance(message, LookAround):
            self._let_go_on()
            self._next()
        elif isinstance(message, JobsGranted):
            self._granted(message)
        elif isinstance(message, NotYet):
            logger.info("the next job is asked for when the present one has left: %s", message.reason)
            self._fetching, self._one_by_one = False, bool(self._taken)
            self._next()
        elif isinstance(message, NoMoreJobs):
            self._fetching = False
            self._no_more = True
            os.environ["PILOT_WRAP_UP"] = "QUICKLY"
            self.ctx.exit_error = self.ctx.exit_error or message.reason.exit_code
            self.ctx.shutdown.stop(message.reason)
            self._next()
        else:
            raise TypeError(f"unexpected message {message!r}")

    def failed(self, message: Any, exc: BaseException) -> None:
        """An internal error ends the job through the rest of its road."""
        job = getattr(message, "job", None)
        if job is None:
            return
        code, text = describe(exc)
        track = self.ctx.road.track(job.jobid)
        if isinstance(message, Validate):
            add_error(self.ctx, job, code, text)
            self.ctx.road.happened(job, Event.REJECTED)
        elif isinstance(message, Report) and track is not None and track.state.stage is Stage.REPORTING:
            add_error(self.ctx, job, code, text)
            self._post_final(job, finished=False)
        elif isinstance(message, Clean) and track is not None and track.state.stage is Stage.CLEANING:
            self.ctx.road.happened(job, Event.CLEANED)

    # --- getting jobs -------------------------------------------------------------------------------------------------

    def _next(self) -> None:
        """Ask for another job when one may be taken now; tell the main thread when nothing is left to do."""
        ending = self._no_more or self.ctx.shutdown.stopping.cancelled
        # jobs that were taken together with an earlier one are ours, whatever comes: a signal or a limit ends them with
        # a report, on the same road
        if ending and not self._fetcher.has_left_over():
            if not self._fetching and not self._taken:
                self.ctx.shutdown.work_done()
            return
        if not self._fetching and self._has_room():
            self._fetching = True
            self._turn_began = time.monotonic() if self._turn_began else self.ctx.started
            task = self._last_task if self.ctx.options.allow_same_user else ""
            self._fetcher.post(FetchJob(task))

    def _has_room(self) -> bool:
        stages = self.ctx.road.stages()
        if not stages:
            return True
        if self._one_by_one or not ahead.is_wanted(self.ctx):
            return False
        # at most one job that makes results and one whose results leave
        return len(stages) <= 1 and all(stage not in (Stage.RECEIVED, Stage.STAGEIN, Stage.PAYLOAD) for stage in stages)

    def _granted(self, message: JobsGranted) -> None:
        self._fetching = False
        self._held = message.held
        for definition in message.definitions:
            job_id = str(definition.get("PandaID", definition.get("jobid", "")))
            if job_id.isdigit():
                # what the parser says belongs to this job's log
                start_job_log(job_id, overlapping=ahead.is_wanted(self.ctx))
            job = self._parse(definition)
            if job is None:
                end_job_log(job_id)
                continue
            for spec in job.indata:
                if not self._is_transferred(spec.lfn):
                    spec.status = "no_transfer"
            job.start_time = message.wall
            job.timing.spans["getjob"] = message.seconds
            job.timing.spans["initial"] = max(0.0, time.monotonic() - self._turn_began - message.seconds)
            self._last_task = job.taskid
            logger.info("received job: id=%s task=%s attempt=%d: %s", job.jobid, job.taskid or "-", job.attemptnr,
                        job.transformation[:200])
            self._taken.add(job.jobid)
            self.ctx.road.enter(job)
        self._next()

    def _parse(self, definition: Mapping[str, object]) -> Job | None:
        environ = self.ctx.environ
        if self.ctx.queue.flags.hpc:  # such a queue wants the job's own count of cores, whatever the node says
            environ = {name: value for name, value in environ.items() if name != "ATHENA_PROC_NUMBER"}
        try:
            job = parse_job(definition, environ=environ,
                            compat_requote=self.ctx.settings.jobs.compat_requote)
        except JobRefused as exc:
            logger.error("a job definition is refused, nothing can be reported for it: %s", exc.detail)
            return None
        job.batch_id, job.batch_type = self.ctx.batch.id, self.ctx.batch.type
        return job

    def _is_transferred(self, lfn: str) -> bool:
        try:
            return self.ctx.experiment.transfers_input(lfn)
        except PilotException as exc:  # a fault in a plug-in must not cost the job
            logger.error("%s: %s is transferred", exc.detail, lfn)
            return True

    # --- validation ---------------------------------------------------------------------------------------------------

    def _validate(self, job: Job) -> None:
        self.say(f"job {job.jobid}: validation")
        for key, value in (("PANDAID", job.jobid), ("PanDA_TaskID", job.taskid)):
            os.environ[key] = value
        good = self._make_workdir(job)
        self._note_job_id(job)
        if "_CONDOR_JOB_AD" in self.ctx.environ:
            from pilot.control.condor import tell_condor

            tell_condor(self.ctx, job)
        for code, text in [*job.defects, *self._objections(job)]:
            add_error(self.ctx, job, code, text)
            good = False
        if good:
            good = self._store_secrets(job) and self._provide_proxy(job)
        if good and not job.cancel.cancelled:
            os.environ["SERVER_UPDATE"] = "RUNNING"
            self.ctx.reporter.post(job.jobid, heartbeat_message(self.ctx, job, "starting"), final=False)
        if not good:
            self.ctx.road.happened(job, Event.REJECTED)
        elif not self._has_to_wait(job):
            self.ctx.road.happened(job, Event.ACCEPTED)

    def _has_to_wait(self, job: Job) -> bool:
        """Keep the job here while its inputs would take the space that the job before it needs for its end."""
        reason = ahead.wait_for_space(self.ctx, job, self._held) if len(self.ctx.road.stages()) > 1 else None
        if reason is None:
            return False
        self.say(f"job {job.jobid}: its inputs wait for the end of the job before it")
        logger.info("job %s: stage-in waits until the job before it has left: %s", job.jobid, reason)
        self._waiting = job
        self.ctx.road.monitor.post(JobWaits(job.jobid))
        job.cancel.on_cancel(lambda: self.post(LookAround()))
        return True

    def _let_go_on(self) -> None:
        """Let the job that waits for space go on when the one before it has left, or when it is to end itself."""
        job = self._waiting
        if job is not None and (job.cancel.cancelled or len(self.ctx.road.stages()) < 2):
            self._waiting = None
            if self.ctx.road.track(job.jobid) is not None:
                self.ctx.road.monitor.post(JobWaits(job.jobid, goes_on=True))
                self.ctx.road.happened(job, Event.ACCEPTED)

    def _objections(self, job: Job) -> list[tuple[int, str]]:
        try:
            self.ctx.experiment.complete_job(job, self.ctx.environ)
            objections = [*self.ctx.experiment.verify_job(job, self.ctx.queue), *self._container_objections(job)]
        except PilotException as exc:
            objections = [(exc.code, exc.detail)]
        options = self.ctx.options
        if options.harvester_submitmode.lower() == "push" and options.update_server:
            from pilot.util.space import free_space

            # push pilots check the space here, so that the server is told
            free, need = free_space(self.ctx.home, self.ctx.environ), self.ctx.settings.pilot.free_space_limit
            if free is not None and free <= need:
                objections.append((1098, f"too little space left on local disk to run job: {free} B (need > {need} B)"))
        return objections

    def _container_objections(self, job: Job) -> list[tuple[int, str]]:
        """Return what stands against the container that the payload needs."""
        from pilot.info.images import missing_image, no_container, unpacked_directory

        queue = self.ctx.info.queue_for(job)
        os.environ.update(unpacked_directory(queue, self.ctx.environ))  # scripts of transfers read it, too
        try:
            objections = missing_image(job, queue, self.ctx.environ)
        except CancelledError:
            return []  # the job ends, for a reason that is known
        if self.ctx.experiment.uses_container(job, queue):
            objections += no_container(queue)
        return objections

    def _make_workdir(self, job: Job) -> bool:
        job.workdir = self.ctx.home / f"PanDA_Pilot-{job.jobid}"
        try:
            os.mkdir(job.workdir, 0o770)
            os.chmod(job.workdir, 0o770)  # noqa: S103 - the mode that sites expect, whatever the umask says
        except OSError as exc:
            job.keep_workdir = True  # one that was there before is not ours to remove
            add_error(self.ctx, job, 1199, f"job work directory {job.workdir}: {exc.strerror}")
            return False
        self.ctx.store.set_job(job.jobid, workdir=str(job.workdir))
        log = self.ctx.settings.pilot.pilotlog
        if not self.ctx.options.nopilotlog:
            try:
                path = job_log_path(job.jobid)
                os.symlink(os.path.join("..", path.name if path is not None else log), job.workdir / log)
            except OSError as exc:
                logger.warning("no link to the pilot log in the job directory: %s", exc)
        return True

    def _store_secrets(self, job: Job) -> bool:
        if not job.secrets:
            return True
        _register_secrets(job.secrets)
        path = job.workdir / self.ctx.settings.pilot.pandasecrets
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            job.secret_paths.append(path)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(job.secrets)
        except OSError as exc:
            add_error(self.ctx, job, 1303, f"the job's secrets could not be written to {path}: {exc.strerror}")
            return False
        return True

    def _provide_proxy(self, job: Job) -> bool:
        try:
            payloadproxy.provide(self.ctx, job)
        except CancelledError:  # why is in the error list already; the next stage ends the job
            return True
        except PilotException as exc:
            add_error(self.ctx, job, *describe(exc))
            return False
        return True

    def _note_job_id(self, job: Job) -> None:
        """Append the job id to pandaIDs.out beside pilot.py: the wrapper prints it."""
        if self.ctx.options.pod:
            return
        script = getattr(sys.modules["__main__"], "__file__", None) or ""
        directory = self.ctx.environ.get("PANDA_PILOT_SOURCE") or (
            os.path.dirname(os.path.join(self.ctx.launch_dir, script)))
        if os.path.basename(script) != "pilot.py" and "PANDA_PILOT_SOURCE" not in self.ctx.environ:
            return  # started as a library or an installed command: there is no wrapper that looks there
        path = Path(directory) / self.ctx.settings.pilot.jobid_file
        try:
            # a pipe without a reader, put there by an earlier job's payload, is an error here and not a wait for ever
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            with open(os.open(path, flags, 0o666), "a", encoding="ascii") as stream:
                stream.write(f"{job.jobid}\n")
        except OSError as exc:
            logger.warning("job id not noted in %s: %s", path, exc.strerror)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _report(self, job: Job, finished: bool) -> None:
        self._post_final(job, finished=finished and not job.errors)

    def _post_final(self, job: Job, *, finished: bool) -> None:
        state = "finished" if finished else "failed"
        self.say(f"job {job.jobid}: final report, {state}")
        job.end_time = time.time()
        self.ctx.road.monitor.post(JobGone(job.jobid))
        os.environ["SERVER_UPDATE"] = "UPDATING_FINAL"
        message = final_message(self.ctx, job, finished)
        self.ctx.road.check_thread()  # hooks of the experiment have been called: has it taken too long?
        if self.ctx.server is None and self.ctx.settings.jobs.output_files_xml:
            write_output_files(job, self.ctx.home)  # before the report: who finds that one takes the job for done
        self.ctx.reporter.post(job.jobid, message, final=True)
        self.ctx.store.set_job(job.jobid, ended=job.end_time, exit_code=job.exit_code,
                               timing=str(message.get("pilotTiming", "")))
        self.ctx.blackhole.job_over(job, finished=finished)
        if self.ctx.settings.jobs.reference_exit_codes and not finished:
            self._exit_like_the_reference(job)
        if job.errors:
            logger.info("errors of job %s:\n%s", job.jobid, job.errors.report())
        logger.info("job %s has %s", job.jobid, state)
        self.ctx.road.happened(job, Event.REPORTED, state)

    def _exit_like_the_reference(self, job: Job) -> None:
        """Setting jobs.reference_exit_codes: a failed stage-in and a job ended by a limit decide the exit code."""
        story = {event for _, event, _, _ in self.ctx.store.story(job.jobid)}
        primary = job.errors.primary(job.payload_succeeded)
        if primary is not None and story & {Event.STAGEIN_FAILED.value, Event.LIMIT.value}:
            self.ctx.exit_error = self.ctx.exit_error or primary.code

    def _clean(self, job: Job) -> None:
        self.say(f"job {job.jobid}: clean-up")
        payloadproxy.forget(job)
        keep = not self.ctx.options.cleanup or job.keep_workdir
        if keep:
            logger.info("job directory %s is kept", job.workdir)
        elif job.workdir.name and os.path.lexists(job.workdir):
            left = remove_tree(job.workdir)
            if left:
                logger.warning("job directory %s could not be removed: %s", job.workdir, left)
        if os.environ.get("PANDAID") == job.jobid:  # else they are those of the next job
            for name in ("PANDAID", "PanDA_TaskID", "INDS"):
                os.environ.pop(name, None)
        try:
            if not self.ctx.shutdown.stopping.cancelled:
                self.ctx.queue = self.ctx.info.refresh_if_stale()
        except PilotException as exc:
            logger.warning("queue data could not be refreshed: %s", exc.detail)
        self.ctx.road.happened(job, Event.CLEANED)


def _register_secrets(text: str) -> None:
    """Have every value of the job's secrets masked wherever it may show up in the log."""
    try:
        values = json.loads(text)
    except ValueError:
        values = text
    waiting = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, (dict, list)):
            waiting += value.values() if isinstance(value, dict) else value
        elif isinstance(value, str):
            register_secret(value)
