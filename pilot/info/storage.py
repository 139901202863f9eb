"""A storage endpoint (RSE, ddmendpoint) as CRIC describes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, TypedDict

from pilot.info.cleaning import Cleaner

EXTERNAL_FIELDS = (
    "id", "name", "site", "state", "type", "token", "is_deterministic", "arprotocols", "rprotocols", "resource",
)  # fmt: skip
OBJECT_STORE_TYPES = ("OS_ES", "OS_LOGS")


class Protocol(TypedDict):
    """One way to reach an endpoint: a URL is ``endpoint`` + ``path`` + the file's own path."""

    endpoint: str
    path: str
    flavour: str
    id: int


class S3Keys(TypedDict):
    """Names (not values) of the keys of an object store, for the server's getKeyPair."""

    access_key: str
    secret_key: str
    is_secure: str


@dataclass(frozen=True)
class StorageData:
    """One endpoint; source of the fields: CRIC ddmendpoints, see the information service document, section 7."""

    name: str
    pk: int = 0
    """Storage id (CRIC field ``id``)."""
    site: Optional[str] = None
    state: Optional[str] = None
    type: str = ""
    """``DATADISK``, ``SCRATCHDISK``, ...; ``OS_ES`` and ``OS_LOGS`` are object stores."""
    token: str = ""
    """Space token."""
    is_deterministic: Optional[bool] = None
    arprotocols: dict[str, list[Protocol]] = field(default_factory=dict)
    """Protocols per activity (``read_lan``, ``write_wan``, ...), best first."""
    rprotocols: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Protocols by id, with their ``settings``."""
    resource: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_raw(cls, name: str, raw: Mapping[str, Any]) -> StorageData:
        """Parse one endpoint with external field names; bad values are replaced by defaults with a warning."""
        clean = Cleaner(raw, f"storage endpoint {name}")
        return cls(
            name=clean.text("name") or name,
            pk=clean.integer("id"),
            site=clean.optional_text("site"),
            state=clean.optional_text("state"),
            type=clean.text("type"),
            token=clean.text("token"),
            is_deterministic=clean.optional_boolean("is_deterministic"),
            arprotocols=_activity_protocols(clean),
            rprotocols={key: dict(item) for key, item in clean.mapping("rprotocols").items() if isinstance(item, dict)},
            resource=clean.mapping("resource"),
        )

    @property
    def bucket_id(self) -> int | None:
        """Second id of an object store (``resource.bucket_id``), None when it has none."""
        value = str(self.resource.get("bucket_id"))
        return int(value) if value.isdigit() else None

    @property
    def is_object_store(self) -> bool:
        """True for the types OS_ES and OS_LOGS."""
        return self.type in OBJECT_STORE_TYPES

    def protocols_for(self, activities: list[str]) -> list[Protocol]:
        """Return the protocols of the first activity that has any, best first; empty when none has."""
        return next((list(found) for name in activities if (found := self.arprotocols.get(name))), [])

    def s3_keys(self, protocol_id: int | None) -> S3Keys | None:
        """Return the names of the S3 keys of one protocol of an object store, None when it has no complete set."""
        settings = self.rprotocols.get(str(protocol_id), {}).get("settings")
        if not self.is_object_store or not isinstance(settings, dict):
            return None
        values = {key: settings.get(key) for key in ("access_key", "secret_key", "is_secure")}
        if any(value in (None, "") for value in values.values()):
            return None
        return S3Keys(
            access_key=str(values["access_key"]),
            secret_key=str(values["secret_key"]),
            is_secure=str(values["is_secure"]),
        )


def _activity_protocols(clean: Cleaner) -> dict[str, list[Protocol]]:
    result: dict[str, list[Protocol]] = {}
    for activity, items in clean.mapping("arprotocols").items():
        if isinstance(items, list):
            usable = [item for item in items if isinstance(item, dict) and item.get("endpoint")]
            result[activity] = [_protocol(item) for item in usable]
        else:
            clean.warn("arprotocols", {activity: items}, None)
    return result


def _protocol(raw: Mapping[str, Any]) -> Protocol:
    number = str(raw.get("id"))
    return Protocol(
        endpoint=str(raw["endpoint"]),
        path=str(raw.get("path") or ""),
        flavour=str(raw.get("flavour") or ""),
        id=int(number) if number.isdigit() else 0,
    )
