"""What tools for storages behind a URL have in common: verified downloads, uploads that look at what exists already.

```
 in    URL --> <lfn>.part --> size, checksum of the catalogue compared here --> <lfn>
 out   <lfn> --> URL     the storage's checksum compared with ours
         exists?  same size and checksum = stored already;  another content = 1221, or removed first where allowed
         failed, broken off?  our partial file is removed; where that fails the next attempt may replace it
```
A tool works with a client library in a helper process (pilot/copytool/worker), or with the client's commands.
"""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Mapping, NamedTuple, Optional

from pilot.common.exception import MiddlewareImportFailure, PilotException
from pilot.copytool.base import (
    CopyTool,
    Direction,
    ToolConfig,
    Transfer,
    TransferFailure,
    TransferResult,
    byte_events,
    failure_of,
    verify_local,
)
from pilot.copytool.causes import transfer_failure
from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.checksum import ChecksumFailure, Progress, file_checksums, same_checksum
from pilot.util.command import Finished, run_command
from pilot.util.copying import placed
from pilot.util.helper import HelperFailure

logger = logging.getLogger(__name__)

QUESTION_LIMIT = 60.0
"""Seconds for a question to a server (stat, remove); a checksum gets ``CHECKSUM_LIMIT``."""
CHECKSUM_LIMIT = 1800.0
TIDY_LIMIT = 3.0
"""Seconds that removing a partial file may take after a cancellation."""
_BEING_WRITTEN = ("[3003]", "HTTP 423")
"""In the text of a server: another one writes this file just now."""
_SPOILT = frozenset({1103, 1141, 1172})
"""What was stored is not there any more, or is something else: a server may remember the checksum of a file of that
name, or somebody else has written, or cleaned up, at the same time. Worth a second upload."""


class Copy(NamedTuple):
    """One copy between this node and a storage."""

    transfer: Transfer
    local: Path
    size: int
    """Bytes, 0 = unknown."""
    checksum: str = ""
    """``adler32:<hex>`` that the storage has to confirm after an upload."""

    @property
    def upward(self) -> bool:
        """True for an upload."""
        return self.transfer.direction is Direction.OUT


