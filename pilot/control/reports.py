"""Makes the update messages of a job from the job, the node and the settings: the one place where they meet."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pilot.info.job import Job
from pilot.panda.messages import ReportEnvironment, State, build_update
from pilot.version import PILOT_VERSION

if TYPE_CHECKING:
    from pilot.context import PilotContext


def report_environment(ctx: PilotContext, job: Job) -> ReportEnvironment:
    """Return what every update says about this pilot; the batch id is the job's own, fixed when it was granted."""
    environ = ctx.environ
    return ReportEnvironment(
        site_name=ctx.queue.resource, node=ctx.node.host_name, scheduler_id=environ.get("PANDA_JSID") or "unknown",
        gtag=ctx.experiment.pilot_id(environ.get("GTAG", ""), job.jobid), version_tag=ctx.options.version_tag,
        pilot_version=PILOT_VERSION, cpu_consumption_unit=ctx.node.cpu_consumption_unit,
        cpu_architecture_level=ctx.experiment.cpu_architecture_level(), kubernetes=ctx.kubernetes,
        pilot_timing_fields=ctx.settings.jobs.pilot_timing_fields)


def heartbeat_message(ctx: PilotContext, job: Job, state: State, *, stdout: str = "") -> Mapping[str, object]:
    """Return a heartbeat (``starting`` or ``running``)."""
    return build_update(job, state, report_environment(ctx, job), time.time(),
                        job_metrics=ctx.experiment.job_metrics(job, final=False), stdout=stdout)


def final_message(ctx: PilotContext, job: Job, finished: bool) -> Mapping[str, object]:
    """Return the final report."""
    state: State = "finished" if finished else "failed"
    if not finished:
        from pilot.payload.extracts import log_extract

        job.pilot_log_extract = log_extract(
            job.jobid, state, job.workdir, ctx.home / ctx.settings.pilot.pilotlog,
            job.workdir / ctx.settings.payload.payloadstdout, job.errors)
    return build_update(job, state, report_environment(ctx, job), time.time(),
                        job_metrics=ctx.experiment.job_metrics(job, final=True))
