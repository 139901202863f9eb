"""What every pilot looks at before its first job, silently when all is well: CVMFS, and what costs next to nothing.

CVMFS may hang: its look runs on the thread that loads the queue's description, bounded, while the main thread sees
signals. The rest (``look_at_node``) is a few system calls. What the job fetcher checks before each getJob (local space,
proxy, a directory to write to) is left to it; ``pilot.py --check`` shows everything.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pilot.common.errorcodes import ErrorCodes
from pilot.common.exception import PilotException

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.info.queuedata import QueueData

logger = logging.getLogger(__name__)

NO_INODES, FEW_INODES, FEW_FILES, FEW_PROCESSES = 100, 10_000, 1024, 512
_MB = 1024 * 1024


def check_cvmfs(ctx: PilotContext, queue: QueueData) -> None:
    """Look at what the experiment needs of CVMFS; blocks for ``limits.cvmfs_time`` at most.

    Raises:
        PilotException: 1377, something is missing or does not answer.
        CancelledError: the pilot is to end.
    """
    if not (ctx.options.cvmfs and queue.is_cvmfs):
        return
    tree = ctx.experiment.cvmfs_tree(ctx.environ)
    if tree is None:
        return
    from pilot.monitoring.cvmfs import check_cvmfs as look
    from pilot.monitoring.cvmfs import run_diagnostics

    health = look(tree, ctx.settings.limits.cvmfs_time, ctx.lookups)
    if not health.trouble:
        age = (time.time() - health.updated) / 3600
        logger.info("CVMFS (%s) answers, %s; looked at in %.3f s", tree.base,
                    f"last updated {age:.1f} h ago" if health.updated else "no time of an update asked for",
                    health.seconds)
        return
    for line in run_diagnostics(tree, ctx.environ, ctx.lookups):
        logger.error("CVMFS: %s", line)
    raise PilotException(
        f"{health.trouble} (is the CVMFS client running here, and are all repositories mounted: cvmfs_config probe; "
        "another place: ATLAS_SW_BASE; -b skips this check)", code=ErrorCodes.CVMFSISNOTALIVE)


def look_at_node(ctx: PilotContext) -> None:
    """Log what is not as it should be, each with its cure; takes well below a millisecond, touches no network.

    Raises:
        PilotException: 1098, no further file can be made in the work directory (a push pilot leaves that to its job's
            validation, where the server is told).
    """
    for found in _findings(ctx):
        logger.warning("node: %s", found)


def _findings(ctx: PilotContext) -> Iterator[str]:
    yield from _inodes(ctx)
    yield from _memory(ctx)
    yield from _limits()
    yield from _token(ctx)
    encoding = sys.getfilesystemencoding()
    if encoding.lower().replace("-", "") != "utf8":
        yield f"names of files are {encoding} here: those that are not ASCII fail payloads; set LANG=C.UTF-8"
    temporary = ctx.environ.get("TMPDIR") or "/tmp"
    if not os.access(temporary, os.W_OK | os.X_OK):
        yield f"{temporary} is not writable: payloads and client libraries need it; give the pilot another TMPDIR"


def _token(ctx: PilotContext) -> Iterator[str]:
    """A token that has ended: the server will refuse it, with words that do not say why."""
    from pilot.panda.credentials import token_expiry

    token = ctx.credentials.token() if ctx.credentials is not None and ctx.server is not None else ""
    expiry = token_expiry(token) if token else None
    if expiry is not None and expiry < time.time():
        yield (f"the token for the PanDA server has ended {(time.time() - expiry) / 60:.0f} min ago: let the submitter "
               "send a fresh one, or a key to renew it with (PANDA_AUTH_TOKEN_KEY)")


def _inodes(ctx: PilotContext) -> Iterator[str]:
    try:
        status = os.statvfs(ctx.home)
    except OSError:  # the check of free space says it
        return
    if not status.f_files or status.f_favail >= FEW_INODES:
        return
    found = (f"only {status.f_favail} of {status.f_files} files can still be made in {ctx.home} (inodes, df -i): "
             "remove small files there, or give another directory with -a")
    told = ctx.options.harvester_submitmode.lower() == "push" and ctx.options.update_server
    if status.f_favail < NO_INODES and not told:
        raise PilotException(found, code=ErrorCodes.NOLOCALSPACE)
    yield found


def _memory(ctx: PilotContext) -> Iterator[str]:
    from pilot.monitoring.memory import memory_limit

    limit, promised = memory_limit(), ctx.queue.maxrss * _MB
    if limit is not None and limit < promised:
        yield (f"the control group of this pilot allows {limit // _MB} MB of memory, less than the queue's maxrss "
               f"{ctx.queue.maxrss} MB: the kernel will kill jobs that use it; raise the batch system's request, or "
               "lower maxrss in CRIC")


def _limits() -> Iterator[str]:
    import resource

    for label, number, least, option in (("open files", resource.RLIMIT_NOFILE, FEW_FILES, "-n"),
                                         ("processes", resource.RLIMIT_NPROC, FEW_PROCESSES, "-u")):
        soft, _ = resource.getrlimit(number)
        if 0 <= soft < least:
            yield (f"only {soft} {label} are allowed (ulimit {option}), payloads may need {least}: raise it where "
                   "pilots are started")
    for label, number, option in (("the size of files", resource.RLIMIT_FSIZE, "-f"),
                                  ("the address space", resource.RLIMIT_AS, "-v")):
        soft, _ = resource.getrlimit(number)
        if soft != resource.RLIM_INFINITY:
            yield f"{label} is limited to {soft // _MB} MB (ulimit {option}): payloads that need more fail; remove it"
