"""The order book of one direction: which files go together, and what the planner asks about each of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Sequence

from pilot.common.exception import PilotException
from pilot.copytool.base import CopyTool, Direction, Transfer, TransferResult
from pilot.copytool.registry import canonical_name
from pilot.info.filespec import FileSpec
from pilot.staging.context import StagingContext

MAX_TIMEOUT = 10800
"""Seconds."""


@dataclass
class Group:
    """Files that go the same way together.

    ``order`` makes the order for one file with one tool, whose name in the queue comes last (it may raise); ``settle``
    writes a result to the file.
    """

    direction: Direction
    files: Sequence[FileSpec]
    tools: Sequence[str]
    order: Callable[[FileSpec, CopyTool, str], Transfer]
    settle: Callable[[FileSpec, Transfer, TransferResult], None]
    before: Callable[[CopyTool, Sequence[Transfer]], None] = field(default=lambda _tool, _orders: None)
    """Checks over all orders before the first copy with a tool (sizes, space)."""
    begin: Callable[[CopyTool, Transfer], None] = field(default=lambda _tool, _order: None)
    """Check right before the copy of a file (space: others fill the disk, too)."""
    resolve: Callable[[CopyTool, str, Sequence[FileSpec]], None] = field(default=lambda _tool, _name, _files: None)
    """What has to be known of all files before the orders are made (replicas)."""
    repeats: int = 1
    """Attempts per file and tool when there is no other replica to turn to."""
    mismatch: Callable[[Transfer, PilotException], bool] = field(default=lambda _transfer, _failure: False)
    """Told of a wrong checksum; True = fetch the same replica again to be sure."""
    is_log: bool = False


def transfer_timeout(base: int, size: int) -> float:
    """Seconds that a transfer of ``size`` bytes may take: about 1 MB/s on top of ``base``, at most 3 h."""
    return float(min(base + size // 1_000_000, MAX_TIMEOUT))


def schemes_for(ctx: StagingContext, tool: CopyTool, name: str, activities: Sequence[str]) -> list[str]:
    """Return the URL schemes that a tool may use, best first: the queue's for its name, else the tool's own.

    Args:
        ctx: for the queue.
        tool: the tool; its own schemes count where the queue names none. Empty = any.
        name: of the tool, as the queue has it (``gfalcopy`` counts as ``gfal``).
        activities: first one with schemes wins, then ``default``.
    """
    return ctx.queue.schemas_for(canonical_name(name), activities) or list(tool.features.schemes)


def local_directory(spec: FileSpec, default: Path) -> Path:
    """Return where the file lies or is put on this node."""
    return spec.workdir or default
