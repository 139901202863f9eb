"""The page of a job in its own log archive: made last, so that it tells of everything but the way of the log."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

from pilot.info.job import Job
from pilot.util.logs import job_log_path

if TYPE_CHECKING:
    from pilot.context import PilotContext

logger = logging.getLogger(__name__)

REPORT_PAGE = "pilot_report.html"


def write_report_page(ctx: PilotContext, job: Job) -> None:
    """Write ``pilot_report.html`` into the job's directory; whatever prevents it goes to the log and no further."""
    if not ctx.settings.monitor.report_page or not job.workdir.is_dir():
        return
    if any(spec.lfn == REPORT_PAGE for spec in [*job.indata, *job.outdata]):
        return  # the job has a file of that name
    began = time.monotonic()
    try:
        text = _page(ctx, job)
        # never through a link of the payload's, nor into a pipe of its
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        with open(os.open(job.workdir / REPORT_PAGE, flags, 0o644), "wb") as stream:
            stream.write(text)
    except OSError as exc:
        logger.warning("job %s: %s cannot be written: %s", job.jobid, REPORT_PAGE, exc.strerror or exc)
    except Exception as exc:  # noqa: BLE001 - a view never costs a job
        logger.warning("job %s: no %s: %s: %s", job.jobid, REPORT_PAGE, type(exc).__name__, exc)
    else:
        logger.debug("job %s: %s, %d B in %.3f s", job.jobid, REPORT_PAGE, len(text), time.monotonic() - began)


def _page(ctx: PilotContext, job: Job) -> bytes:
    from pilot.report.html import job_page
    from pilot.report.tails import job_logs

    settings = ctx.settings
    row = ctx.store.job(str(job.jobid))
    if row is None:
        raise LookupError("the PilotDB does not know the job")
    names = (settings.payload.payloadstdout, settings.payload.payloadstderr)
    row = row._replace(workdir=str(job.workdir), exit_code=job.exit_code)
    logs = job_logs(ctx.home, row, settings.pilot.pilotlog, names, job_log_path(job.jobid))
    return job_page(ctx.store, row, logs).encode("utf-8", "replace")
