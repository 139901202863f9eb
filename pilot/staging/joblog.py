"""The log archive of a job: everything in its work directory that explains what happened, never its secrets.

```
 full      pilot log, payload output, then the whole work directory        disk full or time over?
 reduced   pilot log, the ends of the payload's output                     still? --> 1320 / 1376
```
Inputs, outputs, links and core dumps stay out; what was left out is listed in the archive itself.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from pathlib import Path
from typing import Callable, Iterator, Optional

from pilot.common.exception import LogFileCreationFailure, PilotException
from pilot.info.filespec import FileSpec
from pilot.info.job import Job
from pilot.staging.context import StagingContext
from pilot.staging.outputs import new_guid
from pilot.util.archive import ArchiveResult, ArchiveTimeout, Member, Rules, walk, write_archive
from pilot.util.cancel import CancelToken
from pilot.util.mounts import mounts_below
from pilot.util.safepath import check_name

logger = logging.getLogger(__name__)

KEEP = ("runargs", "runwrapper", "jobReport", "log.", "xrdlog")
"""Parts of names that an experiment's removal patterns never touch."""
REDUCED_TAIL = 1 << 20
"""Bytes of each file in a reduced archive."""
REDUCED_TIME = 60.0
"""Seconds for a reduced archive, when the job's own end allows them."""
ARCHIVE_TIME = 10800.0
"""Most seconds that a full archive ever gets."""
_LEAST_TIME = 5.0
_FULL_SHARE = 0.8
"""Of the time until the token's deadline, for the full archive: the rest is for a reduced one."""


def create_log_archive(job: Job, ctx: StagingContext, token: CancelToken) -> Optional[FileSpec]:
    """Write the log archive into the pilot's directory.

    Args:
        job: its first ``logdata`` entry names the file and gets GUID, size and checksum. The work directory
            may be gone.
        ctx: surroundings.
        token: its deadline bounds the time; cancelled = broken off.

    Returns:
        The log's FileSpec, ready for ``stage_out(..., log=True)``; None when the job wants no log.

    Raises:
        LogFileCreationFailure: 1320, also the reduced archive could not be written.
        ArchiveTimeout: 1376, neither was ready in time.
        CancelledError: the token was cancelled.
    """
    spec = next((item for item in job.logdata if item.lfn), None)
    if spec is None:
        return None
    target = ctx.pilot_home / check_name(spec.lfn)
    top = f"tarball_PandaJob_{job.jobid}_{ctx.queue.name}"
    rules = archive_rules(job, ctx)
    began = time.monotonic()
    limit = time_limit(job.workdir if _has_workdir(job) else None)
    deadline = began + min(limit, _FULL_SHARE * token.remaining(limit / _FULL_SHARE))
    try:
        result = _write(target, top, lambda notes: _everything(job, ctx, rules, notes), ctx, token, deadline)
    except (OSError, ArchiveTimeout) as first:
        logger.warning("log archive %s failed (%s), trying a reduced one", target, _words(first))
        result = _reduced(first, target, top, job, ctx, token, rules)
    spec.filesize = result.size
    spec.checksum = dict(result.checksum)
    spec.guid = spec.guid or new_guid()
    logger.info(
        "log archive %s: %d files, %d B in %.3f s, %d notes",
        target.name, result.files, result.size, time.monotonic() - began, len(result.notes),
    )  # fmt: skip
    return spec


def _reduced(
    first: Exception, target: Path, top: str, job: Job, ctx: StagingContext, token: CancelToken, rules: Rules
) -> ArchiveResult:
    def members(notes: list[str]) -> Iterator[Member]:
        notes.append(f"this is a reduced archive, the full one failed: {_words(first)}")
        for member in _essentials(job, ctx, rules):
            yield Member(member.path, member.name, REDUCED_TAIL)

    seconds = min(REDUCED_TIME, max(_LEAST_TIME, token.remaining(REDUCED_TIME)))
    try:
        return _write(target, top, members, ctx, token, time.monotonic() + seconds)
    except ArchiveTimeout as exc:
        raise ArchiveTimeout(f"log archive {target}: {_words(first)}; reduced archive: {exc.detail}") from exc
    except OSError as exc:
        if isinstance(first, ArchiveTimeout):
            raise ArchiveTimeout(f"log archive {target}: {_words(first)}; reduced archive: {_words(exc)}") from exc
        raise LogFileCreationFailure(f"log archive {target}: {_words(exc)}") from exc


