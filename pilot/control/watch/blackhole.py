"""Black-hole protection: a node that fails jobs quickly would eat a queue, so a pilot on it takes no further one.

Two rules, only for a pilot that would go on to ask for another job (timefloor, time left, queue's state allow it):

* a failed stage-in, whatever its cause: 1332, exit code 75;
* ``limits.node_failures`` (2) failures in a row that the node has caused (set-up, container, disk, network): the same.

A failure that storage, user or release have to mend does not count, nor does it end a row of those that do, unless its
payload has run: that shows a node that works. A pilot of one job ends as it would have ended: Harvester has its report.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Callable, NamedTuple

from pilot.common.errorcodes import SITE, message_of
from pilot.common.errors import JobError
from pilot.control.shutdown import StopReason

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.info.job import Job

logger = logging.getLogger(__name__)

BLACKHOLE = 1332
_KINDS = (
    ("disk", frozenset({1098, 1199, 1303, 1320, 1376}),
     "space, quota and mount options of the file system of {home} (df, mount, dmesg)"),
    ("set-up", frozenset({1110, 1143, 1186, 1211, 1334, 1339, 1347}),
     "CVMFS on this node (cvmfs_config probe) and what the queue names for the set-up"),
    ("container", frozenset({1306, 1307, 1308, 1309, 1325, 1340, 1345, 1348, 1372}),
     "the container run-time: user namespaces, loop devices, where images are unpacked"),
    ("stage-in", frozenset({1327, 1338, 1342, 1364}),
     "network, client libraries and credentials on this node"),
)
_STAGE_IN = _KINDS[3]


class NodeFailure(NamedTuple):
    """A failure that counts."""

    job_id: str
    when: float
    """Epoch s."""
    kind: str
    code: int
    text: str

    def line(self) -> str:
        """For the log."""
        at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.when))
        return f"job {self.job_id} at {at}: {self.kind}: {self.text} ({self.code})"


def node_caused(error: JobError) -> str:
    """Return what of the node has caused an error (``disk``, ``set-up``, ...), '' when it was not the node."""
    if (error.who or SITE) != SITE:
        return ""
    return next((kind for kind, codes, _ in _KINDS if error.code in codes), "")


class BlackHole:
    """Counts the failures of one pilot. Thread-safe.

    Args:
        ctx: the pilot's.
        would_go_on: says whether another job would be asked for now.
    """

    def __init__(self, ctx: PilotContext, would_go_on: Callable[[], bool]) -> None:
        self._ctx, self._would_go_on = ctx, would_go_on
        self._lock = threading.Lock()
        self._row: list[NodeFailure] = []

    def stagein_failed(self, job: Job, code: int, text: str) -> None:
        """A stage-in has failed: the next job would most likely fail here, too."""
        failure = NodeFailure(job.jobid, time.time(), "stage-in", code, f"{message_of(code)}: {text}")
        reason = f"the stage-in of job {job.jobid} has failed"
        if not self._stop(reason, [failure], {_STAGE_IN[2]}):
            self._ctx.shutdown.stop(StopReason(reason))

    def job_over(self, job: Job, *, finished: bool) -> None:
        """A job is about to be reported: count it, or begin anew."""
        error = None if finished else job.errors.primary(job.payload_succeeded)
        kind = node_caused(error) if error is not None else ""
        with self._lock:
            if error is None or (not kind and job.exit_code is not None):
                self._row.clear()
                return
            if not kind:
                return
            self._row.append(NodeFailure(job.jobid, time.time(), kind, error.code, error.diagnosis))
            row = list(self._row)
        most = self._ctx.settings.limits.node_failures
        if most and len(row) >= most:
            hints = {hint for name, _, hint in _KINDS if name in {failure.kind for failure in row}}
            self._stop(f"{len(row)} failure{'s' if len(row) > 1 else ''} in a row that this node has caused: "
                       + ", ".join(f"job {failure.job_id}: {failure.code}" for failure in row), row, hints)

    def _stop(self, reason: str, row: list[NodeFailure], hints: set[str]) -> bool:
        """End the pilot with 1332 where it would take another job; False, and nothing is done, where it would not."""
        if not self._would_go_on():
            return False
        ctx = self._ctx
        ctx.exit_error = ctx.exit_error or BLACKHOLE
        ctx.shutdown.stop(StopReason(reason, exit_code=BLACKHOLE))
        lines = [f"black-hole protection: {reason}; no further job is taken on {ctx.node.host_name} (1332, exit code "
                 "75)", *(f"  {failure.line()}" for failure in row),
                 *(f"  look at: {hint.format(home=ctx.home)}" for hint in sorted(hints))]
        logger.critical("%s", "\n".join(lines))
        ctx.store.add_note(row[-1].job_id, "black-hole", " | ".join(line.strip() for line in lines))
        return True
