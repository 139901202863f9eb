"""The memory monitor of ATLAS: prmon, set up by ALRB from CVMFS. Source: payload document 9.

Where ALRB is not there the pilot looks for prmon in PATH, then samples the memory itself.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pilot.info.memory import prmon_line
from pilot.info.payloadtask import UtilityCommand
from pilot.user.atlas.asetup import REPOSITORY, alrb_setup, cvmfs_base

if TYPE_CHECKING:
    from pilot.info.payloadtask import PayloadTask

SIGUSR1 = 10
"""Makes prmon write its summary and end."""
PATIENCE = 20.0
"""s for that."""


def memory_monitor(task: PayloadTask) -> Sequence[UtilityCommand]:
    """Return the command that monitors process ``task.pid``; none without ALRB."""
    setup = alrb_line(task)
    if not setup:
        return ()
    line = f"cd {shlex.quote(str(task.workdir))};{setup}lsetup prmon;{prmon_line(task.pid)}"
    return (UtilityCommand("memorymonitor", line, signal=SIGUSR1, patience=PATIENCE),)


def alrb_line(task: PayloadTask) -> str:
    """Return the set-up of ALRB, '' where it is not there."""
    base = cvmfs_base(task.environ)
    return alrb_setup(base) if os.path.exists(f"{base}/{REPOSITORY}/ATLASLocalRootBase") else ""
