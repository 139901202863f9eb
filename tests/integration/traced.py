"""A copytool of local files whose attempts are traced, and which stops at the gates of gated.py."""

from __future__ import annotations

import os
from dataclasses import replace

from gated import GatedTool

from pilot.copytool.base import Features, Transfer, TransferResult
from pilot.util.cancel import CancelToken
from pilot.util.checksum import Progress


class TracedTool(GatedTool):
    """TRACED_URL is what it says of where a file was read from."""

    name = "traced"

    @property
    def features(self) -> Features:
        return replace(super().features, traced=True)

    def copy_in(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        result = super().copy_in(transfer, token, progress)
        return replace(result, url=os.environ.get("TRACED_URL") or f"root://se.example.org//{transfer.lfn}")
