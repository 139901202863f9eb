"""Where an input can be read: one look-up for all files of the job, then an ordered list of candidates per file.

```
 Rucio's answer   {pfn: rse, type, priority, ...}
   │ DISK only, by priority; endpoints of the queue (inputddms) first, in their order
   ▼
 spec.replicas    [{pfn, ddmendpoint, domain}]          lan = an endpoint of the queue, wan = any other
   │ lan before wan; schemes of direct access first, then those that the tool and the queue allow
   ▼
 candidates       what the tool tries, one after the other
```
"""

from __future__ import annotations

import logging
import os
import socket
from typing import Any, Iterable, Mapping, Optional, Sequence

from pilot.common.exception import PilotException
from pilot.copytool.base import Replica
from pilot.copytool.catalogue import Catalogue
from pilot.info.filespec import FileSpec
from pilot.staging.context import StagingContext
from pilot.util.cancel import CancelToken
from pilot.util.checksum import same_checksum

logger = logging.getLogger(__name__)

CATALOGUE_SCHEMES = ("srm", "root", "davs", "gsiftp", "https", "storm", "file")
"""Asked for always (data management document 4.1); the queue's own schemes come on top."""
DIRECT_LAN = ("root", "dcache", "dcap", "file", "https")
DIRECT_WAN = ("root", "https")
REMOTE_COPY = ("root", "gsiftp", "dcap", "srm", "storm", "https", "davs")
"""Schemes for copies from other sites; davs as Pilot 2 had it: it is https, and many sites offer nothing else."""
SIGNATURE_LIFETIME = 86400
"""Seconds that signed URLs stay valid: the server's default would end before a long queue of transfers."""
_LAST = 1 << 30
VP_EXPRESSION = "istape=False\\type=SPECIAL"


class NoReplicas(PilotException):
    """No replica that queue, job and tool may use (1326)."""

    default_code = 1326


def look_up(files: Sequence[FileSpec], ctx: StagingContext, schemes: Sequence[str], token: CancelToken) -> set[str]:
    """Fill ``replicas`` of all files that were never looked up, with one call.

    Returns:
        LFNs of files whose size or checksum is another one in Rucio than in the job.

    Raises:
        PilotException: 1322 the look-up failed, 1342 no Rucio client.
    """
    unknown = [spec for spec in files if spec.replicas is None]
    if not unknown:
        return set()
    catalogue = Catalogue(ctx.helpers, ctx.transfer_environment(outward=False), ctx.rucio_host)
    vp = ctx.use_vp
    rows = catalogue.list_replicas(
        [{"scope": spec.scope, "name": spec.lfn} for spec in unknown],
        schemes=["root"] if vp else list(dict.fromkeys([*CATALOGUE_SCHEMES, *schemes])),
        client_location=client_location(ctx.environ, vp=vp),
        token=token,
        rse_expression=VP_EXPRESSION if vp else None,
        ignore_availability=False if vp else None,
        lifetime=SIGNATURE_LIFETIME,
    )
    differ = set()
    known = {(str(row.get("scope")), str(row.get("name"))): row for row in rows}
    for spec in unknown:
        row = known.get((spec.scope, spec.lfn))
        if row is None:
            logger.warning("Rucio knows no replica of %s:%s", spec.scope, spec.lfn)
        spec.replicas = replicas_of(spec, row or {})
        if _complete(spec, row or {}):
            differ.add(spec.lfn)
    return differ


def client_location(environ: Mapping[str, str], *, vp: bool = False) -> dict[str, Any]:
    """Return where this node is: Rucio sorts by it, and gives LAN doors to the site's own clients."""
    location: dict[str, Any] = {
        "ip": _own_address(socket.AF_INET, "8.8.8.8") or "0.0.0.0",  # noqa: S104 - Rucio's word for unknown
        "fqdn": socket.gethostname(),
        "site": environ.get("PILOT_RUCIO_SITENAME") or os.environ.get("PILOT_RUCIO_SITENAME") or "unknown",
    }
    six = _own_address(socket.AF_INET6, "2001:4860:4860::8888")
    if six:
        location["ip6"] = six
    if vp:
        for key, name in (("latitude", "RUCIO_LATITUDE"), ("longitude", "RUCIO_LONGITUDE")):
            try:
                location[key] = float(environ[name])
            except (KeyError, ValueError):
                continue
    return location


