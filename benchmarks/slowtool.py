"""A copytool for benchmarks: mv, with a remote storage's pause (BENCH_STORING, s) before each file is stored."""

from __future__ import annotations

import os

from pilot.copytool.base import Transfer, TransferResult
from pilot.copytool.mv import MoveTool
from pilot.util.cancel import CancelToken
from pilot.util.checksum import Progress


class SlowTool(MoveTool):
    """Stores slowly; reading is as fast as ever."""

    def copy_out(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        """Wait, then copy."""
        token.wait(float(os.environ["BENCH_STORING"]))
        return super().copy_out(transfer, token, progress)
