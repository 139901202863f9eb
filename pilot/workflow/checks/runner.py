"""The list of checks, in the order of the table, and what runs them: a thread each, never longer than twice a check's
own limit all in all (those that need the queue wait for it first)."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from pilot.workflow.checks.base import Check, Finding, Scene, fail, warn
from pilot.workflow.checks.parallel import side_by_side

logger = logging.getLogger(__name__)

_GRACE = 1.0


class Entry(NamedTuple):
    """One check: its row's name, ``module:function`` in this package, and what it means when it does not return."""

    name: str
    function: str
    hang_code: int = 0
    """Pilot error code; 0 = only a warning."""
    hang_cure: str = "try it by hand, and look at the node's load, mounts and name servers"


_DISK = "the file system hangs: look at its mount (dmesg, df), or give another directory with -a"

CHECKS: Sequence[Entry] = (
    Entry("python", "software:python"),
    Entry("packages", "software:packages", 1342, "the file system with Python's packages hangs: look at its mount"),
    Entry("node", "local:node"),
    Entry("work directory", "local:work_directory", 1199, _DISK),
    Entry("local space", "local:local_space", 1199, _DISK),
    Entry("inodes", "local:inodes", 0, _DISK),
    Entry("/tmp", "local:temporary_directory", 0, "/tmp, or TMPDIR, hangs: look at its mount"),
    Entry("memory", "local:memory"),
    Entry("limits", "local:limits"),
    Entry("locale", "local:locale_of"),
    Entry("/proc", "local:processes"),
    Entry("CVMFS", "local:cvmfs", 1377, "run cvmfs_config probe; restart autofs"),
    Entry("proxy", "identity:proxy", 1163, "the file system with the proxy hangs: look at its mount"),
    Entry("token", "identity:token", 0, "the file system with the token hangs: look at its mount"),
    Entry("CA directory", "identity:authorities", 0, "the file system with the CA directory hangs: look at its mount"),
    Entry("DNS", "network:names", 0, "look at /etc/resolv.conf and at the name servers in it"),
    Entry("PanDA server", "network:server", 1318, "look at --url and -p, at the firewall, and at the server"),
    Entry("queue", "queue:queue", 1116, "look at the server, and at --queuedata-url"),
    Entry("copytools", "software:copytools"),
    Entry("containers", "software:containers"),
    Entry("storage", "network:storages"),
)


def run_all(scene: Scene, entries: Sequence[Entry] = CHECKS) -> list[Finding]:
    """Run all checks side by side; the findings in the order of the list."""
    limit = 2 * scene.limit + _GRACE
    results = side_by_side([partial(_findings, entry, scene) for entry in entries], limit, scene.token)
    scene.token.cancel(0, "the checks are over")  # commands and waits of those that are left behind
    return [finding for entry, found in zip(entries, results)
            for finding in (found if found is not None else [_no_answer(entry, limit)])]


def _findings(entry: Entry, scene: Scene) -> list[Finding]:
    module, _, name = entry.function.partition(":")
    try:
        check: Check = getattr(importlib.import_module(f"pilot.workflow.checks.{module}"), name)
        return list(check(scene))
    except Exception as exc:  # a check that fails is a row of the table, never a traceback
        logger.debug("check %s failed", entry.name, exc_info=True)
        return [warn(entry.name, f"could not be looked at: {type(exc).__name__}: {exc}",
                     "this is a fault of the check itself, or of a garbled environment: please report it")]


def _no_answer(entry: Entry, seconds: float) -> Finding:
    text = f"no answer within {seconds:.0f} s: it hangs"
    if entry.hang_code:
        return fail(entry.name, entry.hang_code, text, entry.hang_cure)
    return warn(entry.name, text, entry.hang_cure)
