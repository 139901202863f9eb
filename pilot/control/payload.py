"""control/payload: builds the command, runs it, waits for its end (or ends it), and finds out what it means."""

from __future__ import annotations

import errno
import logging
import os
import queue
from pathlib import Path
from typing import Any

from pilot.common.exception import FileHandlingFailure, PilotException
from pilot.control.component import Component, describe
from pilot.control.data import add_error
from pilot.control.lifecycle import Event
from pilot.control.messages import PayloadEnded, PayloadStarted, RunPayload
from pilot.info.job import Job
from pilot.payload.command import build_environment, payload_command, shell_argv
from pilot.payload.diagnose import FINDING_RANKS, Evidence, diagnose, find_core_dumps
from pilot.payload.jobreport import read_job_report, remove_reports
from pilot.payload.process import Child, ExitStatus
from pilot.payload.transform import allowed_bases
from pilot.util.cancel import CancelledError
from pilot.util.space import free_space

logger = logging.getLogger(__name__)

# What the payload left behind after its own end gets this long to obey SIGTERM.
_LEFTOVER_GRACE = 1.0
_ARGUMENT_LIMIT = 32 * os.sysconf("SC_PAGESIZE") - 1
"""Bytes of one argument of execve (MAX_ARG_STRLEN); bash -c gets the whole line as one."""
# So few bytes (a block of the disk or two) are none: nothing can be written any more.
_FULL = 64 * 1024