def _own_address(family: socket.AddressFamily, far: str) -> str:
    """Return the address that packets to ``far`` would leave with; nothing is sent."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far, 80))
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def replicas_of(spec: FileSpec, row: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return one file's replicas in the order of preference; the domain is ours, not Rucio's."""
    pfns = [(pfn, info) for pfn, info in dict(row.get("pfns") or {}).items() if _readable(info)]
    pfns.sort(key=lambda item: int(item[1].get("priority") or _LAST))
    own = {name: place for place, name in reversed(list(enumerate(spec.inputddms)))}
    pfns.sort(key=lambda item: own.get(str(item[1].get("rse")), len(own)))
    return [
        {"pfn": pfn, "ddmendpoint": str(info.get("rse")), "domain": "lan" if str(info.get("rse")) in own else "wan"}
        for pfn, info in pfns
    ]


def _readable(info: Mapping[str, Any]) -> bool:
    """False for tapes, and for a member of an archive where the reader would have to unpack it: nobody here does."""
    return str(info.get("type", "DISK")) == "DISK" and not info.get("client_extract")


def _complete(spec: FileSpec, row: Mapping[str, Any]) -> bool:
    """Fill size and checksum that the job does not give; a difference is told (True), the job's word counts."""
    differs = False
    size = row.get("bytes")
    if isinstance(size, int):
        if not spec.filesize:
            spec.filesize = size
        elif spec.filesize != size:
            logger.warning("%s: the job says %d B, Rucio %d B", spec.lfn, spec.filesize, size)
            differs = True
    for kind in ("adler32", "md5"):
        value = row.get(kind)
        if not value:
            continue
        mine = spec.checksum.get(kind)
        if not any(spec.checksum.values()):
            spec.checksum = {kind: str(value)}
        elif mine and not same_checksum(mine, str(value)):
            logger.warning("%s: the job says %s %s, Rucio %s", spec.lfn, kind, mine, value)
            differs = True
    return differs


def may_lan(spec: FileSpec, ctx: StagingContext) -> bool:
    """True when the queue's own endpoints may be read."""
    return spec.allow_lan and ctx.queue.allow_lan


def may_wan(spec: FileSpec, ctx: StagingContext) -> bool:
    """True when other sites' endpoints may be read: queue, file, or ``allow_wan_for_lib`` for libraries."""
    return spec.allow_wan or ctx.queue.allow_wan or (ctx.queue.flags.allow_wan_for_lib and ".lib." in spec.lfn)


def candidates(
    spec: FileSpec, ctx: StagingContext, schemes: Sequence[str], direct: Optional[Mapping[str, bool]] = None
) -> list[Replica]:
    """Return what may be tried for a file, best first.

    Args:
        spec: with ``replicas``.
        ctx: for the queue's permissions.
        schemes: those of tool and queue; empty = any.
        direct: ``{"lan": bool, "wan": bool}``: where direct access is wanted, its schemes go first.

    Raises:
        NoReplicas: 1326.
    """
    direct = direct or {}
    found: list[Mapping[str, str]] = []
    entries = spec.replicas or []
    for domain, allowed, primary, limit in (
        ("lan", may_lan(spec, ctx), DIRECT_LAN, None),
        ("wan", may_wan(spec, ctx), DIRECT_WAN, REMOTE_COPY),
    ):
        if not allowed:
            continue
        here = [entry for entry in entries if entry["domain"] == domain]
        first = [entry for entry in here if direct.get(domain) and scheme_of(entry["pfn"]) in primary]
        rest = [entry for entry in here if _fits(scheme_of(entry["pfn"]), schemes, limit)]
        found += [*first, *(entry for entry in rest if entry not in first)]
    if not found:
        seen = sorted({f"{scheme_of(item['pfn'])} at {item['ddmendpoint']} ({item['domain']})" for item in entries})
        raise NoReplicas(
            f"No replica found for lfn={spec.lfn} (allow_lan={may_lan(spec, ctx)}, allow_wan={may_wan(spec, ctx)}, "
            f"schemes={','.join(schemes) or 'any'}; Rucio has: {', '.join(seen) or 'nothing on disk'}; endpoints of "
            f"the queue: {','.join(spec.inputddms) or 'none'})"
        )
    return [Replica(item["pfn"], item["ddmendpoint"], item["domain"]) for item in found]


def _fits(scheme: str, schemes: Sequence[str], limit: Optional[Iterable[str]]) -> bool:
    return (not schemes or scheme in schemes) and (limit is None or scheme in limit)


def scheme_of(url: str) -> str:
    """Return the scheme of a URL, lower case."""
    return url.partition(":")[0].lower()


def storage_url(spec: FileSpec, replica: Replica) -> str:
    """Return the SURL that belongs to a replica: an ``srm`` URL of the same endpoint, else its first URL."""
    same = [item["pfn"] for item in spec.replicas or [] if item["ddmendpoint"] == replica.endpoint]
    return next((pfn for pfn in same if scheme_of(pfn) == "srm"), same[0] if same else replica.url)
