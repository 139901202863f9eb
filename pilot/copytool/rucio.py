"""rucio: files of any storage that Rucio knows, through its client library in a helper process.

```
 in    replica's URL --> <private directory>/<n>.part --> checksum (client) --> size, rename (here) --> <lfn>
 out   <lfn> --> <pfn>.rucio.upload --> size, checksum (client) --> <pfn>; nothing is registered, the server does that
```
One order holds all files that this call has to move; what became of each is told at once, and when the helper dies
only what has no outcome is ordered again.
"""

from __future__ import annotations

import re
from typing import Any, Callable, Mapping, Optional, Sequence

from pilot.common.exception import MiddlewareImportFailure, PilotException
from pilot.copytool.base import (
    CopyTool,
    Direction,
    Features,
    Outcome,
    ToolConfig,
    Transfer,
    TransferFailure,
    TransferResult,
    wanted_checksum,
)
from pilot.copytool.catalogue import LIBRARY, client_environ, innermost, library_missing, login_failure
from pilot.copytool.causes import transfer_failure
from pilot.copytool.rucio_batch import Batch, Done, Inward, Outward, arrived_short
from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.checksum import Progress
from pilot.util.helper import HelperFailure, HelperLost


class RucioTool(CopyTool):
    """Downloads replicas, uploads outputs; the protocols are Rucio's."""

    name = "rucio"
    summary = "any storage that Rucio knows, through its client library"
    library = "`rucio-clients`, with `gfal2` for http(s), davs and most root:// storage"

    def __init__(self, config: ToolConfig) -> None:
        """Look whether the library is here."""
        super().__init__(config)
        self._env = client_environ(config.environ, config.rucio_host)
        problem = config.helpers.missing(LIBRARY, self._env)
        if problem:
            raise library_missing(problem)

    @property
    def features(self) -> Features:
        """All schemes: what is possible is the client's matter."""
        return Features(
            bulk=True,
            needs_replicas=True,
            needs_protocols_out=False,
            needs_proxy=True,
            needs_token=True,
            reports_progress=True,
        )

    def copy_in(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        """Fetch one file."""
        return self._single(transfer, token, progress)

    def copy_out(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        """Store one file."""
        return self._single(transfer, token, progress)

    def _single(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        outcomes: list[Outcome] = []
        self.copy_many([transfer], token, progress, lambda _transfer, outcome: outcomes.append(outcome))
        if isinstance(outcomes[0], PilotException):
            raise outcomes[0]
        return outcomes[0]

    def copy_many(self, transfers: Sequence[Transfer], token: CancelToken, progress: Progress, done: Done) -> None:
        """Move the files one after the other in one order."""
        inward = bool(transfers) and transfers[0].direction is Direction.IN
        batch = Inward(self, transfers, done) if inward else Outward(self, transfers, done)
        with batch:
            batch.begin()
            try:
                while batch.items:
                    try:
                        self._order(batch, token, progress)
                    except HelperLost as exc:
                        if not batch.blame(exc):
                            raise
            except CancelledError:
                batch.give_back()
                raise

    def _order(self, batch: Batch, token: CancelToken, progress: Progress) -> None:
        told = 0

        def tell(event: Mapping[str, Any]) -> None:
            nonlocal told
            progress(0)
            if "done" in event:
                batch.settle(event)
            elif "begin" in event:
                batch.begun = int(event["begin"])
            elif "copying" in event:
                batch.copying(int(event["copying"]), bool(event.get("direct")))
            else:
                count = int(event.get("bytes", 0))
                progress(max(0, count - told))
                told = count

        # the list loses what is settled: an order that is repeated holds the rest
        args = {"items": batch.items, "pcache": _truth(self.config.options.get("use_pcache"))}
        operation = "download" if batch.direction is Direction.IN else "upload"
        try:
            self.ask(operation, args, token, tell)
        except HelperFailure as exc:
            token.check()
            batch.settle_rest({**exc.facts, "reason": exc.text})

    def ask(
        self,
        operation: str,
        args: Mapping[str, Any],
        token: CancelToken,
        on_event: Optional[Callable[[Mapping[str, Any]], None]] = None,
    ) -> Mapping[str, Any]:
        """Have the helper do something."""
        try:
            return self.config.helpers.call(LIBRARY, operation, args, env=self._env, token=token, on_event=on_event)
        except MiddlewareImportFailure as exc:
            raise library_missing(exc.detail) from exc

    def failure(self, transfer: Transfer, facts: Mapping[str, Any]) -> PilotException:
        """Make the error of one file from what the client said of it.

        Args:
            transfer: the order.
            facts: ``state`` and ``reason`` of the client's last trace, ``said`` and ``errno`` of gfal2 or a command.
        """
        reason = " ".join(str(facts.get("reason") or "").split())
        known = arrived_short(transfer, facts) or _by_state(transfer, str(facts.get("state") or ""), reason)
        if known is None:
            login = login_failure(facts, transfer.direction)
            if facts.get("kind") == "name":
                known = TransferFailure(reason, code=1371)
            elif login:
                known = TransferFailure(login[1], code=login[0])
            elif "Missing dependency" in reason:
                return MiddlewareImportFailure(
                    f"{self.where(transfer)}, {innermost(reason)}: install it beside rucio-clients, or set it up with "
                    "lsetup rucio"
                )
            else:
                known = transfer_failure(
                    transfer.direction, self._words(facts, reason), number=int(facts.get("errno") or 0),
                    no_credential=not self.config.has_credential(),
                )  # fmt: skip
        failure = self.at(transfer, known)
        failure.remains = bool(facts.get("remains"))
        return failure

    @staticmethod
    def where(transfer: Transfer) -> str:
        """``scope:name from RSE``, as the server gets it."""
        inward = transfer.direction is Direction.IN
        return f"{transfer.scope}:{transfer.lfn} {'from' if inward else 'to'} {transfer.endpoint}"

    def at(self, transfer: Transfer, failure: TransferFailure) -> TransferFailure:
        """The same failure with file and endpoint in its text."""
        return TransferFailure(f"{self.where(transfer)}, {failure.detail}", code=failure.code, state=failure.state)

    @staticmethod
    def _words(facts: Mapping[str, Any], reason: str) -> str:
        """The library's words, and those that it has dropped."""
        said = " ".join(str(facts.get("said") or "").split())
        words = innermost(reason)
        if said in words or words in said:
            return max(words, said, key=len)
        return f"{words.rstrip('.')}: {said}"


def _by_state(transfer: Transfer, state: str, reason: str) -> Optional[TransferFailure]:
    """What the client's state says for sure."""
    inward = transfer.direction is Direction.IN
    if state == "FAIL_VALIDATE":
        kind = next(iter(wanted_checksum(transfer)), "adler32")
        local = re.search(r"Local checksum: (\w+)", reason)
        return TransferFailure(
            f"checksum verification failed for LFN={transfer.lfn}: checksum (catalog)={transfer.checksum.get(kind, '')}"
            f" != checksum (local)={local.group(1) if local else 'unknown'}",
            code=1145 if kind == "md5" else 1171,
            state="MD5_MISMATCH" if kind == "md5" else "AD_MISMATCH",
        )
    if state == "FILE_NOT_FOUND":
        return TransferFailure(f"no replica: {reason}", code=1331, state="MISSING_INPUT")
    if not inward and reason.lower().startswith("file already exists"):
        return TransferFailure(reason, code=1221, state="FILE_EXISTS")
    if not inward and "Checksum mismatch" in reason:
        return TransferFailure(reason, code=1172, state="AD_MISMATCH")
    return None


def _truth(value: object) -> bool:
    return value is True or str(value).lower() in ("true", "1", "yes")
