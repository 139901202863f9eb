"""Finds out what the end of a payload means: errors, core dumps, a full disk, the job report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pilot.common.exception import PilotException
from pilot.control.data import add_error
from pilot.info.diagnosis import Rule
from pilot.info.job import Job
from pilot.info.jobreportdata import parse_job_report
from pilot.monitoring.memory import memory_limit
from pilot.payload.diagnose import Evidence, diagnose, find_core_dumps
from pilot.payload.jobreport import read_job_report
from pilot.payload.process import ExitStatus
from pilot.util.oomkills import kernel_words
from pilot.util.space import free_space

if TYPE_CHECKING:
    from pilot.context import PilotContext

logger = logging.getLogger(__name__)

# So few bytes (a block of the disk or two) are none: nothing can be written any more.
_FULL = 64 * 1024


def judge(ctx: PilotContext, job: Job, status: ExitStatus) -> None:
    """Put into ``job.errors`` what is wrong with the payload's end; nothing for success."""
    _read_report(ctx, job)
    payload = ctx.settings.payload
    stdout, stderr = (Path(job.workdir) / name for name in (payload.payloadstdout, payload.payloadstderr))
    aborted = job.cancel.cancelled
    dumps = find_core_dumps(job.workdir, remove=not (job.debug or payload.keep_core_dumps))
    evidence = Evidence(
        oom=status.oom, killed_by_pilot=aborted, error_file=payload.error_report, core_dumps=dumps,
        kernel_words=_kernel_words(status), report=job.report if ctx.experiment.report_policy(job).judges else None,
        max_memory_kb=_most_memory(ctx, job), memory_limit_kb=(memory_limit() or 0) // 1024)
    for finding in diagnose(job, status, stdout, stderr, evidence, _own_rules(ctx, job)):
        if not aborted:
            add_error(ctx, job, finding.code, finding.text, rank=finding.rank, who=finding.who, retry=finding.retry,
                      evidence=finding.evidence)
    if status.code != 0 and not aborted:
        _look_at_space(ctx, job, status)
    if dumps and status.code == 0:
        logger.warning("job %s: the payload ended well, but it left core dumps: %s", job.jobid, ", ".join(dumps))


def _own_rules(ctx: PilotContext, job: Job) -> Sequence[Rule]:
    """Return the experiment's rules; a fault in the plug-in costs these, not the verdict."""
    try:
        return ctx.experiment.diagnosis_rules(job)
    except PilotException as exc:
        logger.error("job %s: no rules of diagnosis from the experiment: %s", job.jobid, exc.get_last_error())
        return ()


def _kernel_words(status: ExitStatus) -> str:
    """Return what the kernel's log says about the payload, when its counter says nothing: that log is often forbidden,
    and a look at it takes some ms."""
    known = status.oom is not None and status.oom.new
    return kernel_words(status.pids) if status.code != 0 and not known else ""


def _most_memory(ctx: PilotContext, job: Job) -> int:
    """Return the largest RSS of the payload's processes together, kB; 0 when it was never measured."""
    return max((rss for _, _, _, rss, _ in ctx.store.samples(job.jobid)), default=0) // 1024


def _look_at_space(ctx: PilotContext, job: Job, status: ExitStatus) -> None:
    """A full disk takes the payload's words away, too: then only the measurement tells the cause."""
    free = free_space(job.workdir, ctx.environ)
    if free is not None and free < _FULL:
        add_error(ctx, job, 1098, f"the disk is full at the payload's end (exit code {status.code}): "
                                  f"{free} B free in {job.workdir}", evidence=f"rule full-disk: {free} B free")


def _read_report(ctx: PilotContext, job: Job) -> None:
    report = read_job_report(job.workdir, name=ctx.settings.payload.jobreport)
    text = report.text if report is not None else ""
    job.metadata = ctx.experiment.metadata(job, text)
    if report is not None and report.data is not None:
        job.report = parse_job_report(report.data)
        if job.exit_code == 0:
            for code, detail in ctx.experiment.judge_report(job, job.report):
                add_error(ctx, job, code, detail)
