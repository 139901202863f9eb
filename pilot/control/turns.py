"""The turns of a payload: preprocess, payload with its company, postprocess; again and again for a job that searches
hyper-parameters (HPO).

::

    ┌► preprocess ──► payload ───────────────────────► postprocess ─┐   HPO: until the preprocess says that there are
    │    │              └ company: memory monitor,       (only after │   no more points (160, 161, 162; 12, 14)
    │    │ 160..162       coprocess, what the            success)    │
    │    ▼                experiment wants                           │
    │   end                                                          │
    └────────────────────────────────────────────────────────────────┘

All of it runs in the payload's thread, can be broken off at any moment by ``job.cancel``, and leaves no process behind.
Source: payload document 2, 8; error codes document 8.3.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import time
from collections.abc import Mapping
from math import inf
from typing import TYPE_CHECKING, Callable, Optional

from pilot.common.exception import PilotException
from pilot.control.company import STOPPED, Company
from pilot.control.data import add_error
from pilot.control.messages import PayloadEnded, PayloadStarted
from pilot.control.plan import PayloadPlan, start_payload
from pilot.control.utilities import run_step, run_utilities, step_failure, stop_grace
from pilot.info.payloadtask import Moment, UtilityCommand
from pilot.payload.jobreport import read_error_report, remove_reports
from pilot.payload.kernel import ExitStatus
from pilot.payload.utilities import ENDED, HARMLESS, Ended, end_leftovers, job_step
from pilot.util.cancel import CancelledError
from pilot.util.safepath import UnsafePath, inside

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.info.job import Job
    from pilot.payload.child import Child

logger = logging.getLogger(__name__)

_REPORTED_AS = {12: (5512, 160), 14: (5514, 162)}
"""Exit code of today's HPO scripts -> (code in their report, exit code of the older scripts that means the same)."""

HOROVOD = "HARVESTER_HOROVOD"
"""Environment variable: the payload proper runs elsewhere; here only what is around it."""


