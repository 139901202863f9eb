"""An experiment with generic payloads and the proxies of ATLAS."""

from __future__ import annotations

from pilot.user.atlas import Atlas
from pilot.user.generic import GenericExperiment


class VomsExperiment(GenericExperiment):
    """What ATLAS says of proxies."""

    name = "voms"
    needs_proxy = True

    def verify_proxy(self, proxy: str, *, at_start: bool) -> tuple[int, str]:
        return Atlas().verify_proxy(proxy, at_start=at_start)

    def pilot_proxy_role(self) -> tuple[str, str]:
        return Atlas().pilot_proxy_role()
