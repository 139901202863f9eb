"""A copytool for a storage of 100 kB/s; it gives way to the cancellation of a transfer."""

from __future__ import annotations

from pilot.copytool.base import Transfer, TransferResult
from pilot.copytool.mv import MoveTool
from pilot.util.cancel import CancelToken
from pilot.util.checksum import Progress

RATE = 100_000.0


class SlowTool(MoveTool):
    """The mv copytool, at that rate."""

    name = "slow"

    def copy_in(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        result = super().copy_in(transfer, token, progress)
        token.wait(result.size / RATE)
        token.check()
        return result

    def copy_out(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        result = super().copy_out(transfer, token, progress)
        token.wait(result.size / RATE)
        token.check()
        return result
