"""Where files go and come from: pure functions over queue data, storage data and file lists.

Which activities and tools a queue has is the queue data's own knowledge (``pilot.info.queuedata``).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Callable, Iterable, Mapping, Optional, Sequence

from pilot.common.exception import PilotException
from pilot.info.filespec import FileSpec

if TYPE_CHECKING:
    from pilot.info.queuedata import QueueData
    from pilot.info.storage import Protocol, StorageData

LOCAL_TOOLS = ("mv", "cp", "ln", "local")
"""Tools of mounted file systems: a queue that has one may lack storage endpoints."""


class NoStorage(PilotException):
    """No endpoint for a file (1133)."""

    default_code = 1133


class NoStorageProtocol(PilotException):
    """The endpoint offers no protocol for the activity (1313)."""

    default_code = 1313


class NonDeterministicEndpoint(PilotException):
    """The endpoint has no path rule (1329)."""

    default_code = 1329


def has_local_tool(queue: QueueData) -> bool:
    """True when the queue moves files on mounted file systems, so that endpoints are no must."""
    names = set(queue.copytools)
    for tools in queue.acopytools.values():
        names.update(tools)
    return any(name in names for name in LOCAL_TOOLS)


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
) -> None:
    """Set ``ddmendpoint`` and ``ddmendpoint_alt`` of outputs (data management document 7.3).

    Args:
        files: outputs or log.
        storages: endpoints of the queue for the activity, in the order of preference.
        activities: for the message.
        nucleus: never taken as alternative.
        local: the queue moves files locally: no storages = nothing to do.

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
    default = storages[0]
    for spec in files:
        wanted = spec.ddmendpoint
        if wanted and wanted not in storages:
            spec.ddmendpoint = default
            spec.ddmendpoint_alt = wanted if wanted != nucleus else None
            continue
        spec.ddmendpoint = wanted or default
        spec.ddmendpoint_alt = _next_storage(storages, spec.ddmendpoint, nucleus)


def _next_storage(storages: Sequence[str], current: str, nucleus: str) -> Optional[str]:
    """Return the next one in the cycle that is neither ``current`` nor the nucleus."""
    start = storages.index(current)
    for name in [*storages[start + 1 :], *storages[:start]]:
        if name not in (current, nucleus):
            return name
    return None


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
    spec: FileSpec, storage: Callable[[list[str]], Mapping[str, StorageData]], schemes: Sequence[str]
) -> str:
    """Return the URL of a file at its endpoint by the first protocol that fits; remembers the protocol's id.

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
    return build_url(endpoint, protocol, spec.scope, spec.lfn)
