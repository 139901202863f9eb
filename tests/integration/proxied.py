"""Plug-ins for tests of payload proxies: an experiment whose user jobs want one, a copytool that tells what it got.

Stored files have the environment of their transfer beside them, as ``<name>.environ``.
"""

from __future__ import annotations

import json
from pathlib import Path

from pilot.copytool.base import Transfer, TransferResult
from pilot.copytool.mv import MoveTool
from pilot.info.job import Job
from pilot.info.payloadtask import PayloadCommand, PayloadTask
from pilot.info.queuedata import QueueData
from pilot.user.atlas import Atlas
from pilot.user.generic import GenericExperiment
from pilot.util.cancel import CancelToken
from pilot.util.checksum import Progress


class ProxiedExperiment(GenericExperiment):
    """Generic payloads with the proxies of ATLAS."""

    name = "proxied"

    def verify_proxy(self, proxy: str, *, at_start: bool) -> tuple[int, str]:
        return Atlas().verify_proxy(proxy, at_start=at_start)

    def payload_proxy_role(self, job: Job) -> tuple[str, str]:
        return Atlas().payload_proxy_role(job)


class ContainedExperiment(ProxiedExperiment):
    """Its payloads count as contained, without a container."""

    name = "contained"

    def uses_container(self, job: Job, queue: QueueData) -> bool:
        return True

    def contain(self, task: PayloadTask, command: PayloadCommand) -> PayloadCommand:
        return command


class TellingTool(MoveTool):
    """The mv copytool; it keeps the environment and the proxy of each stored file."""

    name = "telling"

    def copy_out(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        result = super().copy_out(transfer, token, progress)
        environ = dict(self.config.environ)
        proxy = Path(environ.get("X509_USER_PROXY", ""))
        environ["content"] = proxy.read_text() if proxy.is_file() else ""
        directory = Path(environ["PILOT_OUTPUT_DIR"])
        (directory / f"{transfer.lfn}.environ").write_text(json.dumps(environ))
        return result
