"""gs: Google Cloud Storage, through its client library in a helper process.

``gs://<bucket>/<key>``; the credentials are those that Google's library finds (GOOGLE_APPLICATION_CREDENTIALS, ...).
The log is stored file by file, for people to read in a browser, never as an archive.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from pilot.copytool.base import Features, Transfer
from pilot.copytool.objects import ObjectTool, content_type
from pilot.copytool.s3 import parse_url
from pilot.info.storage import StorageData


class GsTool(ObjectTool):
    """Objects of Google Cloud Storage."""

    name = "gs"
    summary = "Google Cloud Storage"
    library = "`google-cloud-storage`"
    worker = "gs"
    install = "panda-pilot[gs] (google-cloud-storage)"

    @property
    def features(self) -> Features:
        """URLs come from the endpoint's protocols, both ways."""
        return Features(
            schemes=("gs",), needs_protocols_in=True, reports_progress=True, direct_access=False, traced=False
        )

    def _own_path(self, storage: StorageData) -> bool:
        return not storage.is_deterministic

    def _loose_logs(self, transfer: Transfer) -> bool:
        return transfer.lfn.endswith("log.tgz")

    def _place_of(self, transfer: Transfer) -> dict[str, Any]:
        try:
            place = parse_url(transfer.url, endpoint="gs")
            if not transfer.url.startswith("gs://"):
                raise ValueError(f"{transfer.url} names no object: gs://<bucket>/<key> is expected")
        except ValueError as exc:
            raise self._no_object(transfer, exc) from exc
        return {"bucket": place.bucket, "key": place.key, "content_type": content_type(transfer.lfn)}

    def _public_url(self, transfer: Transfer) -> str:
        return f"https://storage.googleapis.com/{quote(transfer.url[len('gs://'):])}"
