"""Plug-ins that stop at the gates of harness.Farm (directory PILOT_TEST_GATES), so that tests can act in any stage.

Gates that do not exist are passed. Experiment: ``sanity``, ``validation``, ``setup`` (of the payload), ``reporting``.
Copytool: ``copyin``, ``copyout``, ``copylog``; it gives way to the cancellation of a transfer. See Farm.start_gated.
"""

from __future__ import annotations

import os
import select
from collections.abc import Mapping
from pathlib import Path
from typing import Optional

from pilot.copytool.base import Transfer, TransferResult
from pilot.copytool.mv import MoveTool
from pilot.info.job import Job
from pilot.info.queuedata import QueueData
from pilot.user.generic import GenericExperiment
from pilot.util.cancel import CancelToken
from pilot.util.checksum import Progress


def stop_at(name: str, token: Optional[CancelToken] = None) -> None:
    """Arrive at a gate and wait until it opens, or until ``token`` is cancelled (then CancelledError)."""
    directory = Path(os.environ["PILOT_TEST_GATES"])
    if not (directory / f"{name}.arrival").exists():
        return
    hold = os.open(directory / f"{name}.hold", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    woken, wake = os.pipe()
    if token is not None:
        token.on_cancel(lambda: os.close(wake))
    try:
        (directory / f"{name}.arrival").write_text(f"{os.getpid()}\n")
        ready, _, _ = select.select([hold, woken], [], [])
        if hold in ready:
            os.read(hold, 3)
    finally:
        os.close(hold)
        os.close(woken)
    if token is not None:
        token.check()


class GatedExperiment(GenericExperiment):
    """Stops in the hooks that mark the stages of a job."""

    name = "gated"

    def sanity_check(self) -> tuple[int, str]:
        stop_at("sanity")
        return 0, ""

    def verify_job(self, job: Job, queue: QueueData) -> list[tuple[int, str]]:
        stop_at("validation")
        return []

    def payload_environment(self, job: Job) -> Mapping[str, str]:
        stop_at("setup")
        return {}

    def job_metrics(self, job: Job, *, final: bool) -> str:
        if final:
            stop_at("reporting")
        return ""


class GatedTool(MoveTool):
    """The mv copytool with a stop before each copy."""

    def copy_in(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        stop_at("copyin", token)
        return super().copy_in(transfer, token, progress)

    def copy_out(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        stop_at("copylog" if transfer.is_log else "copyout", token)
        return super().copy_out(transfer, token, progress)
