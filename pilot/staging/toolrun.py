"""One copytool's turn at a group of files: orders, threads, outcomes, and what is tried after a failure."""

from __future__ import annotations

import logging
import random
import time
from dataclasses import replace
from functools import partial
from math import inf
from typing import Callable, Optional, Sequence

from pilot.common.exception import PilotException, StageInFailure, StageOutFailure
from pilot.copytool.base import CopyTool, Direction, Outcome, Transfer, TransferResult
from pilot.info.filespec import FileSpec
from pilot.staging.attempts import Attempts
from pilot.staging.context import StagingContext
from pilot.staging.crew import Crew, Done, StallRule
from pilot.staging.failures import Failures, named
from pilot.staging.group import Group
from pilot.store.viewrows import Moving
from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.checksum import Progress, file_checksums

logger = logging.getLogger(__name__)

_HOPELESS = frozenset({1098, 1165, 1191, 1314, 1319, 1341, 1342, 1371})
"""Codes that another replica or another attempt with the same tool cannot mend."""
_POINTLESS = frozenset({1103, 1163, 1221, 1364, 1383})
"""Codes of a stage-out that the same endpoint will give again: no such directory, a refused login, another file."""
_BACKOFF = 30.0
"""Longest pause (s) between attempts to store one file."""


class ToolRun:
    """Tries the files of a group with one tool; used once."""

    def __init__(
        self,
        tool: CopyTool,
        name: str,
        group: Group,
        ctx: StagingContext,
        token: CancelToken,
        attempts: Attempts,
        failures: Failures,
    ) -> None:
        self.tool = tool
        self.name = name
        self.group = group
        self.ctx = ctx
        self.token = token
        self.attempts = attempts
        self.failures = failures
        self.done: list[tuple[Transfer, TransferResult]] = []
        self._specs: dict[str, FileSpec] = {}
        self._repeated: dict[str, int] = {}

    def run(self, files: Sequence[FileSpec]) -> None:
        """Try all ``files``; what becomes of each stands in its FileSpec and in ``failures``.

        Raises:
            PilotException: the tool as a whole cannot be used here (no look-up, wrong configuration, no space).
            CancelledError: the token was cancelled.
        """
        self.group.resolve(self.tool, self.name, files)
        orders = self._orders([spec for spec in files if spec.require_transfer()])
        if orders:
            self._check(orders)
            parallel = self.ctx.settings.transfers.parallel
            crew = Crew(self._batches(orders, parallel), self._move, self._settle, self._stall_rule(), self.token,
                        self._show)
            crew.run(parallel)
        problem = self._finish()
        if problem is not None:
            for transfer, _ in self.done:
                self._fail(self._specs[transfer.lfn], problem)
        self.token.check()

    def _orders(self, files: Sequence[FileSpec]) -> list[Transfer]:
        orders = []
        for spec in files:
            try:
                order = self.group.order(spec, self.tool, self.name)
            except PilotException as exc:
                self._fail(spec, exc)
                continue
            self._specs[spec.lfn] = spec
            orders.append(order)
        # the largest first: the group is over sooner, and small ones fill the gaps
        return [self.attempts.numbered(order) for order in sorted(orders, key=lambda order: -order.size)]

    def _show(self, copies: Sequence[Moving]) -> None:
        try:
            self.ctx.show(self.group.direction.value, [copy._replace(tool=self.name) for copy in copies])
        except Exception as exc:  # noqa: BLE001 - a view never costs a transfer
            logger.warning("the progress of the copies is not shown: %s: %s", type(exc).__name__, exc)

    def _check(self, orders: Sequence[Transfer]) -> None:
        """Let tool and planner look at all orders before the first copy; a refusal is an attempt of every file."""
        try:
            self.tool.prepare(orders)
            self.group.before(self.tool, orders)
        except PilotException as exc:
            for order in orders:
                self.attempts.note(self.tool, self.name, order, exc, 0.0, time.time())
            raise

    def _batches(self, orders: Sequence[Transfer], parallel: int) -> list[Sequence[Transfer]]:
        if not self.tool.features.bulk:
            return [(order,) for order in orders]
        return [batch for start in range(parallel) if (batch := orders[start::parallel])]

    def _finish(self) -> Optional[PilotException]:
        """What was stored but could not be announced is of no use to those who are to take it further."""
        if not self.done:
            return None
        try:
            self.tool.finish(self.done)
        except PilotException as exc:
            return exc
        return None

    # --- one outcome -------------------------------------------------------------------------------------------------

    def _settle(self, transfer: Transfer, outcome: Outcome, seconds: float, began: float) -> Optional[Transfer]:
        """Write an outcome to its file; return what to try instead of a failure."""
        if getattr(outcome, "untried", False):
            return transfer
        spec = self._specs[transfer.lfn]
        self.attempts.note(self.tool, self.name, transfer, outcome, seconds, began)
        if isinstance(outcome, TransferResult):
            self.group.settle(spec, transfer, outcome)
            self.failures.forget(spec)
            self.done.append((transfer, outcome))
            return None
        outcome = named(outcome, transfer.transfer_id)
        self._fail(spec, outcome)
        other = self._other(transfer, outcome)
        if other is None:
            return None
        logger.info("%s: trying %s next", transfer.lfn, other.url or other.endpoint or "again")
        return self.attempts.numbered(other)

    def _other(self, transfer: Transfer, failure: PilotException) -> Optional[Transfer]:
        """Return the order for the next replica, or for another attempt; None when nothing is left to try."""
        if isinstance(failure, CancelledError) or failure.code in _HOPELESS:
            return None
        if self.group.direction is Direction.IN:
            if failure.code in (1145, 1171) and self.group.mismatch(transfer, failure):
                return transfer
            if not transfer.replicas:
                return None
            first, *rest = transfer.replicas
            return replace(transfer, url=first.url, endpoint=first.endpoint, replicas=tuple(rest))
        count = self._repeated[transfer.lfn] = self._repeated.get(transfer.lfn, 1) + 1
        if count > self.group.repeats or failure.code in _POINTLESS:
            return None
        return replace(
            transfer,
            overwrite=transfer.overwrite or bool(getattr(failure, "remains", False)),
            pause=random.uniform(0.5, 1.0) * min(_BACKOFF, 2.0 ** (count - 1)),
        )

    def _fail(self, spec: FileSpec, exc: PilotException) -> None:
        self.failures.add(exc, spec)
        logger.warning("%s of %s failed (%s): %s", self.group.direction.value, spec.lfn, self.name, exc.full_text)

    # --- one batch ---------------------------------------------------------------------------------------------------

    def _move(self, batch: Sequence[Transfer], token: CancelToken, progress: Progress, done: Done) -> None:
        """Move a batch; whatever happens comes back as an outcome."""
        pause = max(transfer.pause for transfer in batch)
        if pause:
            token.wait(pause)  # broken off meanwhile: the first look at the token ends it
        if not self.tool.features.bulk:
            for transfer in batch:
                done(transfer, self._guarded(transfer.lfn, partial(self._move_one, transfer, token, progress)))
            return
        told: set[int] = set()

        def tell(transfer: Transfer, outcome: Outcome) -> None:
            told.add(id(transfer))
            described = partial(self._described, transfer, outcome, token, progress)
            done(transfer, self._guarded(transfer.lfn, described))

        def move() -> Outcome:
            token.check()
            ready = [transfer for transfer in batch if self._may_begin(transfer, tell)]
            if ready:
                self.tool.copy_many(ready, token, progress, tell)
            return self._kind()(f"copytool {self.name} gave no outcome")

        outcome = self._guarded(f"{len(batch)} files", move)
        for transfer in batch:
            if id(transfer) not in told:
                done(transfer, outcome)

    def _may_begin(self, transfer: Transfer, tell: Done) -> bool:
        try:
            self.group.begin(self.tool, transfer)
        except PilotException as exc:
            tell(transfer, exc)
            return False
        return True

    def _move_one(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        token.check()
        self.group.begin(self.tool, transfer)
        inward = transfer.direction is Direction.IN
        result = (self.tool.copy_in if inward else self.tool.copy_out)(transfer, token, progress)
        return self._described(transfer, result, token, progress)

    def _described(
        self, transfer: Transfer, outcome: Outcome, token: CancelToken, progress: Progress
    ) -> TransferResult:
        """Add the checksum that a tool has not told: the server fails a job whose report lacks one."""
        if isinstance(outcome, PilotException):
            raise outcome
        if transfer.direction is Direction.IN or outcome.checksum:
            return outcome
        size, sums = file_checksums(transfer.local, (self.ctx.settings.file.checksum_type,), token, progress)
        return replace(outcome, size=size, checksum=sums)

    def _guarded(self, what: str, move: Callable[[], Outcome]) -> Outcome:
        try:
            return move()
        except PilotException as exc:
            return exc
        except Exception as exc:  # a fault of a tool must cost its file only, and must reach the server with its text
            logger.exception("unexpected error in copytool %s for %s", self.name, what)
            return self._kind()(f"{what}: copytool {self.name}: {type(exc).__name__}: {exc}")

    def _kind(self) -> type[PilotException]:
        return StageInFailure if self.group.direction is Direction.IN else StageOutFailure

    def _stall_rule(self) -> StallRule:
        """A tool that tells of each block is broken off when it stands still, another one when its time is up."""
        inward = self.group.direction is Direction.IN
        patience = self.ctx.settings.transfers.no_progress_timeout
        tells = self.tool.features.reports_progress

        def seconds(batch: Sequence[Transfer]) -> float:
            longest = patience if tells else sum(transfer.timeout or inf for transfer in batch)
            return longest + max(transfer.pause for transfer in batch)

        def describe(transfer: Transfer) -> str:
            what = (
                f"no byte moved for {patience} s (transfers.no_progress_timeout)"
                if tells
                else f"not done within {transfer.timeout:.0f} s for {transfer.size} B"
            )
            ctx = self.ctx
            far = transfer.url or transfer.endpoint or (ctx.input_dir if inward else ctx.output_dir) or ctx.pilot_home
            one, other = (far, transfer.local) if inward else (transfer.local, far)
            direction = self.group.direction.value
            return f"{transfer.lfn}: {direction} by {self.name}: {what}; do {one} and {other} answer?"

        return StallRule(seconds, 1151 if inward else 1152, describe)
