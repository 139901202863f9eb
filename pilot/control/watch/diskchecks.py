"""What a job may write, and where each limit comes from: makes the checks of its files and what follows them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Callable, Optional

from pilot.monitoring.filechecks import DiskCheck, FreeSpace, OutputSizes, StdoutSize, WorkdirSize, stdout_names
from pilot.monitoring.workdir import WorkdirTracker
from pilot.store.viewrows import Limit
from pilot.util.safepath import UnsafePath, check_name
from pilot.util.space import pod_storage_limit

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.info.job import Job
    from pilot.monitoring.checks import FileCheck

logger = logging.getLogger(__name__)

_MIB = 1024 * 1024


def disk_checks(ctx: PilotContext, job: Job) -> list[FileCheck]:
    """Return the checks of the disk and of the sizes of files."""
    pilot = ctx.settings.pilot
    period = float(pilot.disk_space_verification_time)
    tell = partial(ctx.store.set_limit, job.jobid)

    def limit(name: str, value: float, setting: str) -> Limit:
        return Limit(name, value, "bytes", f"setting pilot.{setting}")

    checks: list[DiskCheck] = [
        FreeSpace(limit("free", pilot.free_space_limit_running, "free_space_limit_running")._replace(
            origin=_free_origin(ctx.environ)), period, tell, ctx.home),
        OutputSizes(limit("output", pilot.maximum_output_file_size, "maximum_output_file_size"), period, tell,
                    job.workdir, output_names(job)),
        StdoutSize(limit("stdout", pilot.local_size_limit_stdout * 1024, "local_size_limit_stdout"), period, tell,
                   job.workdir, ctx.settings.payload.payloadstdout, is_stdout(ctx, job)),
    ]
    of_workdir = workdir_limit(ctx, job)
    if of_workdir is not None:
        checks.insert(1, WorkdirSize(of_workdir, period, tell, job.workdir))
    logger.info("job %s: limits on disk: %s", job.jobid, "; ".join(
        f"{check.name} {check.limit.value:.0f} B ({check.limit.origin})" for check in checks))
    return list(checks)


def workdir_tracker(ctx: PilotContext, job: Job, counts: Callable[[str], bool]) -> WorkdirTracker:
    """Return what follows the job's directory; ``counts``: which files are signs of life of its payload."""
    limit = workdir_limit(ctx, job)
    return WorkdirTracker(job.workdir, counts=counts, limit=None if limit is None else int(limit.value),
                          watched=is_stdout(ctx, job))


def workdir_limit(ctx: PilotContext, job: Job) -> Optional[Limit]:
    """Return the limit of the job's directory (maxwdir of the queue, with its grace), None without one."""
    queue = ctx.info.queue_for(job)
    megabytes = queue.workdir_limit(job.corecount)
    if megabytes <= 0:
        return None
    divider = f" / {queue.corecount} cores of the queue" if job.corecount == 1 and queue.corecount > 1 else ""
    return Limit("workdir", megabytes * _MIB, "bytes",
                 f"queue's maxwdir {queue.maxwdir} MB{divider} x {queue.pilot_maxwdir_grace:g}")


def is_stdout(ctx: PilotContext, job: Job) -> Callable[[str], bool]:
    """Return what tells whether a path in the job's directory is its stdout or a log file."""
    others = [spec.lfn for spec in (*job.indata, *job.outdata, *job.logdata)]
    return stdout_names(ctx.settings.payload.payloadstdout, others)


def output_names(job: Job) -> list[str]:
    """Return the names of the outputs that are names of files."""
    return [spec.lfn for spec in job.outdata if _is_name(spec.lfn)]


def input_names(job: Job) -> list[str]:
    """Return the names of the inputs that are names of files."""
    return [spec.lfn for spec in job.indata if _is_name(spec.lfn)]


def _is_name(name: str) -> bool:
    try:
        return bool(check_name(name))
    except UnsafePath:
        return False


def _free_origin(environ: Mapping[str, str]) -> str:
    pod = pod_storage_limit(environ)
    inside = f"; the pod has storageLimitMiB={pod // _MIB}" if pod is not None else ""
    return f"setting pilot.free_space_limit_running{inside}"
