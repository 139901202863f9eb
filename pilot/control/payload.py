"""control/payload: builds the command, runs it, waits for its end (or ends it), and finds out what it means."""

from __future__ import annotations

import logging
import queue
from typing import Any

from pilot.common.exception import PilotException
from pilot.control.component import Component, describe
from pilot.control.data import add_error
from pilot.control.lifecycle import Event
from pilot.control.messages import PayloadEnded, PayloadStarted, RunPayload
from pilot.control.plan import plan_payload, start_payload
from pilot.control.verdict import judge
from pilot.control.verification import note_setup_end, verify_setup
from pilot.info.job import Job
from pilot.payload.process import Child, ExitStatus
from pilot.util.cancel import CancelledError

logger = logging.getLogger(__name__)

# What the payload left behind after its own end gets this long to obey SIGTERM.
_LEFTOVER_GRACE = 1.0


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
        plan = plan_payload(self.ctx, job)
        works = verify_setup(self.ctx, plan)
        job.timing.stop("setup")
        if not works:
            return Event.PAYLOAD_FAILED
        job.cancel.check()
        logger.info("job %s: payload command: %s", job.jobid, plan.printable_line())
        job.timing.mark("payload")
        child = start_payload(self.ctx, plan)
        self.say(f"job {job.jobid}: payload runs, process {child.pid}")
        self.ctx.road.monitor.post(PayloadStarted(job, child))
        try:
            status = self._wait(job, child)
        finally:
            self.ctx.road.monitor.post(PayloadEnded(job.jobid))
        job.timing.stop("payload")
        note_setup_end(self.ctx, plan)
        self._account(job, child, status)
        judge(self.ctx, job, status)
        return Event.PAYLOAD_FAILED if job.errors or job.exit_code != 0 else Event.PAYLOAD_OK

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
