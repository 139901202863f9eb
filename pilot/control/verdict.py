"""Finds out what the end of a payload means: errors, core dumps, a full disk, the job report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pilot.control.data import add_error
from pilot.info.job import Job
from pilot.info.jobreportdata import parse_job_report
from pilot.payload.diagnose import FINDING_RANKS, Evidence, diagnose, find_core_dumps
from pilot.payload.jobreport import read_job_report
from pilot.payload.process import ExitStatus
from pilot.util.space import free_space

if TYPE_CHECKING:
    from pilot.context import PilotContext

# So few bytes (a block of the disk or two) are none: nothing can be written any more.
_FULL = 64 * 1024


def judge(ctx: PilotContext, job: Job, status: ExitStatus) -> None:
    """Put into ``job.errors`` what is wrong with the payload's end; nothing for success."""
    payload = ctx.settings.payload
    stdout, stderr = (Path(job.workdir) / name for name in (payload.payloadstdout, payload.payloadstderr))
    aborted = job.cancel.cancelled
    evidence = Evidence(killed_by_pilot=aborted, error_report=payload.error_report)
    for code, text in diagnose(job, status, stdout, stderr, evidence):
        if not aborted:
            add_error(ctx, job, code, text, rank=FINDING_RANKS.get(code))
    if status.code != 0 and not aborted:
        _look_at_space(ctx, job, status)
    if status.code != 0 and not aborted and not job.debug:
        for name in find_core_dumps(job.workdir, remove=True):
            add_error(ctx, job, 1355, name)
    _read_report(ctx, job)


def _look_at_space(ctx: PilotContext, job: Job, status: ExitStatus) -> None:
    """A full disk takes the payload's words away, too: then only the measurement tells the cause."""
    free = free_space(job.workdir, ctx.environ)
    if free is not None and free < _FULL:
        add_error(ctx, job, 1098, f"the disk is full at the payload's end (exit code {status.code}): "
                                  f"{free} B free in {job.workdir}")


def _read_report(ctx: PilotContext, job: Job) -> None:
    report = read_job_report(job.workdir, name=ctx.settings.payload.jobreport)
    text = report.text if report is not None else ""
    job.metadata = ctx.experiment.metadata(job, text)
    if report is not None and report.data is not None:
        job.report = parse_job_report(report.data)
        if job.exit_code == 0:
            for code, detail in ctx.experiment.judge_report(job, job.report):
                add_error(ctx, job, code, detail)
