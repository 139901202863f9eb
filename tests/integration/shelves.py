"""Copytools of a plug-in for tests of the planner: storage below ``file://`` endpoints, one class per kind of tool.

An endpoint whose directory holds a file ``DOWN`` does not answer. A stored file has the environment that the tool was
given beside it, as ``<lfn>.environ``. Some tools stop at the gate ``hang`` of the harness, each in the way of its kind.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Callable, Sequence
from urllib.parse import urlsplit

from pilot.copytool.base import CopyTool, Features, Outcome, Transfer, TransferFailure, TransferResult
from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.checksum import Progress, file_checksums
from pilot.util.command import run_command


class Shelf(CopyTool):
    """One file per call, by threads of the pilot."""

    name = "shelf"

    @property
    def features(self) -> Features:
        return Features(schemes=("file",), needs_protocols_in=True, traced=False)

    def _place(self, transfer: Transfer) -> Path:
        path = Path(urlsplit(transfer.url).path)
        for parent in path.parents:
            if (parent / "DOWN").exists():
                raise TransferFailure(f"{transfer.lfn}: {transfer.endpoint} does not answer", code=1324,
                                      state="SERVICE_ERROR")
        return path

    def copy_in(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        self.hold(transfer, token)
        shutil.copyfile(self._place(transfer), transfer.local)
        size, sums = file_checksums(transfer.local)
        return TransferResult(size, sums, transfer.url, transfer.endpoint)

    def copy_out(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        self.hold(transfer, token)
        target = self._place(transfer)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(transfer.local, target)
        target.with_name(f"{target.name}.environ").write_text(json.dumps(dict(self.config.environ)))
        size, sums = file_checksums(target)
        return TransferResult(size, sums, transfer.url, transfer.endpoint)

    def hold(self, transfer: Transfer, token: CancelToken) -> None:
        """Nothing stops this one."""


class Other(Shelf):
    """Another tool of the same kind."""

    name = "other"


class Thread(Shelf):
    """Stops in a thread of the pilot."""

    name = "thread"

    def hold(self, transfer: Transfer, token: CancelToken) -> None:
        from gated import stop_at

        stop_at("hang", token)


class Process(Shelf):
    """Stops in a command, whose children do not care for SIGTERM."""

    name = "process"

    @property
    def features(self) -> Features:
        return Features(schemes=("file",), needs_protocols_in=True, third_party=True, traced=False)

    def hold(self, transfer: Transfer, token: CancelToken) -> None:
        gates = os.environ["PILOT_TEST_GATES"]
        line = f"trap '' TERM; echo $$ > {gates}/hang.arrival; sleep 600 & read _ < {gates}/hang.hold"
        run_command(["bash", "-c", line], env=os.environ, cwd=self.config.workdir, token=token)


class Bulk(Thread):
    """Moves several files per call."""

    name = "bulk"

    @property
    def features(self) -> Features:
        return Features(schemes=("file",), needs_protocols_in=True, bulk=True, traced=False)

    def copy_many(self, transfers: Sequence[Transfer], token: CancelToken, progress: Progress,
                  done: Callable[[Transfer, Outcome], None]) -> None:
        for transfer in transfers:
            try:
                done(transfer, self.copy_in(transfer, token, progress))
            except CancelledError as exc:
                done(transfer, exc)


PLUGINS = {kind.name: f"shelves:{kind.__name__}" for kind in (Shelf, Other, Thread, Process, Bulk)}
