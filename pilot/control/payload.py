"""control/payload: builds the command, runs it with what is around it, and finds out what its end means."""

from __future__ import annotations

import logging
from typing import Any

from pilot.common.exception import PilotException
from pilot.control.component import Component, describe
from pilot.control.data import add_error
from pilot.control.lifecycle import Event
from pilot.control.messages import RunPayload
from pilot.control.plan import plan_payload
from pilot.control.turns import Turns
from pilot.control.utilities import after_payload
from pilot.control.verdict import judge
from pilot.control.verification import note_setup_end, verify_setup
from pilot.info.job import Job
from pilot.util.cancel import CancelledError

logger = logging.getLogger(__name__)


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
            add_error(self.ctx, job, 1310 if code == 1319 else code, text, who=getattr(exc, "who", ""),
                      retry=getattr(exc, "retry", ""))
            event = Event.PAYLOAD_FAILED
        finally:
            after_payload(self.ctx, job)
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

    def _run_job(self, job: Job) -> Event:
        """Plan the payload, run its turns, judge the last one."""
        self.say(f"job {job.jobid}: setup", self.step_time() + self.ctx.settings.jobs.verify_setup_time)
        job.cancel.check()
        job.timing.mark("setup")
        plan = plan_payload(self.ctx, job)
        works = verify_setup(self.ctx, plan)
        job.timing.stop("setup")
        if not works:
            return Event.PAYLOAD_FAILED
        job.cancel.check()
        logger.info("job %s: payload command: %s", job.jobid, plan.printable(plan.command.line))
        job.timing.mark("payload")
        status = Turns(self.ctx, job, plan, self.say).run()
        job.timing.stop("payload")
        self.say(f"job {job.jobid}: diagnosis")
        if not job.preprocess:  # else the span has begun with that
            note_setup_end(self.ctx, plan)
        if status is not None:
            judge(self.ctx, job, status)
        return Event.PAYLOAD_FAILED if job.errors or job.exit_code != 0 else Event.PAYLOAD_OK
