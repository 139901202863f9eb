"""control/data: moves the inputs here, and carries out the tail: outputs, log archive, log.

Stage-in and stage-out are two threads with an inbox each, so that with pipelining the next job's inputs may come while
this job's outputs leave.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pilot.common.errorcodes import DIAGNOSIS_LIMIT, message_of
from pilot.common.errors import STAGE_OUT_RANK
from pilot.common.exception import PilotException
from pilot.control import payloadproxy
from pilot.control.component import Component, describe
from pilot.control.errorfile import write_error_file
from pilot.control.lifecycle import Event
from pilot.control.messages import StageIn, StageOut
from pilot.control.reportpage import write_report_page
from pilot.control.utilities import after_payload, before_stagein
from pilot.info.filespec import FileSpec
from pilot.info.job import Job
from pilot.staging.context import StagingContext, TransferRecord
from pilot.staging.group import transfer_timeout
from pilot.staging.joblog import ARCHIVE_TIME, create_log_archive
from pilot.staging.outputs import prepare_outputs
from pilot.staging.stagein import stage_in
from pilot.staging.stageout import stage_out
from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.logs import job_log_path
from pilot.util.redact import redact

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.store.viewrows import Moving

logger = logging.getLogger(__name__)


_TRIES = 4
"""How often a transfer may be tried, for the time that a stage may take."""


def staging_context(ctx: PilotContext, job: Job) -> StagingContext:
    """Return what the staging room needs to know for ``job``."""

    payload = ctx.settings.payload
    return StagingContext(
        settings=ctx.settings, options=ctx.options, queue=ctx.info.queue_for(job), pilot_home=ctx.home,
        launch_dir=ctx.launch_dir, storage=lambda names: ctx.info.storage_for(job, names),
        job_id=str(job.jobid), attempt_nr=job.attemptnr, use_vp=job.use_vp, workdir=job.workdir, helpers=ctx.helpers,
        mv_to_final_destination=ctx.experiment.mv_to_final_destination, record=ctx.transfers.recorder(job),
        show=partial(ctx.store.set_progress, job.jobid), key_pair=partial(ctx.key_pairs.get, ctx.server),
        secret_files=(ctx.settings.pilot.pandasecrets, *ctx.secret_files(), *map(str, job.secret_paths)),
        middleware=ctx.experiment.middleware_command,
        redundant_patterns=_redundant_patterns(ctx, job), own_log=job_log_path(job.jobid),
        payload_logs=(payload.payloadstdout, payload.payloadstderr), archive_extras=(
            ctx.settings.pilot.pilotlog, ctx.settings.pilot.pilot_heartbeat_file, ctx.settings.workernode.map,
            ctx.settings.workernode.gpu_map),
        # of two jobs the pilot's own environment names the one that came last
        environ={**os.environ, "PANDAID": job.jobid, "PanDA_TaskID": job.taskid, **job.testing_versions,
                 **job.variables, **payloadproxy.dispatch(job)})


def _redundant_patterns(ctx: PilotContext, job: Job) -> tuple[str, ...]:
    """Return what the experiment does not want in the log; a fault in it must not cost the log."""
    try:
        return (*ctx.experiment.redundant_files, *ctx.experiment.redundant_patterns(job))
    except PilotException as exc:
        logger.error("job %s: %s", job.jobid, exc.detail)
        return tuple(ctx.experiment.redundant_files)


def add_error(ctx: PilotContext, job: Job, code: int, text: str, *, rank: int | None = None, who: str = "",
              retry: str = "", evidence: str = "") -> None:
    """Add an error to the job, the store and the log, signed URLs masked.

    ``rank``, ``who`` must act and ``retry`` advice override the table's; ``evidence``: rule and what it saw.
    """
    text, evidence = redact(text), redact(evidence)
    if job.errors.add(code, shortened(text, DIAGNOSIS_LIMIT - len(message_of(code)) - 2), rank=rank, who=who,
                      retry=retry, evidence=evidence):
        error = next(error for error in job.errors if error.code == code)
        ctx.store.add_error(job.jobid, error)
        logger.error("job %s: error %d: %s: %s%s%s", job.jobid, code, message_of(code), text,
                     f" [{error.advice}]" if error.advice else "", f" ({evidence})" if evidence else "")


def shortened(text: str, room: int) -> str:
    """Leave out the middle of a text of more than ``room`` characters: what happened stands first, the cause last."""
    text = " ".join(text.split())
    if len(text) <= room:
        return text
    head = room * 2 // 3
    return f"{text[:head]}...{text[len(text) - (room - head - 3):]}"


def times_of(ctx: PilotContext, files: Sequence[FileSpec]) -> float:
    """Return the seconds that transfers of these files may take, one after the other and some times over: each has a
    limit of its own, and a script of transfers says nothing until its end."""
    base = ctx.settings.transfers.stagein_timeout_base
    return _TRIES * sum(transfer_timeout(base, max(spec.filesize, 0)) for spec in files)


def coming_on(component: Component, context: StagingContext) -> StagingContext:
    """Return the same surroundings; each attempt that ends, well or not, and each look at copies that are under way
    (who stands still is broken off there) begins the component's step anew."""
    record, show = context.record, context.show

    def recorded(attempt: TransferRecord) -> None:
        record(attempt)
        component.allow(component.step_limit)

    def shown(direction: str, copies: Sequence[Moving]) -> None:
        show(direction, copies)
        component.allow(component.step_limit)

    return replace(context, record=recorded, show=shown)


