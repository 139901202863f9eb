"""Xcache beside a job, on queues with ``pilotXcache`` in their catchall: started before the stage-in, stopped after the
payload. Its words are environment variables for transfers and payload. Source: payload document 8.4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pilot.info.catchall import CatchAll
from pilot.info.payloadtask import UtilityCommand
from pilot.user.atlas.prmon import alrb_line

if TYPE_CHECKING:
    from pilot.info.payloadtask import PayloadTask

START, KILL = "xcache_start", "xcache_kill"
_START_SECONDS = 600.0
_KILL_SECONDS = 60.0
_VALUES = (
    re.compile(r'^\s*export (ALRB_XCACHE_PROXY(?:_REMOTE)?)="([^"\n]*)"', re.MULTILINE),
    re.compile(r"^\s*(ALRB_XCACHE_(?:MYPROCESS|FILES))=(\S+)", re.MULTILINE),
)
_LOG = re.compile(r"xcache started successfully\.\s+Messages logged in (\S+)")


def xcache_start(task: PayloadTask) -> Sequence[UtilityCommand]:
    """Return the command that starts Xcache, where the queue wants it and ALRB is there."""
    setup = alrb_line(task)
    if not CatchAll(task.queue.catchall).xcache or not setup:
        return ()
    line = (f"{setup}lsetup xcache; xcache list; "
            f"xcache start -d $PWD/{task.job.jobid}/xcache -C centos7 --disklow 4g --diskhigh 5g -b 4")
    return (UtilityCommand(START, line, timeout=_START_SECONDS, daemon=True),)


def xcache_kill(task: PayloadTask) -> Sequence[UtilityCommand]:
    """Return the command that keeps Xcache's log and stops it; none when it was not started."""
    if not task.job.variables.get("ALRB_XCACHE_MYPROCESS"):
        return ()
    line = ('[ -z "$ALRB_XCACHE_LOG" ] || cp "$ALRB_XCACHE_LOG" xcache-messages.log; '
            f"{alrb_line(task)}lsetup xcache; xcache kill -p $ALRB_XCACHE_MYPROCESS")
    return (UtilityCommand(KILL, line, timeout=_KILL_SECONDS),)


def xcache_variables(output: str) -> Mapping[str, str]:
    """Return the variables that ``xcache start`` has named in its output."""
    found = {name: value for pattern in _VALUES for name, value in pattern.findall(output)}
    log = _LOG.search(output)
    return {**found, "ALRB_XCACHE_LOG": log.group(1)} if log else found
