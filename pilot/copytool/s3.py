"""s3: object stores that speak S3, through boto3 in a helper process.

```
 s3://host:port/bucket/key    the store at that host, https unless the endpoint's description says is_secure = False
 https://host/bucket/key      the same;  http:// too
 s3://bucket/key              the store that the setting ``endpoint``, the profile or AWS_ENDPOINT_URL names, else AWS
 https://...?X-Amz-Signature= a signed URL, used as it is
```
Keys: those of the endpoint (CRIC names them, the PanDA server has them), else the profile that PANDA_PILOT_AWS_PROFILE
names, else what boto3 finds.
"""

from __future__ import annotations

import re
from threading import Lock
from typing import Any, NamedTuple, Optional

from pilot.copytool.base import Features, ToolConfig, Transfer
from pilot.copytool.objects import ObjectTool, is_signed
from pilot.info.storage import S3Keys


class ObjectPlace(NamedTuple):
    """Where an object is."""

    endpoint: str
    """URL of the store, empty = boto3's own choice."""
    bucket: str
    key: str


def parse_url(url: str, *, secure: bool = True, endpoint: str = "") -> ObjectPlace:
    """Take the URL of an object apart; double slashes count as one, nothing in it is percent-decoded.

    Args:
        url: see the top of this module.
        secure: the store at an s3:// URL speaks https.
        endpoint: URL of the store where s3:// URLs name none.

    Raises:
        ValueError: no bucket or no key.
    """
    scheme, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    path = re.sub("/+", "/", path).lstrip("/")
    if scheme in ("http", "https"):
        store = f"{scheme}://{host}"
    elif not endpoint and re.search(r"[.:]|^localhost$", host):
        store = f"{'https' if secure else 'http'}://{host}"
    else:
        store, path = endpoint, f"{host}/{path}"
    bucket, _, key = path.partition("/")
    if not scheme or not host or not bucket or not key:
        raise ValueError(f"{url or 'an empty URL'} names no object: <scheme>://<host>/<bucket>/<key> is expected")
    return ObjectPlace(store, bucket, key)


def is_true(value: object, default: bool = True) -> bool:
    """Return a flag as endpoint descriptions spell it."""
    return default if value in (None, "") else str(value).strip().lower() in ("true", "1", "yes")


class S3Tool(ObjectTool):
    """Objects of a store that speaks S3."""

    name = "s3"
    summary = "object stores that speak S3"
    library = "`boto3`"
    worker = "s3"
    install = "panda-pilot[s3] (boto3)"

    def __init__(self, config: ToolConfig) -> None:
        """Keys are asked for with the first file."""
        super().__init__(config)
        self._lock = Lock()
        self._known: dict[tuple[str, int], tuple[Optional[S3Keys], tuple[str, str]]] = {}

    @property
    def features(self) -> Features:
        """URLs come from the endpoint's protocols, both ways."""
        return Features(
            schemes=("s3", "s3+rucio", "https", "http"),
            checksums=("adler32", "md5"),
            needs_protocols_in=True,
            reports_progress=True,
            direct_access=False,
            traced=False,
        )

    def _place_of(self, transfer: Transfer) -> dict[str, Any]:
        option = self.config.option
        if is_signed(transfer.url):
            return {"signed": True, "url": transfer.url, "ca_bundle": option("ca_bundle")}
        _, (public, private) = self.keys(transfer)
        place = self._object(transfer)
        return {
            "endpoint": place.endpoint, "bucket": place.bucket, "key": place.key, "access_key": public,
            "secret_key": private, "profile": self.config.environ.get("PANDA_PILOT_AWS_PROFILE", ""),
            "addressing": option("addressing", "path"), "ca_bundle": option("ca_bundle"),
        }  # fmt: skip

    def _object(self, transfer: Transfer) -> ObjectPlace:
        names, _ = self.keys(transfer)
        secure = is_true(names["is_secure"] if names else self.config.option("is_secure"))
        try:
            return parse_url(transfer.url, secure=secure, endpoint=self.config.option("endpoint"))
        except ValueError as exc:
            raise self._no_object(transfer, exc) from exc

    def keys(self, transfer: Transfer) -> tuple[Optional[S3Keys], tuple[str, str]]:
        """Return the names of the endpoint's keys, and the keys; empty where it has none."""
        which = (transfer.endpoint, transfer.protocol_id)
        with self._lock:
            if which not in self._known:
                storage = self.config.storage([transfer.endpoint]).get(transfer.endpoint) if transfer.endpoint else None
                names = storage.s3_keys(transfer.protocol_id) if storage is not None else None
                pair = self.config.key_pair(names["access_key"], names["secret_key"]) if names else ("", "")
                self._known[which] = (names, pair)
            return self._known[which]

    def _public_url(self, transfer: Transfer) -> str:
        place = self._object(transfer)
        return f"{place.endpoint}/{place.bucket}/{place.key}" if place.endpoint else transfer.url
