"""Replicas that delivered wrong bytes twice: told to Rucio where the setting says so."""

from __future__ import annotations

import logging
from threading import Lock

from pilot.common.exception import PilotException
from pilot.copytool.base import Transfer
from pilot.copytool.catalogue import Catalogue
from pilot.staging.context import StagingContext
from pilot.util.cancel import CancelledError, CancelToken

logger = logging.getLogger(__name__)


class Suspicions:
    """The wrong checksums of one stage-in; thread-safe."""

    def __init__(self, ctx: StagingContext) -> None:
        self._ctx = ctx
        self._lock = Lock()
        self._seen: dict[tuple[str, str], str] = {}
        self._confirmed: dict[str, str] = {}
        self.doubtful: set[str] = set()
        """LFNs for which job and catalogue do not agree: their replicas may well be right."""

    @property
    def active(self) -> bool:
        """True when bad replicas are declared (setting ``transfers.declare_replicas``)."""
        return self._ctx.settings.transfers.declare_replicas != "no"

    def again(self, transfer: Transfer, failure: PilotException) -> bool:
        """Note a wrong checksum; True = fetch the same replica once more: the network may be to blame."""
        if not self.active or not transfer.url or transfer.lfn in self.doubtful:
            return False
        with self._lock:
            first = (transfer.lfn, transfer.url) not in self._seen
            self._seen[transfer.lfn, transfer.url] = failure.detail
            if not first:
                self._confirmed[transfer.url] = failure.detail
        return first

    def declare(self, token: CancelToken) -> None:
        """Tell Rucio of the confirmed ones; a failure is a warning."""
        if not self._confirmed or token.cancelled:
            return
        ctx = self._ctx
        catalogue = Catalogue(ctx.helpers, ctx.transfer_environment(outward=False), ctx.rucio_host)
        bad = ctx.settings.transfers.declare_replicas == "bad"
        call = catalogue.declare_bad if bad else catalogue.declare_suspicious
        for url, reason in self._confirmed.items():
            try:
                call([url], f"pilot: {reason}", token)
                logger.warning("declared %s: %s", "bad" if bad else "suspicious", url)
            except CancelledError:
                return
            except PilotException as exc:
                logger.warning("cannot declare %s: %s", url, exc.detail)
