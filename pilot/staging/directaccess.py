"""Direct access: which inputs stay where they are for the payload to open, and why (data management document 5)."""

from __future__ import annotations

import logging
from typing import Mapping, NamedTuple

from pilot.copytool.base import Replica
from pilot.info.filespec import FileSpec
from pilot.staging.context import StagingContext
from pilot.staging.replicas import DIRECT_LAN, DIRECT_WAN, may_lan, may_wan, scheme_of

logger = logging.getLogger(__name__)

_NEVER_DIRECT = (".tar.gz", ".lib.tgz", ".raw.")
XCACHE = "ALRB_XCACHE_PROXY"


class Wish(NamedTuple):
    """Whether a file may be opened remotely at all, per domain; the reason is for the log."""

    lan: bool
    wan: bool
    reason: str

    @property
    def anywhere(self) -> bool:
        """True when it may be opened in one of the domains."""
        return self.lan or self.wan

    def by_domain(self) -> Mapping[str, bool]:
        """Return the wish as the choice of replicas takes it."""
        return {"lan": self.lan, "wan": self.wan}


def wish(spec: FileSpec, ctx: StagingContext) -> Wish:
    """Return what job, file name and queue say about opening this input remotely."""
    if spec.accessmode != "direct":
        return Wish(False, False, f"the job asks for a copy (accessmode {spec.accessmode or 'not given'})")
    name = spec.lfn.lower()
    if name.startswith("raw."):
        return Wish(False, False, "files raw.* are always copied")
    for part in _NEVER_DIRECT:
        if part in name:
            return Wish(False, False, f"files with {part} in the name are always copied")
    queue = ctx.queue
    lan = spec.direct_access_lan or queue.direct_access_lan
    wan = spec.direct_access_wan or queue.direct_access_wan
    if not lan and not wan:
        return Wish(False, False, "the queue has neither direct_access_lan nor direct_access_wan")
    return Wish(lan and may_lan(spec, ctx), wan and may_wan(spec, ctx), "allowed by job and queue")


def decide(spec: FileSpec, wanted: Wish, replica: Replica) -> tuple[bool, str]:
    """Return whether this replica is opened remotely, and why (not)."""
    if not wanted.anywhere:
        return False, wanted.reason
    lan = replica.domain == "lan"
    scheme = scheme_of(replica.url)
    if not (wanted.lan if lan else wanted.wan):
        return False, f"the queue has no direct_access_{replica.domain} and the replica at {replica.endpoint} is there"
    if scheme not in (DIRECT_LAN if lan else DIRECT_WAN):
        return False, f"{scheme} URLs are not opened remotely in the {replica.domain.upper()}"
    return True, f"{scheme} replica at {replica.endpoint} ({replica.domain.upper()}), {wanted.reason}"


def mark_remote(spec: FileSpec, replica: Replica, environ: Mapping[str, str]) -> None:
    """Leave an input where it is: the payload opens ``turl``."""
    spec.status, spec.status_code = "remote_io", 0
    spec.turl, spec.ddmendpoint, spec.domain = replica.url, replica.endpoint, replica.domain
    if replica.domain == "lan" and environ.get(XCACHE):
        spec.turl = f"${{{XCACHE}}}{replica.url}"  # the variable's name: it is expanded where the file is opened
