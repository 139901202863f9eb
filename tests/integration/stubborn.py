"""Copytools that behave badly in the process of a transfer script; gates as in gated.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from gated import stop_at

from pilot.copytool.base import Transfer, TransferResult
from pilot.copytool.mv import MoveTool
from pilot.util.cancel import CancelToken
from pilot.util.checksum import Progress
from pilot.util.copying import part_name


class StubbornTool(MoveTool):
    """Leaves half a file, a child in a group of its own that ignores SIGTERM, and does not hear of the end itself."""

    def copy_in(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        signal_free = ["/bin/bash", "-c", "trap '' TERM; echo ready; while true; do read -t 3600 < /dev/zero; done"]
        child = subprocess.Popen(signal_free, stdout=subprocess.PIPE, preexec_fn=os.setpgrp)
        assert child.stdout is not None
        child.stdout.readline()
        part_name(transfer.local).write_bytes(b"half")
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        stop_at("stubborn")
        time.sleep(3600)
        raise AssertionError("nobody has ended this")


class CrashingTool(MoveTool):
    """The client library takes the process with it, after some last words."""

    def copy_in(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        sys.stderr.write("libworse: assertion 'never' failed\n")
        sys.stderr.flush()
        os._exit(7)

    def copy_out(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        if transfer.is_log:
            return super().copy_out(transfer, token, progress)
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(3600)
        raise AssertionError("nobody has ended this")
