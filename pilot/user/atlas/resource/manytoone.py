"""Many jobs in one worker: Harvester provides the script that sets the release up."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from pilot.user.atlas.asetup import Setup, is_defined

if TYPE_CHECKING:
    from pilot.info.payloadtask import PayloadTask


def setup(task: PayloadTask) -> Setup:
    """Return Harvester's set-up, which takes the job away from the site's Frontier servers."""
    return harvester_setup(task, "unset FRONTIER_SERVER")


def harvester_setup(task: PayloadTask, last: str) -> Setup:
    """Return ``source $HARVESTER_CONTAINER_RELEASE_SETUP_FILE`` and what belongs to it, empty when there is none.

    Args:
        task: the payload.
        last: the line behind it, without ``;``.
    """
    environ = task.environ
    script = environ.get("HARVESTER_CONTAINER_RELEASE_SETUP_FILE", "")
    if not script or not is_defined(task.job.swrelease) or "--containerImage" in task.parameters or task.image:
        return Setup()
    lines = [f"source {shlex.quote(script)};"]
    for name, source in (("LD_LIBRARY_PATH", "HARVESTER_LD_LIBRARY_PATH"), ("PYTHONPATH", "HARVESTER_PYTHONPATH")):
        if environ.get(source):
            lines.append(f"export {name}=${source}:${name};")
    return Setup(release="".join([*lines, last]))
