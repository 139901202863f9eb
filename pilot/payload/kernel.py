"""What the kernel tells of and does for child processes."""

from __future__ import annotations

import logging
import os
from typing import NamedTuple

from pilot.util import procfs
from pilot.util.oomkills import OomKills

logger = logging.getLogger(__name__)

_PR_SET_CHILD_SUBREAPER = 36


class ExitStatus(NamedTuple):
    """How a process ended.

    ``code`` is 0..255 or 128 + n for signal n (``signal`` is n then, else 0); ``user`` and ``system`` are CPU seconds
    of the process and of the descendants waited for. ``max_rss_kb`` (kB) is the largest of them, and at least the
    pilot's own size (the kernel counts the moment between fork and exec). ``oom``: the counter of out-of-memory kills
    around the process' life; ``pids``: the processes of its tree that were seen; ``memory_max``: limit (bytes) of its
    own control group that the pilot has set, 0 = none.
    """

    code: int
    signal: int
    user: float
    system: float
    max_rss_kb: int
    oom: OomKills | None = None
    pids: frozenset[int] = frozenset()
    memory_max: int = 0

    @classmethod
    def from_wait(cls, status: int, usage: object) -> ExitStatus:
        """Build from the results of ``os.wait4``."""
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        code = 128 + number if number else os.WEXITSTATUS(status)
        user, system, rss = (getattr(usage, name) for name in ("ru_utime", "ru_stime", "ru_maxrss"))
        return cls(code, number, float(user), float(system), int(rss))


def become_subreaper() -> bool:
    """Ask the kernel to hand orphaned descendants to this process; False (and a line in the log) when it cannot."""
    reason = _set_subreaper(1)
    if reason:
        logger.warning("cannot become subreaper (%s): daemons of a payload are found by session and marker only",
                       reason)
    return not reason


def resign_subreaper() -> None:
    """Give the role back: without a reaper every orphan would stay as a zombie."""
    _set_subreaper(0)


def _set_subreaper(value: int) -> str:
    """Return why it cannot be set, '' for success."""
    try:
        import ctypes

        library = ctypes.CDLL(None, use_errno=True)
        return "" if library.prctl(_PR_SET_CHILD_SUBREAPER, value, 0, 0, 0) == 0 else os.strerror(ctypes.get_errno())
    except (ImportError, OSError, AttributeError) as error:
        return str(error)


def has_children() -> bool:
    """True when this process has children already."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def own_user(pid: int) -> bool:
    """True when the process belongs to the user of the pilot."""
    try:
        return os.stat(f"/proc/{pid}").st_uid == os.geteuid()
    except OSError:
        return False


def own_children() -> set[int]:
    """Return the pids of the children of this process; much faster than a scan, so hardly anything ends meanwhile."""
    pids: set[int] = set()
    try:
        for thread in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{thread}/children", "rb") as stream:
                pids.update(map(int, stream.read().split()))
    except OSError:
        # The kernel was built without this file (or a thread has ended just now).
        return {info.pid for info in procfs.scan().children(os.getpid())}
    return pids
