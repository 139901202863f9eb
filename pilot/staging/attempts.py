"""The attempts to move the files of one group: numbered, logged and recorded, successful or not."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from threading import Lock
from typing import Optional

from pilot.common.exception import PilotException
from pilot.copytool.base import CopyTool, Direction, Outcome, Transfer, TransferResult
from pilot.info.filespec import FileSpec
from pilot.staging.context import StagingContext, TransferRecord
from pilot.staging.transferid import transfer_id
from pilot.util.cancel import CancelledError
from pilot.util.redact import redact

logger = logging.getLogger(__name__)


class Attempts:
    """Counts and records; thread-safe.

    Args:
        direction: of the group.
        ctx: whose ``record`` is told.
        log: the group is the job's log.
    """

    def __init__(self, direction: Direction, ctx: StagingContext, *, log: bool) -> None:
        self._direction = direction
        self._ctx = ctx
        self._way = "in" if direction is Direction.IN else "log" if log else "out"
        self._log = log
        self._lock = Lock()
        self._began = time.time()

    def count(self, spec: FileSpec) -> int:
        """Return how often the file was tried so far, in this group or an earlier one of the same direction."""
        return self._ctx.tries.get((self._way, spec.lfn), 0)

    def _number(self, lfn: str) -> tuple[int, str]:
        with self._lock:
            number = self._ctx.tries.get((self._way, lfn), 0) + 1
            self._ctx.tries[self._way, lfn] = number
        return number, transfer_id(self._ctx.job_id, self._ctx.attempt_nr, self._way, lfn, number)

    def numbered(self, order: Transfer) -> Transfer:
        """Return the order with its number and its transfer id."""
        number, name = self._number(order.lfn)
        return replace(order, attempt=number, transfer_id=name)

    def note(
        self, tool: CopyTool, name: str, transfer: Transfer, outcome: Outcome, seconds: float, began: float
    ) -> None:
        """Log a success in one line, and record every attempt."""
        if isinstance(outcome, TransferResult):
            logger.info(
                "%s of %s: %d B in %.3f s by %s%s%s%s [%s]",
                self._direction.value,
                transfer.lfn,
                outcome.size,
                seconds,
                name,
                "".join(f" {kind}:{value}" for kind, value in outcome.checksum.items()),
                "" if outcome.verified else " (no checksum in the catalogue, only the size is verified)",
                " (it lay there already)" if outcome.existed else "",
                transfer.transfer_id,
            )
        self._record(self._made(tool, name, transfer, outcome, seconds, began))

    def untried(self, spec: FileSpec, cause: Optional[PilotException], *, traced: bool) -> None:
        """Record a file that no tool could even begin with (no replica, no room, no tool, no output).

        ``traced`` says whether attempts of the tool in question are reported to Rucio.
        """
        number, name = self._number(spec.lfn)
        code = cause.code if cause else 0
        self._record(
            TransferRecord(
                direction=self._direction.value, lfn=spec.lfn, tool="", endpoint=spec.ddmendpoint, url="",
                size=spec.filesize, started=time.time(), seconds=0.0, code=code,
                state=_state_of(cause, self._direction), text=cause.detail if cause else "no copytool",
                transfer_id=name, attempt=number, scope=spec.scope,
                dataset=spec.dataset, guid=spec.guid, transfer_start=self._began, traced=traced, is_log=self._log,
            )
        )  # fmt: skip

    def _made(
        self, tool: CopyTool, name: str, transfer: Transfer, outcome: Outcome, seconds: float, began: float
    ) -> TransferRecord:
        failure = outcome if isinstance(outcome, PilotException) else None
        result = outcome if isinstance(outcome, TransferResult) else None
        return TransferRecord(
            direction=self._direction.value,
            lfn=transfer.lfn,
            tool=name,
            endpoint=(result.endpoint if result else "") or transfer.endpoint,
            url=result.url if result else transfer.url,
            size=result.size if result else transfer.size,
            started=began,
            seconds=seconds,
            code=failure.code if failure else 0,
            state=_state_of(failure, self._direction) if failure else "DONE",
            text=failure.detail if failure else "OK",
            transfer_id=transfer.transfer_id,
            attempt=transfer.attempt,
            scope=transfer.scope,
            dataset=transfer.dataset,
            guid=transfer.guid,
            protocol=result.protocol if result else "",
            resolved=self._began,
            transfer_start=self._began,
            traced=tool.features.traced,
            is_log=self._log,
            local_url=str(transfer.local) if self._direction is Direction.OUT else "",
        )

    def _record(self, record: TransferRecord) -> None:
        try:
            self._ctx.record(record._replace(text=redact(record.text)))
        except Exception as exc:  # noqa: BLE001 - book-keeping never costs a transfer
            logger.warning("transfer of %s could not be recorded: %s: %s", record.lfn, type(exc).__name__, exc)


_STATES = {
    1098: "NO_SPACE", 1165: "MISSINGOUTPUTFILE", 1314: "UNKNOWN_CHECKSUM_TYPE", 1321: "NO_REPLICA", 1322: "NO_REPLICA",
    1323: "BAD_COPYTOOL", 1326: "NO_REPLICA", 1342: "BAD_COPYTOOL", 1366: "CHECKSUMCALCULATIONFAILURE",
}  # fmt: skip
"""Of failures that no tool has named."""


def _state_of(failure: Optional[PilotException], direction: Direction) -> str:
    """Return the ``clientState`` of the trace (data management document 10.3)."""
    attempt = "STAGEIN_ATTEMPT_FAILED" if direction is Direction.IN else "STAGEOUT_ATTEMPT_FAILED"
    if failure is None:
        return "BAD_COPYTOOL"
    if isinstance(failure, CancelledError):
        return attempt
    return _STATES.get(failure.code) or str(getattr(failure, "state", attempt))
