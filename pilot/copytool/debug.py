"""debug: the outcome of a transfer is spelt by the file's name; for tests, and for operators who want to drill a queue.

The words between dots are looked at, in this order; all others are just part of the name:

```
 debug.<...>.root             success: stage-in makes up the content, stage-out reads the file and keeps nothing
 delay-<s>                    waits s seconds first (may be broken off); bytes 'move' all the time
 stall-<s>                    the same, but nothing moves: the watchdog sees a hanging transfer
 deaf-<s>                     the same, and it does not even listen when it is broken off
 size-<bytes>                 size of the made-up content; without it the catalogue's size, else 1 kB
 try-<n>                      the first n-1 attempts fail as 'fail' says (without one: 1099 or 1137)
 half                         half of the file is written, then it fails (1099, 1137)
 checksum                     one byte is wrong: 1171 (adler32) or 1145 (md5) in, 1172 or 1141 out
 exists                       another file lies at the destination: 1221
 fail-<code>                  fails with that pilot error code
 crash                        the helper process dies with SIGSEGV, as a client library does
 bug                          an exception that no tool should raise
```

Example: ``debug.delay-3.fail-1151.x.root``. The queue needs ``"copytools": {"debug": {}}`` and
``"acopytools": {"default": ["debug"]}``.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Callable, ClassVar, Optional

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
from pilot.util.cancel import CancelToken
from pilot.util.checksum import Progress, file_checksums
from pilot.util.copying import placed

BLOCK = 1 << 16
STEP = 0.2
"""Seconds between two signs of life of a delay."""
_LONGEST = 7 * 86400.0


class DebugTool(CopyTool):
    """Does what the file's name says."""

    name: ClassVar[str] = "debug"
    summary = "the file's name spells the outcome (drills and tests)"

    @property
    def features(self) -> Features:
        """As a tool of its own storage: no replicas, no protocols."""
        return Features(
            needs_protocols_out=False, needs_endpoint=False, reports_progress=True, direct_access=False, traced=False
        )

    def copy_in(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        """Make the file up, with the trouble that its name asks for."""
        words = Words(transfer.lfn)
        self._trouble(words, transfer, token, progress)
        size = words.number("size")
        size = transfer.size or 1000 if size is None else size
        try:
            with placed(transfer.local) as part:
                write_content(part, transfer.lfn, size // 2 if words.has("half") else size, wrong=words.has("checksum"),
                              token=token, progress=progress)
                if words.has("half"):
                    raise self._failure(transfer, f"broke off after {size // 2} of {size} B")
                found, sums, verified = verify_local(transfer, part, token, progress)
                if words.has("checksum") and not verified:
                    raise self._failure(transfer, "one byte is wrong, and there is no checksum to see it", 1171)
        except OSError as exc:
            raise failure_of(exc, transfer, transfer.local) from exc
        return TransferResult(found, sums, self._url(transfer), transfer.endpoint, verified=verified)

    def copy_out(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        """Read the file for its checksum, and throw it away, with the trouble that its name asks for."""
        words = Words(transfer.lfn)
        kind = self.config.checksum_type
        self._trouble(words, transfer, token, progress)
        try:
            size, sums = file_checksums(transfer.local, (kind,), token, progress)
        except OSError as exc:
            raise failure_of(exc, transfer) from exc
        if words.has("half"):
            raise self._failure(transfer, f"broke off after {size // 2} of {size} B")
        if words.has("checksum"):
            stored = f"{int(sums[kind], 16) ^ 1:0{len(sums[kind])}x}"
            code = 1172 if kind == "adler32" else 1141
            raise self._failure(transfer, f"stored {kind} {stored} != local {kind} {sums[kind]}", code)
        return TransferResult(size, sums, self._url(transfer), transfer.endpoint)

    def _trouble(self, words: Words, transfer: Transfer, token: CancelToken, progress: Progress) -> None:
        for word, listens, moves in (("delay", True, True), ("stall", True, False), ("deaf", False, False)):
            seconds = words.number(word)
            if seconds is not None:
                pause(float(seconds), token if listens else None, progress if moves else None)
        tries = words.number("try")
        if tries is not None and transfer.attempt >= tries:
            return
        code = words.number("fail")
        if code is not None or tries is not None:
            raise self._failure(transfer, f"the name asks for it (attempt {transfer.attempt})", code)
        if words.has("exists"):
            raise TransferFailure(self._text(transfer, "another file lies there"), code=1221, state="FILE_EXISTS")
        if words.has("crash"):
            self.config.helpers.call("crash", "crash", {}, env=self.config.environ, token=token)
        if words.has("bug"):
            raise RuntimeError("the name asks for a fault of the tool")

    @staticmethod
    def _url(transfer: Transfer) -> str:
        return transfer.url or f"debug://{transfer.endpoint or 'nowhere'}/{transfer.path or transfer.lfn}"

    def _text(self, transfer: Transfer, text: str) -> str:
        inward = transfer.direction is Direction.IN
        one, other = (self._url(transfer), transfer.local) if inward else (transfer.local, self._url(transfer))
        return f"{transfer.lfn}: debug {one} -> {other}: {text}"

    def _failure(self, transfer: Transfer, text: str, code: Optional[int] = None) -> TransferFailure:
        default = 1099 if transfer.direction is Direction.IN else 1137
        return TransferFailure(self._text(transfer, text), code=code or default)


class Words:
    """The words of a file name."""

    def __init__(self, lfn: str) -> None:
        self._words = lfn.split(".")

    def has(self, word: str) -> bool:
        """True when the word stands alone between dots."""
        return word in self._words

    def number(self, word: str) -> Optional[int]:
        """Return n of ``<word>-<n>``, None when there is none."""
        found = (part[len(word) + 1 :] for part in self._words if part.startswith(f"{word}-"))
        return next((int(text) for text in found if text.isdigit()), None)


def pause(seconds: float, token: Optional[CancelToken], progress: Optional[Progress]) -> None:
    """Let time pass; a token ends it, ``progress`` is told now and then that it goes on."""
    until = time.monotonic() + min(seconds, _LONGEST)
    wait: Callable[[float], object] = time.sleep if token is None else token.wait
    while (left := until - time.monotonic()) > 0:
        wait(min(left, STEP) if progress else left)
        if token is not None:
            token.check()
        if progress is not None:
            progress(1)


def write_content(
    path: Path, lfn: str, size: int, *, wrong: bool, token: CancelToken, progress: Progress
) -> None:
    """Write ``size`` bytes that depend on the name only; ``wrong``: the last one differs."""
    block = (lfn.encode("utf-8", "surrogateescape") + b"\n") * (BLOCK // (len(lfn) + 1) + 1)
    with open(path, "wb") as out:
        left = size
        while left > 0:
            token.check()
            piece = block[: min(left, BLOCK)]
            left -= len(piece)
            if wrong and not left:
                piece = piece[:-1] + bytes([piece[-1] ^ 1])
            out.write(piece)
            progress(len(piece))