class Turns:
    """Runs all turns of one job."""

    def __init__(self, ctx: PilotContext, job: Job, plan: PayloadPlan, say: Callable[..., None]) -> None:
        self.ctx, self.job, self.plan = ctx, job, plan
        self._say = say
        self._horovod = bool(ctx.environ.get(HOROVOD))
        self._cpu_seconds = job.cpu_seconds

    def run(self) -> Optional[ExitStatus]:
        """Run them; returns how the last payload ended, None when there was none to run.

        What is wrong with a pre- or postprocess is in ``job.errors`` then; the payload's end is for others to judge.

        Raises:
            CancelledError: the job was broken off.
            PilotException: something could not be started.
        """
        status: Optional[ExitStatus] = None
        steps = self._steps()
        for number in itertools.count():
            plan = self._preprocess(self.plan.for_turn(number), steps.get("preprocess"))
            if plan is None:
                break
            status = self._instead(plan, steps) if self._horovod else self._payload(plan, steps)
            if status.code != 0 or self.job.cancel.cancelled or not self._postprocess(plan, steps.get("postprocess")):
                break
            if not self.job.is_hpo or self._horovod or "preprocess" not in steps or self.job.payload_stopped:
                break
        return status

    def _steps(self) -> dict[str, UtilityCommand]:
        """Return the job's own steps; their scripts are downloaded now, so that no payload runs in vain."""
        found = {}
        for name in ("preprocess", "coprocess", "postprocess"):
            step = job_step(self.plan.task, name, self.plan.outside.setup)
            if step is not None:
                found[name] = step
        return found

    # --- before -------------------------------------------------------------------------------------------------------

    def _preprocess(self, plan: PayloadPlan, step: Optional[UtilityCommand]) -> Optional[PayloadPlan]:
        """Run what comes before the payload; returns its plan (the experiment may have changed the job's parameters
        meanwhile), None when there is no payload to run."""
        parameters = self.job.jobparams
        if step is not None:
            remove_reports(self.job.workdir, self._reports())
            ended = self._run(plan, step)
            if ended.code != 0:
                self._no_payload(ended)
                return None
            self._prepare_executable()
        run_utilities(self.ctx, plan, Moment.BEFORE_PAYLOAD)
        if self.job.jobparams == parameters:
            return plan
        self.plan = self.plan.with_parameters(parameters, self.job.jobparams)
        return self.plan.for_turn(plan.number)

    def _no_payload(self, ended: Ended) -> None:
        """The preprocess has not ended with 0: there is nothing (more) to do, or it has failed."""
        report = read_error_report(self.job.workdir, self.ctx.settings.payload.error_report)
        code = ended.code
        if report is not None and (report.code, code) in ((reported, ours) for ours, (reported, _) in
                                                          _REPORTED_AS.items()):
            code = _REPORTED_AS[code][1]
        if code in HARMLESS:
            logger.info("job %s: the preprocess ended with exit code %d: no more points", self.job.jobid, ended.code)
            self.job.exit_code, self.job.trans_exit_code = 0, 0 if code == 160 else code
            remove_reports(self.job.workdir, self._reports())  # what it says is no failure
            self._keep_processed_outputs()
            return
        self.job.exit_code = ended.code
        if report is not None:
            self.job.exe_error_code, self.job.exe_error_diag = report.code, report.diag
        add_error(self.ctx, self.job, 1356, step_failure(ended, report.diag if report is not None else ""))

    def _keep_processed_outputs(self) -> None:
        """Only what some turn has written is left to store: ``<lfn>_0``, ``<lfn>_1`` ..."""
        try:
            names = os.listdir(self.job.workdir)
        except OSError:
            names = []
        self.job.outdata = [spec for spec in self.job.outdata if self.job.is_hpo and any(
            re.fullmatch(re.escape(spec.lfn) + r"_\d+", name) for name in names)]

    def _prepare_executable(self) -> None:
        """The preprocess has written the script that the payload's container runs: make it executable."""
        name = self.job.containeroptions.get("containerExec")
        if not isinstance(name, str) or not name:
            return
        while name.startswith("./"):  # as a shell wants it
            name = name[2:]
        try:
            path = inside(self.job.workdir, name)
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (UnsafePath, OSError):
            return  # a command, not a file
        try:
            os.fchmod(descriptor, 0o755)
        except OSError as exc:
            logger.warning("job %s: %s cannot be made executable: %s", self.job.jobid, name, exc.strerror)
        finally:
            os.close(descriptor)

    def _reports(self) -> tuple[str, ...]:
        return (self.ctx.settings.payload.error_report,)

    # --- the payload and its company ----------------------------------------------------------------------------------

    def _payload(self, plan: PayloadPlan, steps: Mapping[str, UtilityCommand]) -> ExitStatus:
        """Run the payload to its end, or until the job is broken off."""
        job = self.job
        child = start_payload(self.ctx, plan)
        company = Company(self.ctx, plan, child)
        try:
            self._say(f"job {job.jobid}: payload runs, process {child.pid}", inf)
            self.ctx.road.monitor.post(PayloadStarted(job, child, company))
            company.start(steps.get("coprocess"))
            why = company.wait()
            if why != ENDED:
                self._end(child, company.reason if why == STOPPED else job.cancel.reason)
            status = child.wait(None)
            assert status is not None
            if why == STOPPED and not job.cancel.cancelled:
                logger.info("job %s: the payload has ended with exit code %d as it was asked to: what it has made is"
                            " its result", job.jobid, status.code)
                status = status._replace(code=0, signal=0)
                job.payload_stopped = True
            elapsed = time.monotonic() - child.started
            end_leftovers(child, f"job {job.jobid}: the payload")
        except CancelledError:
            raise
        except BaseException:  # a fault of the pilot: the payload must not go on without it
            child.kill_tree(0.0)
            raise
        finally:
            self.ctx.road.monitor.post(PayloadEnded(job.jobid))
            company.stop()
            child.leave_group()
        self._account(child, status, elapsed)
        return status

    def _instead(self, plan: PayloadPlan, steps: Mapping[str, UtilityCommand]) -> ExitStatus:
        """No payload here (Horovod): the coprocess, when there is one, is waited for in its place."""
        code = 0
        logger.info("job %s: %s is set: no payload is started here", self.job.jobid, HOROVOD)
        if "coprocess" in steps:
            code = self._run(plan, steps["coprocess"]).code
            if code in HARMLESS:
                code = 0
        self.job.exit_code = code
        return ExitStatus(code, 0, 0.0, 0.0, 0)

    def _end(self, child: Child, reason: str) -> None:
        """End the whole tree: TERM, grace, KILL, within what the pilot's own deadline leaves."""
        job = self.job
        self._say(f"job {job.jobid}: ending the payload ({reason})")
        logger.info("job %s: ending the payload: %s", job.jobid, reason)
        report = child.kill_tree(stop_grace(self.ctx), None)
        if child.running and report.left:
            logger.critical("job %s: %d processes of the payload cannot be killed", job.jobid, report.left)
            if not job.cancel.cancelled:
                raise PilotException(f"{report.left} processes of the payload cannot be killed ({reason})", code=1317)
            raise CancelledError(reason, code=job.cancel.code)

    def _account(self, child: Child, status: ExitStatus, elapsed: float) -> None:
        job = self.job
        job.exit_code = status.code
        self.ctx.store.set_job(job.jobid, exit_code=status.code)  # known even if the pilot dies in the tail
        # what the kernel has counted for everything that was waited for; never less than the last look at /proc
        self._cpu_seconds += child.cpu_seconds
        job.cpu_seconds = max(job.cpu_seconds, self._cpu_seconds)
        job.core_counts = [sample.cores for sample in self.ctx.store.samples(job.jobid)]
        if elapsed > 0 and not job.core_counts:
            job.core_counts.append(round(job.cpu_seconds / elapsed, 2))
        logger.info("job %s: payload ended with exit code %d after %.1f s, CPU time %.1f s", job.jobid, status.code,
                    elapsed, job.cpu_seconds)

    # --- after --------------------------------------------------------------------------------------------------------

    def _postprocess(self, plan: PayloadPlan, step: Optional[UtilityCommand]) -> bool:
        """Run what comes after a payload that has succeeded; False when it has failed."""
        if step is not None:
            ended = self._run(plan, step)
            if ended.code in HARMLESS:
                remove_reports(self.job.workdir, self._reports())
            elif ended.code != 0:
                self.job.exit_code = ended.code
                add_error(self.ctx, self.job, 1357, step_failure(ended))
                return False
        try:
            run_utilities(self.ctx, plan, Moment.AFTER_PAYLOAD_FINISHED2)
        except CancelledError:
            raise
        except PilotException as exc:
            add_error(self.ctx, self.job, exc.code, exc.detail)
            return False
        return True

    def _run(self, plan: PayloadPlan, step: UtilityCommand) -> Ended:
        self._say(f"job {self.job.jobid}: {step.label}", inf)  # the limits of the job are its limits
        return run_step(self.ctx, plan, step)
