"""Move a group of files with the copytools of the queue, several at a time: the loop of both directions.

```
 for each tool, in the queue's order:     files still to be moved --> orders --> crew (threads) --> results
     all done? --> success                a failed file goes on to the next tool; every file is tried
 left over? --> the first cause is raised
```
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from typing import Callable, Optional, Sequence

from pilot.common.exception import PilotException, StageInFailure, StageOutFailure
from pilot.copytool.base import CopyTool, Direction, ToolConfig, Transfer, TransferResult
from pilot.copytool.registry import canonical_name, load_tool
from pilot.info.filespec import FileSpec
from pilot.staging.context import StagingContext, TransferRecord
from pilot.staging.crew import Crew, StallRule
from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.checksum import Progress

logger = logging.getLogger(__name__)

MAX_TIMEOUT = 10800
"""Seconds."""


@dataclass
class Group:
    """Files that go the same way together.

    ``order`` makes the order for one file with one tool (it may raise); ``settle`` writes a result to the file.
    """

    direction: Direction
    files: Sequence[FileSpec]
    tools: Sequence[str]
    order: Callable[[FileSpec, CopyTool, str], Transfer]
    settle: Callable[[FileSpec, Transfer, TransferResult], None]
    before: Callable[[CopyTool, Sequence[Transfer]], None] = field(default=lambda _tool, _orders: None)
    """Checks over all orders before the first copy with a tool (space)."""


def transfer_timeout(base: int, size: int) -> float:
    """Seconds that a transfer of ``size`` bytes may take: about 1 MB/s on top of ``base``, at most 3 h."""
    return float(min(base + size // 1_000_000, MAX_TIMEOUT))


def transfer_group(group: Group, ctx: StagingContext, token: CancelToken) -> None:
    """Move all files of the group; returns when every one has its final status.

    Raises:
        CancelledError: the token was cancelled; running copies were broken off within about a second.
        PilotException: the cause of the first failure, after all files were tried with all tools.
    """
    errors: list[PilotException] = []
    for name in group.tools:
        remaining = [spec for spec in group.files if spec.require_transfer()]
        if not remaining:
            break
        token.check()
        try:
            tool = load_tool(name, _tool_config(name, ctx), _plugins(ctx), queue=ctx.queue.name)
            errors += _run_tool(tool, name, remaining, group, ctx, token)
        except CancelledError:
            raise
        except PilotException as exc:
            errors.append(exc)
            logger.warning("%s with copytool %s: %s", group.direction.value, name, exc.diagnosis)
            if exc.code == 1165:  # the file is not there: no tool can help
                raise
    left = [spec for spec in group.files if spec.require_transfer()]
    if not left:
        return
    for spec in left:
        spec.status = "failed"
        spec.status_code = spec.status_code or (errors[0].code if errors else 0)
    raise first_cause(errors, group)


def first_cause(errors: Sequence[PilotException], group: Group) -> PilotException:
    """Choose the error to report: authentication and queue configuration first, else the first in time."""
    inward = group.direction is Direction.IN
    cause: PilotException = (
        errors[0] if errors else (StageInFailure if inward else StageOutFailure)("no copytool is defined", code=1323)
    )
    texts = " ".join(error.detail for error in errors)
    code = cause.code
    if "Cannot authenticate" in texts:
        code = 1338 if inward else 1383
    elif "bad queue configuration" in texts:
        code = 1341
    chosen = next((error for error in errors if error.code == code), cause)
    failed = [spec.lfn for spec in group.files if spec.status == "failed"]
    more = f"; {len(failed)} of {len(group.files)} files failed" if len(group.files) > 1 else ""
    detail = f"{chosen.detail}{more}:failed to transfer files using copytools={list(group.tools)}"
    return (StageInFailure if inward else StageOutFailure)(detail, code=code)


def _tool_config(name: str, ctx: StagingContext) -> ToolConfig:
    return ToolConfig(
        options=ctx.queue.copytool_settings(name),
        pilot_home=ctx.pilot_home,
        launch_dir=ctx.launch_dir,
        input_dir=ctx.input_dir,
        output_dir=ctx.output_dir,
        input_destination_dir=ctx.input_destination_dir,
        final_destination=ctx.final_destination,
        checksum_type=ctx.settings.file.checksum_type,
        chunk=ctx.settings.transfers.copy_chunk,
        fsync=ctx.settings.transfers.fsync,
    )


def _plugins(ctx: StagingContext) -> dict[str, object]:
    return dict(ctx.settings.plugins.copytools)


def _run_tool(
    tool: CopyTool, name: str, files: Sequence[FileSpec], group: Group, ctx: StagingContext, token: CancelToken
) -> list[PilotException]:
    """Try all ``files`` with one tool; returns the errors in the order of the files."""
    errors: dict[int, PilotException] = {}
    orders: list[tuple[FileSpec, Transfer]] = []
    for spec in files:
        try:
            orders.append((spec, group.order(spec, tool, canonical_name(name))))
        except PilotException as exc:
            _mark_failed(spec, exc, name, group)
            errors[id(spec)] = exc
    transfers = [transfer for _, transfer in orders]
    tool.prepare(transfers)
    group.before(tool, transfers)
    done: list[tuple[Transfer, TransferResult]] = []
    specs = {id(transfer): spec for spec, transfer in orders}

    def settle(transfer: Transfer, outcome: TransferResult | PilotException, seconds: float, began: float) -> None:
        spec = specs[id(transfer)]
        _note(name, transfer, outcome, seconds, began, ctx)
        if isinstance(outcome, PilotException):
            _mark_failed(spec, outcome, name, group)
            errors[id(spec)] = outcome
        else:
            group.settle(spec, transfer, outcome)
            done.append((transfer, outcome))

    if transfers:
        crew = Crew(transfers, partial(_move_one, tool, name), settle, _stall_rule(tool, name, group, ctx), token)
        crew.run(ctx.settings.transfers.parallel)
    problem = _finish(tool, done)
    if problem is not None:
        stored = {transfer.lfn for transfer, _ in done}
        for spec in files:
            if spec.lfn in stored:
                _mark_failed(spec, problem, name, group)
                errors[id(spec)] = problem
    token.check()
    return [errors[id(spec)] for spec in files if id(spec) in errors]


def _finish(tool: CopyTool, done: Sequence[tuple[Transfer, TransferResult]]) -> Optional[PilotException]:
    """What was stored but could not be announced is of no use to those who are to take it further."""
    if not done:
        return None
    try:
        tool.finish(done)
    except PilotException as exc:
        return exc
    return None


def _mark_failed(spec: FileSpec, exc: PilotException, tool: str, group: Group) -> None:
    spec.status = "failed"
    spec.status_code = exc.code
    logger.warning("%s of %s failed (%s): %s", group.direction.value, spec.lfn, tool, exc.diagnosis)


def _stall_rule(tool: CopyTool, name: str, group: Group, ctx: StagingContext) -> StallRule:
    """A tool that tells of each block is broken off when it stands still, another one when its time is up."""
    inward = group.direction is Direction.IN
    patience = ctx.settings.transfers.no_progress_timeout

    def seconds(transfer: Transfer) -> float:
        return patience if tool.features.reports_progress else transfer.timeout or inf

    def describe(transfer: Transfer) -> str:
        what = (
            f"no byte moved for {patience} s (transfers.no_progress_timeout)"
            if tool.features.reports_progress
            else f"not done within {transfer.timeout:.0f} s for {transfer.size} B"
        )
        far = transfer.url or (ctx.input_dir if inward else ctx.output_dir) or ctx.pilot_home
        one, other = (far, transfer.local) if inward else (transfer.local, far)
        return f"{transfer.lfn}: {group.direction.value} by {name}: {what}; do {one} and {other} answer?"

    return StallRule(seconds, 1151 if inward else 1152, describe)


def _move_one(
    tool: CopyTool, name: str, transfer: Transfer, token: CancelToken, progress: Progress
) -> TransferResult | PilotException:
    """Move one file; whatever happens comes back as a value."""
    inward = transfer.direction is Direction.IN
    try:
        return (tool.copy_in if inward else tool.copy_out)(transfer, token, progress)
    except PilotException as exc:
        return exc
    except Exception as exc:  # a fault of a tool must cost its file only, and must reach the server with its text
        logger.exception("unexpected error in copytool %s for %s", name, transfer.lfn)
        kind = StageInFailure if inward else StageOutFailure
        return kind(f"{transfer.lfn}: copytool {name}: {type(exc).__name__}: {exc}")


def _note(
    name: str,
    transfer: Transfer,
    outcome: TransferResult | PilotException,
    seconds: float,
    began: float,
    ctx: StagingContext,
) -> None:
    """Log a success in one line, and record every attempt."""
    failure = outcome if isinstance(outcome, PilotException) else None
    result = outcome if isinstance(outcome, TransferResult) else None
    if result is not None:
        logger.info(
            "%s of %s: %d B in %.3f s by %s%s%s",
            transfer.direction.value,
            transfer.lfn,
            result.size,
            seconds,
            name,
            "".join(f" {kind}:{value}" for kind, value in result.checksum.items()),
            "" if result.verified else " (no checksum in the catalogue, only the size is verified)",
        )
    _record(
        ctx,
        TransferRecord(
            direction=transfer.direction.value,
            lfn=transfer.lfn,
            tool=name,
            endpoint=result.endpoint if result else transfer.endpoint,
            url=result.url if result else transfer.url,
            size=result.size if result else transfer.size,
            started=began,
            seconds=seconds,
            code=failure.code if failure else 0,
            state=str(getattr(failure, "state", "COPY_ERROR")) if failure else "DONE",
            text=failure.detail if failure else "OK",
        ),
    )


def _record(ctx: StagingContext, record: TransferRecord) -> None:
    try:
        ctx.record(record)
    except Exception as exc:  # noqa: BLE001 - book-keeping never costs a transfer
        logger.warning("transfer of %s could not be recorded: %s: %s", record.lfn, type(exc).__name__, exc)


def local_directory(spec: FileSpec, default: Path) -> Path:
    """Return where the file lies or is put on this node."""
    return spec.workdir or default
