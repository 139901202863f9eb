"""What every pilot looks at before its first job, silently when all is well: CVMFS, and what costs next to nothing.

CVMFS may hang: its look runs on the thread that loads the queue's description, bounded, while the main thread sees
signals. The rest (``look_at_node``) is a few system calls. What the job fetcher checks before each getJob (local space,
proxy, a directory to write to) is left to it; ``pilot.py --check`` shows everything.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from pilot.common.errorcodes import ErrorCodes
from pilot.common.exception import PilotException

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.info.queuedata import QueueData

logger = logging.getLogger(__name__)


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