class StageInLane(Component):
    """Moves inputs to the job's directory."""

    name = "stage-in"

    def handle(self, message: Any) -> None:
        """Do a StageIn."""
        if not isinstance(message, StageIn):
            raise TypeError(f"unexpected message {message!r}")
        job = message.job
        self.say(f"job {job.jobid}: {len(job.indata)} files", self.step_time() + times_of(self.ctx, job.indata))
        job.timing.mark("stagein")
        try:
            job.cancel.check()
            before_stagein(self.ctx, job)
            stage_in(job, coming_on(self, staging_context(self.ctx, job)), job.cancel)
        except CancelledError:
            event = Event.STAGEIN_FAILED  # why is in the error list already
        except (PilotException, OSError) as exc:
            code, text = describe(exc)
            add_error(self.ctx, job, 1099 if code in (1303, 1319) else code, text)
            event = Event.STAGEIN_FAILED
            self.ctx.blackhole.stagein_failed(job, code, text)  # one bad node must not eat a queue
        else:
            event = Event.STAGED_IN
        job.timing.stop("stagein")
        self.say("idle")
        self.ctx.road.happened(job, event)

    def failed(self, message: Any, exc: BaseException) -> None:
        """An internal error is a failed stage-in."""
        if isinstance(message, StageIn):
            message.job.timing.stop("stagein")
            add_error(self.ctx, message.job, *describe(exc))
            self.ctx.road.happened(message.job, Event.STAGEIN_FAILED)


class StageOutLane(Component):
    """The tail of every job: outputs (of good jobs), log archive, log."""

    name = "stage-out"

    def handle(self, message: Any) -> None:
        """Do a StageOut."""
        if not isinstance(message, StageOut):
            raise TypeError(f"unexpected message {message!r}")
        job = message.job
        after_payload(self.ctx, job)  # unless its payload has done that
        track = self.ctx.road.track(job.jobid)
        if track is not None and track.desk is not None:
            job.workdir_size = track.desk.own_size()
        if not message.outputs:
            from pilot.control.watch.makeroom import make_room

            make_room(self.ctx, job)
        job.timing.mark("stageout")
        context = coming_on(self, staging_context(self.ctx, job))
        with self.ctx.helpers.session():  # outputs and log share the helper processes
            outputs_left = self._outputs(job, context) if message.outputs else True
            job.timing.stop("stageout")
            # a span of its own; the report adds it to the stage-out
            log_left = self._log(job, self._without_payload_proxy(job, context))
        self.say("idle")
        self.ctx.road.happened(job, Event.STAGED_OUT if outputs_left and log_left else Event.STAGEOUT_FAILED)

    def failed(self, message: Any, exc: BaseException) -> None:
        """An internal error still leads to the final report."""
        if isinstance(message, StageOut):
            message.job.timing.stop("stageout")
            add_error(self.ctx, message.job, *describe(exc))
            self.ctx.road.happened(message.job, Event.STAGEOUT_FAILED)

    def _without_payload_proxy(self, job: Job, context: StagingContext) -> StagingContext:
        """The log is the pilot's: it travels with the pilot's proxy, and the payload's has done its work."""
        if job.payload_proxy is None:
            return context
        payloadproxy.forget(job, [job.payload_proxy])
        environ = {name: value for name, value in context.environ.items() if name != "X509_UNIFIED_DISPATCH"}
        return replace(context, environ=environ)

    def _outputs(self, job: Job, context: StagingContext) -> bool:
        self.say(f"job {job.jobid}: {len(job.outdata)} outputs", self.step_time() + times_of(self.ctx, job.outdata))
        try:
            job.cancel.check()
            prepare_outputs(job, context)
            if job.outdata:
                payloadproxy.renew(job)
                stage_out(job, job.outdata, context, job.cancel, log=False)
        except CancelledError as exc:
            add_error(self.ctx, job, exc.code, f"stage-out was broken off: {exc.detail}")
            return False
        except (PilotException, OSError) as exc:
            code, text = describe(exc)
            add_error(self.ctx, job, 1137 if code in (1303, 1319) else code, text)
            return False
        return True

    def _log(self, job: Job, context: StagingContext) -> bool:
        """Archive and store the log; False when it did not leave.

        A failure is noted behind the earlier errors. It also fails a good job, because the server fails a finished job
        whose report lacks an expected file, the log included (recorded).
        """
        track = self.ctx.road.track(job.jobid)
        token = track.tail if track is not None else CancelToken()
        if not job.logdata:
            return True
        self.say(f"job {job.jobid}: log", self.step_time() + ARCHIVE_TIME + times_of(self.ctx, job.logdata))
        job.timing.mark("log")
        write_error_file(job)
        write_report_page(self.ctx, job)
        try:
            spec = create_log_archive(job, context, token)
            if spec is not None:
                stage_out(job, [spec], context, token, log=True)
        except CancelledError as exc:
            logger.error("job %s: no time left for the log: %s", job.jobid, exc.detail)
            add_error(self.ctx, job, exc.code, f"the log could not leave in time: {exc.detail}")
            return False
        except (PilotException, OSError) as exc:
            code, text = describe(exc)
            # whatever the code means elsewhere: a log that cannot leave never hides why the job failed
            add_error(self.ctx, job, 1320 if code in (1303, 1319) else code, text, rank=STAGE_OUT_RANK)
            return False
        finally:
            job.timing.stop("log")
        return True