class PayloadComponent(Component):
    """Runs payloads, one after the other."""

    name = "payload"

    def handle(self, message: Any) -> None:
        """Do a RunPayload."""
        if not isinstance(message, RunPayload):
            raise TypeError(f"unexpected message {message!r}")
        job = message.job
        try:
            event = self._run_job(job)
        except CancelledError:
            event = Event.PAYLOAD_FAILED  # why is in the error list already
        except (PilotException, OSError) as exc:
            code, text = describe(exc)
            add_error(self.ctx, job, 1310 if code == 1319 else code, text)
            event = Event.PAYLOAD_FAILED
        finally:
            job.timing.stop("payload")
        self._leave(job, event)

    def failed(self, message: Any, exc: BaseException) -> None:
        """An internal error is a failed payload."""
        if isinstance(message, RunPayload):
            add_error(self.ctx, message.job, 1310, describe(exc)[1])
            self._leave(message.job, Event.PAYLOAD_FAILED)

    def _leave(self, job: Job, event: Event) -> None:
        self.say("idle")
        self.ctx.road.happened(job, event)

    # --- one payload --------------------------------------------------------------------------------------------------

    def _run_job(self, job: Job) -> Event:
        self.say(f"job {job.jobid}: setup")
        job.cancel.check()
        job.timing.mark("setup")
        line = self._command(job)
        job.timing.stop("setup")
        job.cancel.check()
        logger.info("job %s: payload command: %s", job.jobid, line)
        job.timing.mark("payload")
        child = self._start(job, line)
        self.say(f"job {job.jobid}: payload runs, process {child.pid}")
        self.ctx.road.monitor.post(PayloadStarted(job, child))
        try:
            status = self._wait(job, child)
        finally:
            self.ctx.road.monitor.post(PayloadEnded(job.jobid))
        job.timing.stop("payload")
        self._account(job, child, status)
        return self._judge(job, status)

    def _command(self, job: Job) -> str:
        ctx = self.ctx
        from pilot.util.fetch import fetch

        bases = allowed_bases(ctx.options.baseurls, ctx.environ, ctx.experiment.transform_base_urls)
        timeout = float(ctx.settings.pilot.http_maxtime)

        def download(url: str) -> bytes:
            return fetch(url, timeout=timeout, verify=ctx.verify_tls())

        experiment = ctx.experiment
        return payload_command(
            job, job.workdir, bases, download, environ=ctx.environ, remote=experiment.remote_inputs(job),
            adapt=lambda text: experiment.job_parameters(job, text))

    def _start(self, job: Job, line: str) -> Child:
        """Start the shell line in the job's directory with its two output files."""
        payload = self.ctx.settings.payload
        remove_reports(job.workdir, (payload.jobreport, payload.error_report))
        environ = build_environment(job, _environment(), self.ctx.experiment.payload_environment(job))
        outputs: list[int] = []
        try:
            for name in (payload.payloadstdout, payload.payloadstderr):
                # never through a link: an input of that name is one, to the site's own copy of the file
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
                outputs.append(os.open(job.workdir / name, flags, 0o644))
            job.cancel.check()  # the plug-in may have taken its time
            return self.ctx.supervisor.spawn(
                shell_argv(line), cwd=job.workdir, env=environ, stdout=outputs[0], stderr=outputs[1])
        except OSError as exc:
            if exc.errno == errno.E2BIG:
                raise FileHandlingFailure(
                    f"the payload could not be started: its command line has {len(os.fsencode(line))} bytes, the kernel"
                    f" takes {_ARGUMENT_LIMIT} (environment and stack limit count too); put parameters into a file",
                    code=1310) from exc
            raise FileHandlingFailure(
                f"the payload could not be started in {job.workdir}: {exc.strerror or exc}"
                f"{f' ({exc.filename})' if exc.filename else ''}",
                code=1098 if describe(exc)[0] == 1098 else 1310) from exc
        finally:
            for descriptor in outputs:
                os.close(descriptor)

    def _wait(self, job: Job, child: Child) -> ExitStatus:
        """Block until the payload has ended, by itself or because the job was cancelled."""
        wakes: queue.SimpleQueue[str] = queue.SimpleQueue()

        def ended(_child: Child) -> None:
            wakes.put("ended")

        def cancelled() -> None:
            wakes.put("cancelled")

        child.on_exit(ended)
        job.cancel.on_cancel(cancelled)
        try:
            if wakes.get() == "cancelled":
                self._end(job, child)
        finally:
            job.cancel.forget(cancelled)
        status = child.wait(None)
        assert status is not None
        self._end_leftovers(job, child)
        return status

    def _end(self, job: Job, child: Child) -> None:
        """End the whole tree: TERM, grace, KILL, within what the pilot's own deadline leaves."""
        grace = self.ctx.settings.shutdown.term_grace
        left = self.ctx.shutdown.remaining(float("inf"))
        if left < float("inf"):
            grace = min(grace, left / 3)  # the rest is for log and report
        self.say(f"job {job.jobid}: ending the payload ({job.cancel.reason})")
        logger.info("job %s: ending the payload: %s", job.jobid, job.cancel.reason)
        report = child.kill_tree(grace, None)
        if child.running and report.left:
            logger.critical("job %s: %d processes of the payload cannot be killed", job.jobid, report.left)
            raise CancelledError(job.cancel.reason, code=job.cancel.code)

    def _end_leftovers(self, job: Job, child: Child) -> None:
        left = child.descendants()
        if left:
            logger.warning("job %s: the payload left %d processes behind (%s): they are ended", job.jobid, len(left),
                           ", ".join(sorted({info.comm for info in left})[:5]))
            child.kill_tree(_LEFTOVER_GRACE, None)

    def _account(self, job: Job, child: Child, status: ExitStatus) -> None:
        job.exit_code = status.code
        self.ctx.store.set_job(job.jobid, exit_code=status.code)  # known even if the pilot dies in the tail
        # what the kernel has counted for everything that was waited for; never less than the last look at /proc
        job.cpu_seconds = max(job.cpu_seconds, child.cpu_seconds)
        elapsed = job.timing.spans.get("payload", 0.0)
        job.core_counts = [cores for _, _, cores, _, _ in self.ctx.store.samples(job.jobid)]
        if elapsed > 0 and not job.core_counts:
            job.core_counts.append(round(job.cpu_seconds / elapsed, 2))
        logger.info("job %s: payload ended with exit code %d after %.1f s, CPU time %.1f s", job.jobid, status.code,
                    elapsed, job.cpu_seconds)

    def _judge(self, job: Job, status: ExitStatus) -> Event:
        settings = self.ctx.settings
        names = (settings.payload.payloadstdout, settings.payload.payloadstderr)
        stdout, stderr = (Path(job.workdir) / name for name in names)
        aborted = job.cancel.cancelled
        evidence = Evidence(killed_by_pilot=aborted, error_report=self.ctx.settings.payload.error_report)
        for code, text in diagnose(job, status, stdout, stderr, evidence):
            if not aborted:
                add_error(self.ctx, job, code, text, rank=FINDING_RANKS.get(code))
        if status.code != 0 and not aborted:
            self._look_at_space(job, status)
        if status.code != 0 and not aborted and not job.debug:
            for name in find_core_dumps(job.workdir, remove=True):
                add_error(self.ctx, job, 1355, name)
        self._read_report(job)
        return Event.PAYLOAD_FAILED if job.errors or status.code != 0 else Event.PAYLOAD_OK

    def _look_at_space(self, job: Job, status: ExitStatus) -> None:
        """A full disk takes the payload's words away, too: then only the measurement tells the cause."""
        free = free_space(job.workdir, self.ctx.environ)
        if free is not None and free < _FULL:
            add_error(self.ctx, job, 1098, f"the disk is full at the payload's end (exit code {status.code}): "
                                           f"{free} B free in {job.workdir}")

    def _read_report(self, job: Job) -> None:
        report = read_job_report(job.workdir, name=self.ctx.settings.payload.jobreport)
        text = report.text if report is not None else ""
        job.metadata = self.ctx.experiment.metadata(job, text)
        if text and job.exit_code == 0:
            for code, detail in self.ctx.experiment.judge_report(job, text):
                add_error(self.ctx, job, code, detail)


def _environment() -> dict[str, str]:
    """Return a copy of the environment; another thread may change it at the same moment."""
    while True:
        try:
            return dict(os.environ)
        except RuntimeError:  # changed while it was copied
            continue
