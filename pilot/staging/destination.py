"""Where files go and come from: pure functions over queue data, storage data and file lists.

Which activities and tools a queue has is the queue data's own knowledge (``pilot.info.queuedata``).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Callable, Iterable, Mapping, Optional, Sequence

from pilot.common.exception import PilotException
from pilot.copytool.base import FilePlace
from pilot.info.filespec import FileSpec

if TYPE_CHECKING:
    from pilot.copytool.base import CopyTool
    from pilot.info.storage import Protocol, StorageData

class NoStorage(PilotException):
    """No endpoint for a file (1133)."""

    default_code = 1133


class NoStorageProtocol(PilotException):
    """The endpoint offers no protocol for the activity (1313)."""

    default_code = 1313


class NonDeterministicEndpoint(PilotException):
    """The endpoint has no path rule (1329)."""

    default_code = 1329


def prepare_inputddms(files: Iterable[FileSpec], local_endpoints: Sequence[str]) -> None:
    """Fill ``inputddms`` (endpoints that count as LAN) where it is empty: the queue's own, else the file's."""
    for spec in files:
        if not spec.inputddms:
            spec.inputddms = list(local_endpoints) or ([spec.ddmendpoint] if spec.ddmendpoint else [])


def prepare_destinations(
    files: Iterable[FileSpec],
    storages: Sequence[str],
    activities: Sequence[str],
    *,
    nucleus: str = "",
    local: bool = False,
    site_of: Callable[[str], str] = lambda _endpoint: "",
) -> None:
    """Set ``ddmendpoint`` and ``ddmendpoint_alt`` of outputs (data management document 7.3).

    The alternative is never in the nucleus: what stands there in the end is moved there by the server's own rules, and
    a failed stage-out is to try another site. The nucleus is a site, storages are endpoints, so the site of an endpoint
    is compared as well as its name.

    Args:
        files: outputs or log.
        storages: endpoints of the queue for the activity, in the order of preference.
        activities: for the message.
        nucleus: site (or endpoint) that is never taken as alternative.
        local: the queue moves files locally: no storages = nothing to do.
        site_of: returns the site of an endpoint, empty = unknown; asked only when there is a nucleus.

    Raises:
        NoStorage: 1133, no storages and not ``local``.
    """
    if not storages:
        if local:
            return
        raise NoStorage(
            "Failed to resolve destination: no associated storages defined for "
            f"activity={activities[0]} ({','.join(activities)})"
        )

    def in_nucleus(endpoint: str) -> bool:
        return bool(nucleus) and nucleus in (endpoint, site_of(endpoint))

    for spec in files:
        wanted = spec.ddmendpoint
        if wanted and wanted not in storages:
            spec.ddmendpoint = storages[0]
            spec.ddmendpoint_alt = None if in_nucleus(wanted) else wanted
            continue
        spec.ddmendpoint = wanted or storages[0]
        start = storages.index(spec.ddmendpoint)
        others = (name for name in [*storages[start + 1 :], *storages[:start]] if name != spec.ddmendpoint)
        spec.ddmendpoint_alt = next((name for name in others if not in_nucleus(name)), None)


def deterministic_path(scope: str, lfn: str) -> str:
    """Return the path below an endpoint's prefix: ``<scope parts>/<md5[0:2]>/<md5[2:4]>/<lfn>``.

    >>> deterministic_path("user.jdoe", "x.root")
    'user/jdoe/7f/01/x.root'
    """
    digest = hashlib.md5(f"{scope}:{lfn}".encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()
    parts = [*scope.replace(".", "/").split("/"), digest[:2], digest[2:4], lfn]
    return "/".join(part for part in parts if part)


def ddm_activities(direction: str, endpoint: str, inputddms: Sequence[str]) -> list[str]:
    """Return the protocol activities of a file, ``direction`` is ``read`` or ``write``: LAN first when it is ours."""
    return [f"{direction}_lan", f"{direction}_wan"] if endpoint in inputddms else [f"{direction}_wan"]


def choose_protocols(
    storage: StorageData, activities: Sequence[str], schemes: Sequence[str]
) -> list[Protocol]:
    """Return the endpoint's protocols for the first activity that has some, the schemes' order first.

    Raises:
        NoStorageProtocol: 1313, none is left.
    """
    offered = storage.protocols_for(list(activities))
    chosen = offered
    if schemes:
        chosen = [item for scheme in schemes for item in offered if item["endpoint"].startswith(f"{scheme}:")]
    if not chosen:
        raise NoStorageProtocol(
            f"No protocol of {storage.name} for activity={','.join(activities)}, "
            f"allowed schemes={','.join(schemes) or 'any'}: update CRIC"
        )
    return chosen


def build_url(storage: StorageData, protocol: Protocol, scope: str, lfn: str) -> str:
    """Return the URL of a file at a deterministic endpoint: ``endpoint + join(path, deterministic path)``.

    Raises:
        NonDeterministicEndpoint: 1329.
    """
    if not storage.is_deterministic:
        raise NonDeterministicEndpoint(
            f"Failed to construct SURL for non deterministic ddm={storage.name}: update CRIC"
        )
    prefix = protocol["path"]
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    return f"{protocol['endpoint']}{prefix}{deterministic_path(scope, lfn)}"


def endpoint_url(
    spec: FileSpec,
    storage: Callable[[list[str]], Mapping[str, StorageData]],
    schemes: Sequence[str],
    tool: Optional[CopyTool] = None,
) -> str:
    """Return the URL of a file at its endpoint by the first protocol that fits; remembers the protocol's id.

    A tool with path rules of its own (``CopyTool.destination_url``: object stores) is asked first.

    Raises:
        NoStorage: 1133, the endpoint is unknown.
        NoStorageProtocol: 1313.
        NonDeterministicEndpoint: 1329.
    """
    endpoint = storage([spec.ddmendpoint]).get(spec.ddmendpoint) if spec.ddmendpoint else None
    if endpoint is None:
        raise NoStorage(
            f"Failed to resolve output ddmendpoint by name={spec.ddmendpoint} (from PanDA), please check configuration."
        )
    protocols = choose_protocols(endpoint, spec.ddm_activity, schemes)
    spec.protocols = [dict(item) for item in protocols]
    protocol = protocols[0]
    spec.protocol_id = protocol["id"]
    if tool is not None:
        place = FilePlace(spec.lfn, spec.scope, spec.dataset, deterministic_path(spec.scope, spec.lfn), protocol["id"])
        url = tool.destination_url(place, endpoint, protocol["endpoint"], protocol["path"])
        if url is not None:
            return url
    return build_url(endpoint, protocol, spec.scope, spec.lfn)
