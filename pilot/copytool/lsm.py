"""lsm: the site's own commands ``lsm-get`` and ``lsm-put`` (local site mover).

```
 in    lsm-get URL <lfn>.part --> size and checksum of the catalogue compared here --> <lfn>
 out   lsm-put --size BYTES -t SPACE_TOKEN --checksum adler32:HEX --guid GUID <lfn> URL      (the site compares)
```
"""

from __future__ import annotations

import os
from typing import NoReturn, Sequence

from pilot.common.exception import MiddlewareImportFailure
from pilot.copytool.base import (
    CopyTool,
    Direction,
    Features,
    Transfer,
    TransferFailure,
    TransferResult,
    failure_of,
    verify_local,
)
from pilot.copytool.causes import transfer_failure
from pilot.util.cancel import CancelToken
from pilot.util.checksum import Progress, file_checksums
from pilot.util.command import Finished, run_command
from pilot.util.copying import placed

_NOT_STARTED = (126, 127)
"""Exit codes of a shell for a command that cannot be run, or is not there."""


class LsmTool(CopyTool):
    """Copies with the site's commands."""

    name = "lsm"
    summary = "the site's own commands lsm-get and lsm-put"
    library = "the commands `lsm-get` and `lsm-put` of the site (`copytools: {lsm: {setup: FILE}}` is sourced first)"

    @property
    def features(self) -> Features:
        """The commands tell nothing while they run."""
        return Features(schemes=("srm", "gsiftp", "root"), needs_replicas=True, needs_proxy=True, third_party=True)

    def copy_in(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        """Have the site fetch one file and compare it with the catalogue."""
        try:
            with placed(transfer.local) as part:
                self._run(["lsm-get", transfer.url, str(part)], transfer, token, progress)
                size, sums, verified = verify_local(transfer, part, token, progress)
        except OSError as exc:
            raise failure_of(exc, transfer, transfer.local) from exc
        scheme = transfer.url.partition(":")[0]
        return TransferResult(size, sums, transfer.url, transfer.endpoint, verified=verified, protocol=scheme)

    def copy_out(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        """Have the site store one file."""
        space_token = self._space_token(transfer)
        kind = self.config.checksum_type
        try:
            size = os.stat(transfer.local).st_size
        except OSError as exc:
            raise failure_of(exc, transfer, transfer.local) from exc
        sums = {name: value for name, value in transfer.checksum.items() if name == kind}
        if not sums or size != transfer.size:
            size, sums = file_checksums(transfer.local, (kind,), token, progress)
        command = ["lsm-put", "--size", str(size), "-t", space_token, "--checksum", f"{kind}:{sums[kind]}"]
        if transfer.guid:
            command += ["--guid", transfer.guid]
        self._run([*command, str(transfer.local), transfer.url], transfer, token, progress)
        scheme = transfer.url.partition(":")[0]
        return TransferResult(size, sums, transfer.url, transfer.endpoint, protocol=scheme)

    def _space_token(self, transfer: Transfer) -> str:
        """Return the endpoint's space token.

        Raises:
            TransferFailure: 1137, it has none.
        """
        storage = self.config.storage([transfer.endpoint]).get(transfer.endpoint)
        if storage is None or not storage.token:
            raise TransferFailure(
                f"copy_out() failed to resolve token value for ddmendpoint={transfer.endpoint} ({transfer.lfn}): "
                "lsm-put needs the space token of the endpoint, set it in CRIC", code=1137,
            )  # fmt: skip
        return storage.token

    def _run(self, command: Sequence[str], transfer: Transfer, token: CancelToken, progress: Progress) -> None:
        setup = self.config.option("setup")
        try:
            done = run_command(
                command, env=self.config.environ, cwd=self.config.workdir, token=token,
                timeout=transfer.timeout or None, on_output=lambda: progress(0), setup=setup,
            )  # fmt: skip
        except OSError as exc:
            raise MiddlewareImportFailure(
                f"copytool lsm: {command[0]} cannot be started ({exc.strerror or exc}): is it in PATH, or made known "
                "by the file in copytools.lsm.setup of the queue?"
            ) from exc
        if done.code or done.timed_out:
            self._refuse(command[0], setup, transfer, done)

    def _refuse(self, command: str, setup: str, transfer: Transfer, done: Finished) -> NoReturn:
        inward = transfer.direction is Direction.IN
        one, other = (transfer.url, transfer.local) if inward else (transfer.local, transfer.url)
        about = f"{transfer.lfn}: {command} {one} -> {other}"
        if done.timed_out:
            text = f"time-out: not done within {transfer.timeout:.0f} s for {transfer.size} B"
            failure = transfer_failure(transfer.direction, text, about=about)
        elif done.code in _NOT_STARTED and setup:
            raise MiddlewareImportFailure(f"copytool lsm: {command} cannot be started after {setup}: {done.output}")
        else:
            # both: what the setup file says stands on stderr, and lsm-put may explain itself on stdout
            text = f"{done.output or 'no text'} (exit code {done.code})"
            failure = transfer_failure(transfer.direction, text, about=about)
        # nobody but the site's command can look there, or remove what it left
        failure.remains = not inward and failure.code not in (1221, 1103)
        raise failure
