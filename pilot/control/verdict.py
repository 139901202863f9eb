"""Finds out what the end of a payload means: errors, core dumps, a full disk, the job report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pilot.common.exception import PilotException
from pilot.control.data import add_error
from pilot.control.jobreports import take_report, use_report
from pilot.info.diagnosis import Rule
from pilot.info.job import Job
from pilot.monitoring.memory import memory_limit
from pilot.payload.connections import GLANCE, PARAMETER, TRACER_LOG, allow_list, offenders_text, read_connections
from pilot.payload.diagnose import Evidence, diagnose, find_core_dumps
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
    payload = ctx.settings.payload
    stdout, stderr = (Path(job.workdir) / name for name in (payload.payloadstdout, payload.payloadstderr))
    aborted = job.cancel.cancelled
    taken = take_report(ctx, job)
    if taken.harmless and not aborted:
        logger.info("job %s: exit code %d says that nothing was left to do: no failure", job.jobid, status.code)
        status, job.exit_code = status._replace(code=0, signal=0), 0
        ctx.store.set_job(job.jobid, exit_code=0)
    job.keep_core = job.keep_core or payload.keep_core_dumps
    dumps = find_core_dumps(job.workdir, remove=not (job.debug or job.keep_core))
    evidence = Evidence(
        oom=status.oom, killed_by_pilot=aborted, error_file=payload.error_report, core_dumps=dumps,
        kernel_words=_kernel_words(status), report=job.report if taken.policy.judges else None,
        max_memory_kb=_most_memory(ctx, job, status), memory_limit_kb=_memory_limit(status) // 1024)
    for finding in () if job.payload_stopped else diagnose(job, status, stdout, stderr, evidence, _own_rules(ctx, job)):
        if not aborted:
            add_error(ctx, job, finding.code, finding.text, rank=finding.rank, who=finding.who, retry=finding.retry,
                      evidence=finding.evidence)
    if status.code != 0 and not aborted:
        _look_at_space(ctx, job, status)
    _look_at_connections(ctx, job, aborted=aborted)
    if dumps and status.code == 0:
        logger.warning("job %s: the payload ended well, but it left core dumps: %s", job.jobid, ", ".join(dumps))
    use_report(ctx, job, taken)


def _look_at_connections(ctx: PilotContext, job: Job, *, aborted: bool) -> None:
    """Say to where the payload has connected; where the queue forbids it the job fails, however its payload ended."""
    allowed = allow_list(ctx.info.queue_for(job).params.get(PARAMETER))
    connections = read_connections(job.workdir) if allowed is not None else read_connections(job.workdir, GLANCE)
    if connections:
        logger.info("job %s: the payload had outbound connections: %s", job.jobid, connections.summary(limit=100))
    if not connections or allowed is None:
        return
    for word in allowed.unusable:
        logger.warning("job %s: '%s' in params.%s of the queue is no network, address or port: the tracer knows "
                       "addresses only", job.jobid, word, PARAMETER)
    offenders = [item for item in connections.addresses if not allowed.allows(item)]
    if offenders and not aborted:
        add_error(ctx, job, 1387, offenders_text(offenders), evidence=(
            f"rule connections: {TRACER_LOG}: {offenders_text(offenders, 400)}; allowed: {PARAMETER} of the queue"))


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


def _most_memory(ctx: PilotContext, job: Job, status: ExitStatus) -> int:
    """Return the largest use of the payload's processes together, kB: PSS where it was measured, else RSS; 0 when
    neither was. When the kernel has killed it between two looks, its own account of the largest process is nearer."""
    pss = job.memory.max_pss if job.memory is not None and job.memory.known else 0
    seen = pss if pss > 0 else max((sample.rss for sample in ctx.store.samples(job.jobid)), default=0) // 1024
    return max(seen, status.max_rss_kb) if status.oom is not None and status.oom.new else seen


def _memory_limit(status: ExitStatus) -> int:
    """Return bytes: the lowest limit by which the kernel has held the payload; 0 without any."""
    return min((limit for limit in (memory_limit(), status.memory_max) if limit), default=0)


def _look_at_space(ctx: PilotContext, job: Job, status: ExitStatus) -> None:
    """A full disk takes the payload's words away, too: then only the measurement tells the cause."""
    free = free_space(job.workdir, ctx.environ)
    if free is not None and free < _FULL:
        add_error(ctx, job, 1098, f"the disk is full at the payload's end (exit code {status.code}): "
                                  f"{free} B free in {job.workdir}", evidence=f"rule full-disk: {free} B free")
