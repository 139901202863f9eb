"""The files of one order of the rucio copytool: what is asked of the helper, and what becomes of its answers."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Mapping, Optional, Sequence

from pilot.common.exception import PilotException
from pilot.copytool.base import (
    Direction,
    Outcome,
    Transfer,
    TransferFailure,
    TransferResult,
    check_checksum,
    check_size,
    failure_of,
    wanted_checksum,
)
from pilot.util.cancel import CancelToken
from pilot.util.copying import free_bytes
from pilot.util.helper import HelperFailure, HelperLost

if TYPE_CHECKING:
    from pilot.copytool.rucio import RucioTool

Done = Callable[[Transfer, Outcome], None]
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,180}")


def arrived_short(transfer: Transfer, facts: Mapping[str, Any]) -> Optional[TransferFailure]:
    """A file of another size fails as such; some clients do not notice when the disk is full."""
    arrived, free = int(facts.get("arrived", -1)), int(facts.get("free", -1))
    if transfer.direction is Direction.OUT or not transfer.size or arrived in (-1, transfer.size):
        return None
    if 0 <= free < transfer.size - arrived:
        return TransferFailure(
            f"No available space left on disk: {arrived} B of {transfer.size} B written to {transfer.local.parent}, "
            f"free: {free} B", code=1098, state="NO_SPACE",
        )  # fmt: skip
    return TransferFailure(f"size mismatch: catalog={transfer.size} B local={arrived} B", code=1099)


class Batch:
    """The files of one order: ``items`` are those without an outcome, by the index that their answers carry."""

    direction: Direction

    def __init__(self, tool: RucioTool, transfers: Sequence[Transfer], done: Done) -> None:
        self.tool = tool
        self.transfers = transfers
        self.done = done
        self.items: list[dict[str, Any]] = []
        self.begun = -1
        """Index of the file that is moved at present, or was the last one."""
        self._places: dict[Path, str] = {}

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_exc: object) -> None:
        for place in self._places.values():
            shutil.rmtree(place, ignore_errors=True)

    def private(self, parent: Path) -> str:
        """Return a directory below ``parent`` that goes with this order, whatever became of the helper.

        Raises:
            OSError: nothing can be written there.
        """
        if parent not in self._places:
            self._places[parent] = tempfile.mkdtemp(prefix=".rucio-", dir=parent)
        return self._places[parent]

    def begin(self) -> None:
        """Make the items; what cannot even begin is settled here."""
        for index, transfer in enumerate(self.transfers):
            try:
                item = self.item(index, transfer)
            except OSError as exc:
                self.done(transfer, failure_of(exc, transfer, transfer.local))
            except PilotException as exc:
                self.done(transfer, exc)
            else:
                did = {"index": index, "scope": transfer.scope, "name": transfer.lfn, "rse": transfer.endpoint}
                self.items.append({**did, "url": transfer.url, "timeout": transfer.timeout, **item})

    def item(self, index: int, transfer: Transfer) -> dict[str, Any]:
        """What only this direction needs."""
        raise NotImplementedError

    def result(self, transfer: Transfer, facts: Mapping[str, Any]) -> TransferResult:
        """Look at what the client has done."""
        raise NotImplementedError

    def copying(self, index: int, under_own_name: bool) -> None:
        """Bytes of this file are on their way, not under a temporary name first."""

    def _take(self, index: int) -> Optional[dict[str, Any]]:
        """Take the item of a file out of the order; None when it was settled before."""
        taken = next((item for item in self.items if item["index"] == index), None)
        if taken is not None:
            self.items.remove(taken)
        return taken

    def blame(self, lost: HelperLost) -> bool:
        """The helper died twice: the file that it was at fails; False when there was none."""
        item = self._take(self.begun)
        if item is None:
            return False
        transfer = self.transfers[self.begun]
        failure = TransferFailure(lost.detail, code=1099 if self.direction is Direction.IN else 1137)
        failure = self.tool.at(transfer, failure)
        self.after_loss(item, failure)
        self.done(transfer, failure)
        return True

    def after_loss(self, item: Mapping[str, Any], failure: TransferFailure) -> None:
        """Clean up after a helper that died."""

    def give_back(self) -> None:
        """The order was broken off: what was not begun is not to blame, unless nothing was."""
        for item in self.items if self.begun >= 0 else ():
            if item["index"] != self.begun:
                failure = TransferFailure("not begun")
                failure.untried = True
                self.done(self.transfers[item["index"]], failure)

    def settle_rest(self, facts: Mapping[str, Any]) -> None:
        """The order as a whole failed: no server, no login."""
        while self.items:
            transfer = self.transfers[self.items.pop(0)["index"]]
            self.done(transfer, self.tool.failure(transfer, facts))

    def settle(self, facts: Mapping[str, Any]) -> None:
        """Tell what became of a file; an order that is repeated does not hold it any more."""
        index = int(facts["done"])
        if self._take(index) is None:
            return
        transfer = self.transfers[index]
        try:
            outcome: Outcome = self.result(transfer, facts) if facts.get("ok") else self.tool.failure(transfer, facts)
        except OSError as exc:
            outcome = failure_of(exc, transfer, transfer.local)
        except PilotException as exc:
            outcome = exc
        self.done(transfer, outcome)


class Inward(Batch):
    """Downloads, each into a private directory beside its destination: what goes wrong leaves nothing behind."""

    direction = Direction.IN

    def item(self, index: int, transfer: Transfer) -> dict[str, Any]:
        kind = next(iter(wanted_checksum(transfer)), "")
        value = transfer.checksum[kind].strip().lower().rjust(8 if kind == "adler32" else 32, "0") if kind else ""
        plain = _PLAIN_NAME.fullmatch(transfer.lfn) is not None
        if not transfer.url and not plain:  # then the library makes the local name of it, wherever that leads
            raise self.tool.at(transfer, TransferFailure("a file with such a name takes the URL of a replica"))
        directory = os.path.join(self.private(transfer.local.parent), str(index))
        os.mkdir(directory)
        name = transfer.lfn if plain else "file"
        return {"directory": directory, "file": name, "kind": kind, "value": value}

    def result(self, transfer: Transfer, facts: Mapping[str, Any]) -> TransferResult:
        path = str(facts["path"])
        size, linked = os.stat(path).st_size, os.path.islink(path)  # some storages on disk are linked to
        short = arrived_short(transfer, {"arrived": size, "free": free_bytes(transfer.local.parent)})
        if short is not None:
            raise self.tool.at(transfer, short)
        os.replace(path, transfer.local)
        kind = next(iter(wanted_checksum(transfer)), "")
        return TransferResult(
            size, {kind: transfer.checksum[kind]} if kind else {}, transfer.url, transfer.endpoint,
            linked=linked, verified=bool(kind), protocol=str(facts.get("protocol") or transfer.url.partition(":")[0]),
        )  # fmt: skip


class Outward(Batch):
    """Uploads."""

    direction = Direction.OUT

    def item(self, index: int, transfer: Transfer) -> dict[str, Any]:
        size = os.stat(transfer.local).st_size
        if transfer.size and size != transfer.size:
            text = f"{transfer.local} has changed: {size} B now, {transfer.size} B when it was looked at"
            raise self.tool.at(transfer, TransferFailure(text, code=1137))
        return {
            "path": os.path.abspath(transfer.local),
            "place": self._room(transfer.local.parent),
            "guid": transfer.guid if ".root" in transfer.lfn else "",
            "overwrite": transfer.overwrite,
            "adler32": transfer.checksum.get("adler32", ""),
        }

    def _room(self, parent: Path) -> str:
        """For the library's summary; empty = the temporary directory, where nothing can be written beside outputs."""
        try:
            return self.private(parent)
        except OSError:
            return ""

    def copying(self, index: int, under_own_name: bool) -> None:
        for item in self.items:
            if item["index"] == index:  # should the helper die now, what lies there is ours
                item["copying"] = True
                item["overwrite"] = item["overwrite"] or under_own_name

    def after_loss(self, item: Mapping[str, Any], failure: TransferFailure) -> None:
        if item.get("copying"):
            try:
                failure.remains = not self.tool.ask("clean", {"item": item}, CancelToken()).get("clean")
            except (PilotException, HelperFailure):
                failure.remains = True

    def result(self, transfer: Transfer, facts: Mapping[str, Any]) -> TransferResult:
        size = int(facts["bytes"])
        check_size(transfer, size, facts["pfn"])
        sums = {**transfer.checksum, "adler32": str(facts["adler32"])}
        check_checksum(transfer, sums)
        if not facts.get("pfn"):
            raise TransferFailure(f"{transfer.scope}:{transfer.lfn} to {transfer.endpoint}, Rucio gives no URL for it")
        return TransferResult(
            size, sums, str(facts["pfn"]), transfer.endpoint, protocol=str(facts.get("protocol") or ""),
            existed=bool(facts.get("existed")),
        )  # fmt: skip
