"""Set-up of releases on special resources: ``--hpc-resource`` names the module, ``grid`` without it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pilot.user.atlas.asetup import Setup, release_setup
from pilot.user.atlas.resource import manytoone, nersc

if TYPE_CHECKING:
    from pilot.info.payloadtask import PayloadTask

logger = logging.getLogger(__name__)


def _grid(task: PayloadTask) -> Setup:
    return release_setup(task.job, task.queue, task.environ)


def _jumbojobs(task: PayloadTask) -> Setup:
    return Setup()  # the image brings everything


RESOURCES = {"grid": _grid, "nersc": nersc.setup, "manytoone": manytoone.setup, "jumbojobs": _jumbojobs}


def resource_setup(task: PayloadTask) -> Setup:
    """Return the set-up of the task's resource; the names of other resources mean the grid's.

    Raises:
        PilotException: 1186, there is no ATLAS software here.
    """
    name = task.options.hpc_resource.strip().lower()
    if name and name not in RESOURCES:
        logger.warning("--hpc-resource %s: ATLAS has no set-up of that name (it has %s), the grid's is taken", name,
                       ", ".join(RESOURCES))
    return RESOURCES.get(name, _grid)(task)
