"""Makes the update messages of a job from the job, the node and the settings: the one place where they meet."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Callable

from pilot.info.job import Job
from pilot.panda.messages import ReportEnvironment, State, build_update, local_time, server_time
from pilot.version import PILOT_VERSION

if TYPE_CHECKING:
    from pilot.context import PilotContext

logger = logging.getLogger(__name__)


def _optional(what: str, ask: Callable[[], str], default: str = "") -> str:
    """Return what ``ask`` says; a fault in it costs this field of the report, never the report."""
    try:
        return ask()
    except Exception:
        logger.exception("%s is left out of the report: internal error", what)
        return default


def report_environment(ctx: PilotContext, job: Job) -> ReportEnvironment:
    """Return what every update says about this pilot; the batch id is the job's own, fixed when it was granted."""
    environ = ctx.environ
    return ReportEnvironment(
        site_name=ctx.queue.resource, node=ctx.node.host_name, scheduler_id=environ.get("PANDA_JSID") or "unknown",
        gtag=_optional("the log's URL", lambda: ctx.experiment.pilot_id(environ.get("GTAG", ""), job.jobid), "unknown"),
        version_tag=ctx.options.version_tag, pilot_version=PILOT_VERSION,
        cpu_consumption_unit=ctx.node.cpu_consumption_unit,
        cpu_architecture_level=_optional("the architecture level", ctx.experiment.cpu_architecture_level),
        kubernetes=ctx.kubernetes, pilot_timing_fields=ctx.settings.jobs.pilot_timing_fields)


def _metrics(ctx: PilotContext, job: Job, *, final: bool) -> str:
    return _optional("jobMetrics", lambda: ctx.experiment.job_metrics(job, final=final))


def heartbeat_message(ctx: PilotContext, job: Job, state: State, *, stdout: str = "") -> Mapping[str, object]:
    """Return a heartbeat (``starting`` or ``running``)."""
    return build_update(job, state, report_environment(ctx, job), time.time(),
                        job_metrics=_metrics(ctx, job, final=False), stdout=stdout)


def final_message(ctx: PilotContext, job: Job, finished: bool) -> Mapping[str, object]:
    """Return the final report."""
    state: State = "finished" if finished else "failed"
    if not finished:
        from pilot.payload.extracts import log_extract

        job.pilot_log_extract = _optional("the log extract", lambda: log_extract(
            job.jobid, state, job.workdir, ctx.home / ctx.settings.pilot.pilotlog,
            job.workdir / ctx.settings.payload.payloadstdout, job.errors))
    return build_update(job, state, report_environment(ctx, job), time.time(),
                        job_metrics=_metrics(ctx, job, final=True))


def last_resort_message(job: Job, text: str) -> Mapping[str, object]:
    """Return the final report of a job whose orderly end has failed by a fault in the pilot: the fewest fields."""
    now = time.time()
    primary = job.errors.primary(job.exit_code == 0)
    return {
        "jobId": int(job.jobid), "attemptNr": job.attemptnr, "state": "failed", "timestamp": local_time(now),
        "endTime": server_time(now), "pilotErrorCode": primary.code if primary else 1301,
        "pilotErrorDiag": (primary.diagnosis if primary else text)[:250], "transExitCode": job.exit_code or 0,
    }
