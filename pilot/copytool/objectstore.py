"""objectstore: files of the event service and logs, at any storage of CRIC, by their own URL.

```
 s3://, and https:// to a store whose keys are known ──► boto3, as copytool s3
 root://, davs://, https://, srm://, ...             ──► the Rucio client with this URL in place of its own
 s3:// without keys, or without boto3                ──► the Rucio client, which has the server sign the URL
```
boto3 goes first because it compares each body with its MD5 and shows no half object; the protocols of the Rucio client
for S3 do neither. Keys: of the endpoint (the PanDA server has them), else S3_ACCESS_KEY and S3_SECRET_KEY, else what
boto3 finds.
"""

from __future__ import annotations

from dataclasses import replace
from threading import Lock
from typing import Optional, Union

from pilot.common.exception import MiddlewareImportFailure
from pilot.copytool.base import CopyTool, Features, FilePlace, ToolConfig, Transfer, TransferResult
from pilot.copytool.objects import is_signed
from pilot.copytool.rucio import RucioTool
from pilot.copytool.s3 import S3Tool
from pilot.info.storage import S3Keys, StorageData
from pilot.util.cancel import CancelToken
from pilot.util.checksum import Progress

_BY_S3 = ("s3", "s3+rucio", "s3+https")
_OWN_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "PANDA_PILOT_AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE")


class ObjectstoreTool(CopyTool):
    """Chooses the way for each file."""

    name = "objectstore"
    summary = "object stores and other storage by explicit URL (event service, logs)"
    library = "`boto3` for S3, `rucio-clients` for the rest"

    def __init__(self, config: ToolConfig) -> None:
        """Libraries are looked for when a file needs them."""
        super().__init__(config)
        self._lock = Lock()
        self._s3: Union[S3Tool, MiddlewareImportFailure, None] = None
        self._rucio: dict[tuple[str, str], RucioTool] = {}

    @property
    def features(self) -> Features:
        """URLs come from the endpoint's protocols, both ways."""
        return Features(
            schemes=("s3", "s3+rucio", "root", "davs", "https", "gsiftp", "srm"),
            needs_protocols_in=True,
            needs_proxy=True,
            needs_token=True,
            reports_progress=True,
            direct_access=False,
            traced=False,
        )

    def destination_url(self, place: FilePlace, storage: StorageData, endpoint: str, prefix: str) -> Optional[str]:
        """``endpoint/path/<lfn>`` at an object store without the deterministic layout."""
        if storage.is_deterministic or not storage.is_object_store:
            return None
        return "/".join(part.strip("/") if number else part.rstrip("/")
                        for number, part in enumerate((endpoint, prefix, place.lfn)) if part.strip("/"))

    def copy_in(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        """Fetch one file."""
        return self._way(transfer).copy_in(transfer, token, progress)

    def copy_out(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        """Store one file."""
        return self._way(transfer).copy_out(transfer, token, progress)

    # --- which way ---------------------------------------------------------------------------------------------------

    def _way(self, transfer: Transfer) -> CopyTool:
        """Return the tool for this file.

        Raises:
            MiddlewareImportFailure: 1342, neither library is here.
        """
        with self._lock:
            if self._s3 is None:
                self._s3 = self._made()
            scheme = transfer.url.partition(":")[0]
            if isinstance(self._s3, MiddlewareImportFailure):
                return self._through_rucio(None, ("", ""), self._s3 if scheme in _BY_S3 else None)
            names, pair = self._s3.keys(transfer)
            known = bool(names and pair[0])
            if is_signed(transfer.url) or (known and scheme == "https"):
                return self._s3
            if scheme in _BY_S3 and (known or self._own_keys()):
                return self._s3
            return self._through_rucio(names, pair)

    def _made(self) -> Union[S3Tool, MiddlewareImportFailure]:
        environ = dict(self.config.environ)
        if environ.get("S3_ACCESS_KEY") and environ.get("S3_SECRET_KEY"):  # as a site's own set-up names them
            environ.setdefault("AWS_ACCESS_KEY_ID", environ["S3_ACCESS_KEY"])
            environ.setdefault("AWS_SECRET_ACCESS_KEY", environ["S3_SECRET_KEY"])
        options = dict(self.config.options)
        if environ.get("S3_IS_SECURE"):
            options.setdefault("is_secure", environ["S3_IS_SECURE"])
        try:
            return S3Tool(replace(self.config, environ=environ, options=options))
        except MiddlewareImportFailure as exc:
            return exc

    def _own_keys(self) -> bool:
        environ = self.config.environ
        return any(environ.get(name) for name in (*_OWN_KEYS, "S3_ACCESS_KEY"))

    def _through_rucio(
        self, names: Optional[S3Keys], pair: tuple[str, str], cause: Optional[MiddlewareImportFailure] = None
    ) -> RucioTool:
        """Keys, if any, are in the environment of the helper process only, which nobody else can look into."""
        if pair not in self._rucio:
            environ = dict(self.config.environ)
            if names is not None and pair[0]:
                environ.update(S3_ACCESS_KEY=pair[0], S3_SECRET_KEY=pair[1], S3_IS_SECURE=names["is_secure"])
            try:
                self._rucio[pair] = RucioTool(replace(self.config, environ=environ))
            except MiddlewareImportFailure as exc:
                if cause is None:
                    raise
                raise MiddlewareImportFailure(f"{cause.detail}; {exc.detail}") from exc
        return self._rucio[pair]
