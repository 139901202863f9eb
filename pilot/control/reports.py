"""Makes the update messages of a job from the job, the node and the settings: the one place where they meet."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Callable

from pilot.common.exception import PilotException
from pilot.info.job import Job
from pilot.info.jobmetrics import fit_metrics
from pilot.panda.messages import ReportEnvironment, State, build_update, local_time, server_time
from pilot.payload.textfiles import read_head
from pilot.util.logs import job_log_path
from pilot.version import PILOT_VERSION

if TYPE_CHECKING:
    from pilot.context import PilotContext

logger = logging.getLogger(__name__)


def _optional(what: str, ask: Callable[[], str], default: str = "") -> str:
    """Return what ``ask`` says; a fault in it costs this field of the report, never the report."""
    try:
        return ask()
    except PilotException as exc:
        logger.error("%s is left out of the report: %s", what, exc.detail)
        return default
    except Exception:
        logger.exception("%s is left out of the report: internal error", what)
        return default


def report_environment(ctx: PilotContext, job: Job) -> ReportEnvironment:
    """Return what every update says about this pilot; the batch id is the job's own, fixed when it was granted."""
    environ = ctx.environ
    log_url = next((spec.log_url for spec in job.logdata if spec.log_url), environ.get("GTAG", ""))
    return ReportEnvironment(
        site_name=ctx.queue.resource, node=ctx.node.host_name, scheduler_id=environ.get("PANDA_JSID") or "unknown",
        gtag=_optional("the log's URL", lambda: ctx.experiment.pilot_id(log_url, job.jobid), "unknown"),
        version_tag=ctx.options.version_tag, pilot_version=PILOT_VERSION,
        cpu_consumption_unit=ctx.node.cpu_consumption_unit,
        cpu_architecture_level=_optional("the architecture level", ctx.experiment.cpu_architecture_level) or (
            ctx.node.architecture_level if ctx.experiment.sends_architecture_level else ""),
        kubernetes=ctx.kubernetes, pilot_timing_fields=ctx.settings.jobs.pilot_timing_fields)


def _metrics(ctx: PilotContext, job: Job, *, final: bool) -> str:
    """Return the experiment's metrics and those of every job, as far as the server's limit goes."""
    common = _optional("metrics of the transfers", lambda: _transfer_metrics(ctx, job))
    own = _optional("jobMetrics", lambda: ctx.experiment.job_metrics(job, final=final))
    return fit_metrics(own, common)


def _transfer_metrics(ctx: PilotContext, job: Job) -> str:
    """``rucioTraceError``, when there is one, and ``transferKey``: what the ids of all transfers of the job begin with.

    The error of a middleware container or script comes by a file in the job's directory, or RUCIO_TRACE_ERROR.
    """
    if not job.has_transfers:
        return ""
    error = str(ctx.transfers.error(job.jobid) or ctx.environ.get("RUCIO_TRACE_ERROR", "0"))
    name = ctx.settings.rucio.rucio_trace_error_file
    if error == "0" and name:
        error = read_head(job.workdir / Path(name).name, 20).decode("ascii", "replace").strip()
    words = [f"rucioTraceError={error}"] if error.isdecimal() and error.isascii() and int(error) else []
    return " ".join([*words, f"transferKey={job.jobid}.{job.attemptnr}"])


def heartbeat_message(
    ctx: PilotContext, job: Job, state: State, *, stdout: str = "", metrics: bool = True
) -> Mapping[str, object]:
    """Return a heartbeat (``starting`` or ``running``); ``metrics`` are made from files in the job's directory, which
    may hang."""
    return build_update(job, state, report_environment(ctx, job), time.time(),
                        job_metrics=_metrics(ctx, job, final=False) if metrics else "", stdout=stdout)


def final_message(ctx: PilotContext, job: Job, finished: bool) -> Mapping[str, object]:
    """Return the final report."""
    state: State = "finished" if finished else "failed"
    if not finished:
        from pilot.payload.extracts import log_extract

        name = ctx.settings.pilot.pilotlog
        job.pilot_log_extract = _optional("the log extract", lambda: log_extract(
            job.jobid, state, job.workdir, job_log_path(job.jobid) or ctx.home / name,
            job.workdir / ctx.settings.payload.payloadstdout, job.errors, log_name=name))
    return build_update(job, state, report_environment(ctx, job), time.time(),
                        job_metrics=_metrics(ctx, job, final=True))


def last_resort_message(job: Job, text: str) -> Mapping[str, object]:
    """Return the final report of a job whose orderly end has failed by a fault in the pilot: the fewest fields."""
    now = time.time()
    code, diagnosis = job.errors.reported(job.exit_code == 0) or (1301, text)
    return {
        "jobId": int(job.jobid), "attemptNr": job.attemptnr, "state": "failed", "timestamp": local_time(now),
        "endTime": server_time(now), "pilotErrorCode": code,
        "pilotErrorDiag": diagnosis[:256], "transExitCode": job.exit_code or 0,
    }
