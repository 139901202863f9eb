"""Hands ended jobs to the export of traces, when there is one; the road knows nothing of it."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pilot.telemetry.exporter import Telemetry
from pilot.telemetry.spans import Facts
from pilot.util.redact import redact
from pilot.version import PILOT_VERSION

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.info.job import Job

logger = logging.getLogger(__name__)

_END_SHARE = 0.05
"""Share of the time between a signal and the latest exit that the last export may take."""


def start_telemetry(ctx: PilotContext) -> None:
    """Start the export that the settings ask for."""
    endpoint = ctx.settings.telemetry.otlp_endpoint
    try:
        parts = urlsplit(endpoint)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        logger.warning("telemetry.otlp_endpoint is %r, expected a URL like https://collector:4318: nothing is exported",
                       redact(endpoint))
        return
    ca = ctx.verify_tls()
    ctx.telemetry = Telemetry(ctx.settings.telemetry, ctx.store, _resource(ctx), ca if isinstance(ca, str) else "")
    ctx.telemetry.start()


def _resource(ctx: PilotContext) -> dict[str, str]:
    """Attributes of every span and metric of this pilot; names of OpenTelemetry's conventions where it has any."""
    values = {
        "service.name": "panda-pilot", "service.version": PILOT_VERSION, "service.instance.id": ctx.token,
        "host.name": ctx.node.host_name, "process.pid": str(os.getpid()), "panda.queue": ctx.options.queue,
        "panda.site": ctx.queue.site or "", "panda.batch.id": ctx.batch.id, "panda.batch.type": ctx.batch.type,
        "panda.harvester.id": ctx.environ.get("HARVESTER_ID", ""),
        "panda.worker.id": ctx.environ.get("HARVESTER_WORKER_ID", "")}
    return {key: value for key, value in values.items() if value}


def job_left(ctx: PilotContext, job: Job) -> None:
    """The job has left the road, or the pilot leaves without its end."""
    if ctx.telemetry is not None:
        facts = Facts(job.taskid, job.prodsourcelabel, dict(job.timing.spans), dict(job.timing.wall))
        ctx.telemetry.job_ended(job.jobid, facts, job.errors)


def stop_telemetry(ctx: PilotContext) -> None:
    """Export what is left, within bounds."""
    if ctx.telemetry is None:
        return
    for job in ctx.road.jobs():  # it could not end before the deadline
        job_left(ctx, job)
    patience = ctx.settings.telemetry.patience
    if ctx.shutdown.deadline is not None:
        patience = min(patience, ctx.shutdown.grace * _END_SHARE, ctx.shutdown.remaining(0.0) / 2)
    ctx.telemetry.close(patience)