class RemoteTool(CopyTool):
    """A tool with a client library or its commands."""

    worker: ClassVar[str]
    """Module of pilot/copytool/worker."""
    environ_defaults: ClassVar[Mapping[str, str]] = {}
    refuses: ClassVar[Mapping[str, str]] = {}
    """Character that no file name may have -> why."""

    def __init__(self, config: ToolConfig) -> None:
        """Decide between library and commands; a queue's ``setup`` is for commands."""
        super().__init__(config)
        self._setup = config.option("setup")
        self._env = {**self.environ_defaults, **config.environ}
        self._command = bool(self._setup) or config.option("use") == "command"
        if not self._command:
            problem = config.helpers.missing(self.worker, self._env)
            if problem:
                self._command = True
                self._find_commands(problem)

    # --- what a tool adds --------------------------------------------------------------------------------------------

    @abstractmethod
    def _find_commands(self, problem: str) -> None:
        """See that the commands are here, since the library is not (``problem`` says why).

        Raises:
            MiddlewareImportFailure: 1342, with what to install.
        """

    @abstractmethod
    def _command_line(self, copy: Copy) -> list[str]:
        """Return the command for one copy."""

    @abstractmethod
    def _ask_by_command(self, op: str, url: str, token: CancelToken, limit: float, kind: str) -> dict[str, Any]:
        """Answer ``stat`` ({size}), ``checksum`` ({kind: hex}) or ``remove`` ({}) about the file at ``url``.

        Raises:
            HelperFailure: as the library's: fact ``missing`` is True when there is no such file.
        """

    def _arguments(self, copy: Copy) -> dict[str, Any]:
        """Return the arguments of the worker's operation ``copy``."""
        transfer = copy.transfer
        return {"url": self._remote_url(transfer), "local": str(copy.local), "upload": copy.upward, "size": copy.size,
                "checksum": copy.checksum, "timeout": int(transfer.timeout)}

    def _remote_url(self, transfer: Transfer) -> str:
        """Return the URL as the client wants it."""
        return transfer.url

    # --- stage-in ----------------------------------------------------------------------------------------------------

    def copy_in(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        """Fetch one file and compare it with the catalogue."""
        self._check_name(transfer)
        try:
            with placed(transfer.local) as part:
                self._copy(Copy(transfer, part, transfer.size), token, progress)
                size, sums, verified = verify_local(transfer, part, token, progress)
        except OSError as exc:
            raise failure_of(exc, transfer, transfer.local) from exc
        scheme = transfer.url.partition(":")[0]
        return TransferResult(size, sums, transfer.url, transfer.endpoint, verified=verified, protocol=scheme)

    # --- stage-out ---------------------------------------------------------------------------------------------------

    def copy_out(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        """Store one file; the storage computes its checksum from what has arrived."""
        self._check_name(transfer)
        kind = self.config.checksum_type
        size, sums = transfer.size, {name: value for name, value in transfer.checksum.items() if name == kind}
        try:
            if not sums or os.stat(transfer.local).st_size != size:
                size, sums = file_checksums(transfer.local, (kind,), token, progress)
        except OSError as exc:
            raise failure_of(exc, transfer, transfer.local) from exc
        scheme = transfer.url.partition(":")[0]
        result = TransferResult(size, sums, transfer.url, transfer.endpoint, protocol=scheme)
        copy = Copy(transfer, transfer.local, size, f"{kind}:{sums[kind].zfill(8)}")
        try:
            self._copy(copy, token, progress)
        except TransferFailure as exc:
            if exc.code not in (1221, *_SPOILT) or (exc.code in _SPOILT and not self._is_unchanged(copy, token)):
                raise
            if self._same_there(copy, token, exc):
                return replace(result, existed=True)
            if exc.code == 1221 and not transfer.overwrite:
                raise
            logger.warning("%s: %s: uploaded once more", transfer.lfn, exc.diagnosis)
            # removed and written anew, not written over: a server answers with the checksum that it remembers of the
            # old file when the new one came in the same second
            self._remove(copy, token)
            self._copy(copy, token, progress)
        return result

    def _is_unchanged(self, copy: Copy, token: CancelToken) -> bool:
        """True when the local file is still what its checksum says: then the trouble is on the other side."""
        kind, _, value = copy.checksum.partition(":")
        try:
            return file_checksums(copy.local, (kind,), token)[1][kind] == value
        except ChecksumFailure:
            return False

    def _same_there(self, copy: Copy, token: CancelToken, failure: TransferFailure) -> bool:
        """True when the destination holds our content already (a lost answer, or another pilot was faster)."""
        if any(sign in failure.detail for sign in _BEING_WRITTEN):
            return False  # a server that is asked for the checksum of half a file remembers that
        url = self._remote_url(copy.transfer)
        kind, _, value = copy.checksum.partition(":")
        try:
            if self._ask("stat", url, token).get("size") != copy.size:
                return False
            return same_checksum(str(self._ask("checksum", url, token, kind=kind).get(kind, "")), value)
        except (HelperFailure, MiddlewareImportFailure, OSError):
            return False

    def _remove(self, copy: Copy, token: CancelToken) -> None:
        try:
            self._ask("remove", self._remote_url(copy.transfer), token)
        except HelperFailure as exc:
            if not exc.facts.get("missing"):
                failure = self.failure(copy.transfer, f"the file at the destination cannot be removed: {exc.text}")
                failure.remains = True
                raise failure from exc

    # --- library or command ------------------------------------------------------------------------------------------

    def _copy(self, copy: Copy, token: CancelToken, progress: Progress) -> None:
        if self._command:
            self._run_copy(copy, token, progress)
            return
        try:
            self.config.helpers.call(
                self.worker, "copy", self._arguments(copy), env=self._env, token=token, on_event=byte_events(progress)
            )
        except HelperFailure as exc:
            raise self.failure(copy.transfer, exc.text, exc.facts) from exc

    def _ask(
        self, op: str, url: str, token: CancelToken, *, kind: str = "", limit: float = QUESTION_LIMIT
    ) -> dict[str, Any]:
        """Ask the storage about the destination."""
        if op == "checksum":
            limit = CHECKSUM_LIMIT
        if self._command:
            return self._ask_by_command(op, url, token, limit, kind)
        args = {"url": url, "type": kind, "timeout": int(limit)}
        return self.config.helpers.call(self.worker, op, args, env=self._env, token=token)

    def failure(self, transfer: Transfer, text: str, facts: Optional[Mapping[str, Any]] = None) -> TransferFailure:
        """Make the error for what the library or command said."""
        facts = facts or {}
        inward = transfer.direction is Direction.IN
        one, other = (transfer.url, transfer.local) if inward else (transfer.local, transfer.url)
        trouble = self.config.credential_trouble()
        failure = transfer_failure(
            transfer.direction, text, about=f"{transfer.lfn}: {self.name} {one} -> {other}",
            xrootd=int(facts.get("xrootd") or 0), number=int(facts.get("errno") or 0),
            no_credential=not self.config.has_credential(),
        )  # fmt: skip
        if trouble and failure.code in (1163, 1338, 1383):
            failure = TransferFailure(f"{failure.detail} ({trouble})", code=failure.code, state=failure.state)
        failure.remains = bool(facts.get("remains"))
        return failure

    def _check_name(self, transfer: Transfer) -> None:
        for char, why in self.refuses.items():
            if char in transfer.lfn:
                inward = transfer.direction is Direction.IN
                raise TransferFailure(f"{transfer.lfn}: no file name with {char!r} by {self.name}: {why}",
                                      code=1099 if inward else 1371)

    # --- commands ----------------------------------------------------------------------------------------------------

    def _run_copy(self, copy: Copy, token: CancelToken, progress: Progress) -> None:
        url = self._remote_url(copy.transfer)
        if copy.upward:
            self._refuse_existing(copy, url, token)
        try:
            self._run_to_success(copy, token, progress)
        except TransferFailure as exc:
            if copy.upward and exc.code != 1221:
                exc.remains = not self._tidy(url, CancelToken(token), QUESTION_LIMIT)
            raise
        except CancelledError:
            if copy.upward:
                self._tidy(url, CancelToken(), TIDY_LIMIT)
            raise

    def _refuse_existing(self, copy: Copy, url: str, token: CancelToken) -> None:
        """What lies there before we begin is not ours to remove when our copy fails."""
        try:
            self._ask("stat", url, token)
        except HelperFailure as exc:
            if exc.facts.get("missing"):
                return
            raise self.failure(copy.transfer, exc.text, exc.facts) from exc
        raise self.failure(copy.transfer, "file exists")

    def _run_to_success(self, copy: Copy, token: CancelToken, progress: Progress) -> None:
        transfer = copy.transfer
        line = self._command_line(copy)
        done = self.run(line, token, progress, transfer.timeout or None)
        if done.timed_out:
            raise self.failure(transfer, f"time-out: not done within {transfer.timeout:.0f} s for {copy.size} B")
        if done.code in (126, 127):
            raise MiddlewareImportFailure(f"{line[0]} cannot be started: {done.output[-300:]}")
        if done.code:
            raise self.failure(transfer, done.output or f"exit code {done.code}", self._facts_of(done))

    def _run_environ(self) -> Mapping[str, str]:
        """Return the environment of the next command."""
        return self._env

    def _facts_of(self, done: Finished) -> dict[str, Any]:
        """What the exit code tells."""
        return {}

    def _tidy(self, url: str, token: CancelToken, limit: float) -> bool:
        """Remove the partial file of ours; True when nothing is left."""
        try:
            self._ask("remove", url, token, limit=limit)
        except HelperFailure as exc:
            return bool(exc.facts.get("missing"))
        except (PilotException, OSError):
            return False
        return True

    def run(self, argv: list[str], token: CancelToken, progress: Progress, limit: Optional[float]) -> Finished:
        """Run a command of the client after the queue's ``setup``.

        Raises:
            MiddlewareImportFailure: 1342, it is not here.
        """
        try:
            return run_command(
                argv, env=self._run_environ(), cwd=self.config.workdir, token=token, timeout=limit,
                on_output=lambda: progress(0), setup=self._setup,
            )  # fmt: skip
        except FileNotFoundError as exc:
            raise MiddlewareImportFailure(f"copytool {self.name}: the command {argv[0]} is not here: {exc}") from exc