def _write(
    target: Path,
    top: str,
    members: Callable[[list[str]], Iterator[Member]],
    ctx: StagingContext,
    token: CancelToken,
    deadline: float,
) -> ArchiveResult:
    result = ArchiveResult()
    write_archive(
        target,
        top,
        members(result.notes),
        result,
        algorithms=(ctx.settings.file.checksum_type,),
        token=token,
        deadline=deadline,
    )
    return result


def _words(exc: Exception) -> str:
    if isinstance(exc, PilotException):
        return exc.detail
    if isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{exc.strerror} in {os.path.dirname(str(exc.filename))}"
    return str(exc)


def archive_rules(job: Job, ctx: StagingContext) -> Rules:
    """Return what stays out of the log of this job."""
    files = {spec.lfn for spec in [*job.indata, *job.outdata, *job.logdata]}
    secrets = tuple(os.path.basename(str(name)) for name in ctx.secret_files if name)
    return Rules(
        secrets=secrets,
        skip_at_top=frozenset(files),
        redundant=tuple(ctx.redundant_patterns),
        keep=KEEP,
        core_files=job.debug or job.keep_core,
        max_file=ctx.settings.limits.log_archive_max_file,
    )


def time_limit(workdir: Optional[Path]) -> float:
    """Seconds for a full archive: 90 and a fifth of a second per MB of the files on top, at most 3 h."""
    total = 0
    if workdir is not None:
        mounts = mounts_below(workdir)
        try:
            with os.scandir(workdir) as entries:
                total = sum(entry.stat(follow_symlinks=False).st_size for entry in entries
                            if entry.name not in mounts and not entry.is_dir(follow_symlinks=False))
        except OSError:  # the walk will say what is wrong
            total = 0
    return min(30 + 60 + total // 1_000_000 // 5, ARCHIVE_TIME)


def _has_workdir(job: Job) -> bool:
    return job.workdir != Path() and job.workdir.is_dir()


def _essentials(job: Job, ctx: StagingContext, rules: Rules) -> Iterator[Member]:
    """Pilot log and other files of the pilot (links to them included), then the payload's output."""
    for name in ctx.archive_extras:
        path = ctx.pilot_home / name
        if ctx.own_log is not None and name == ctx.settings.pilot.pilotlog:
            path = ctx.own_log
        if path.is_file() and not rules.is_secret(name):
            yield Member(path, name)
    if _has_workdir(job):
        for name in ctx.payload_logs:
            path = job.workdir / name
            if path.is_file() and not path.is_symlink():
                yield Member(path, name)


def _everything(job: Job, ctx: StagingContext, rules: Rules, notes: list[str]) -> Iterator[Member]:
    given = set()
    for member in _essentials(job, ctx, rules):
        given.add(member.name)
        yield Member(member.path, member.name, rules.max_file)
    yield from _client_logs(ctx, rules)
    if not _has_workdir(job):
        notes.append(f"work directory {job.workdir}: not there (any more)")
        return
    for member in walk(job.workdir, rules, notes.append):
        if member.name not in given:
            yield member
    notes[:] = [text for text in notes if not (text.endswith(": a link") and text[: -len(": a link")] in given)]


def _client_logs(ctx: StagingContext, rules: Rules) -> Iterator[Member]:
    """Logs of the XRootD client in the pilot's directory (``xrdlog*``)."""
    for path in sorted(ctx.pilot_home.glob("xrdlog*.txt")):
        if not rules.is_secret(path.name):
            yield Member(path, path.name)
