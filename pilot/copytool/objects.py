"""What the tools for object stores have in common: whole objects or none, verified both ways, paths of their own.

```
 in    object ──► <lfn>.part, summed on the way ──► size, checksum of the catalogue ──► <lfn>
 out   <lfn> ──► adler32 ──► object: exists with our content = stored already; another one = 1221, or replaced where
                 allowed; the store compares the digest of what arrives; before that nothing is to be seen there
```
Keys are handed to the helper process with each order, never in its environment or arguments.
"""

from __future__ import annotations

import logging
import os
import stat
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Iterator, Mapping, Optional

from pilot.common.exception import MiddlewareImportFailure
from pilot.copytool.base import (
    CopyTool,
    Direction,
    FilePlace,
    ToolConfig,
    Transfer,
    TransferFailure,
    TransferResult,
    byte_events,
    check_checksum,
    check_size,
    failure_of,
    verify_local,
    wanted_checksum,
)
from pilot.copytool.causes import transfer_failure
from pilot.info.storage import StorageData
from pilot.util.cancel import CancelToken
from pilot.util.checksum import Progress, file_checksums
from pilot.util.copying import copy_with_checksum, placed
from pilot.util.helper import HelperFailure

logger = logging.getLogger(__name__)

LOOSE_LOGS = ("payload*.*", "memory_monitor*.*", "pilotlog*.*")
"""Files that are stored one by one in place of the log archive."""
TEXTS = ("pilotlog.txt", "payload.stdout", "payload.stderr")
_SIGNED = ("x-amz-signature=", "x-goog-signature=", "&signature=", "?signature=")


def is_signed(url: str) -> bool:
    """True when the URL carries its own permission."""
    query = url.partition("?")[2].lower()
    return any(mark in f"?{query}" for mark in _SIGNED)


def shown(url: str) -> str:
    """Return the URL as it may be logged and reported: without a signature."""
    return url.partition("?")[0] if is_signed(url) else url


class ObjectTool(CopyTool):
    """A tool for object stores with a client library in a helper process."""

    worker: ClassVar[str]
    """Module of pilot/copytool/worker, with operations ``download`` and ``upload``."""
    install: ClassVar[str]
    """What to install when the library is not here."""

    def __init__(self, config: ToolConfig) -> None:
        """Look whether the library is here."""
        super().__init__(config)
        problem = config.helpers.missing(self.worker, config.environ)
        if problem:
            raise MiddlewareImportFailure(f"copytool {self.name}: {problem}; install {self.install}")

    def _no_object(self, transfer: Transfer, why: object) -> TransferFailure:
        """Make the error for a URL that names no object."""
        code = 1099 if transfer.direction is Direction.IN else 1137
        hint = "" if transfer.url else " (--output-dir is for tools of mounted file systems: mv)"
        return TransferFailure(f"{transfer.lfn}: {self.name}: {why}{hint}", code=code)

    @abstractmethod
    def _place_of(self, transfer: Transfer) -> dict[str, Any]:
        """Return the worker's arguments that say where the object is and how to get there.

        Raises:
            TransferFailure: the URL names no object.
        """

    def _own_path(self, storage: StorageData) -> bool:
        """True when objects of this endpoint lie by dataset, not by the deterministic path."""
        return storage.is_object_store and not storage.is_deterministic

    def _loose_logs(self, transfer: Transfer) -> bool:
        """True when the log's files are stored in place of its archive."""
        return "PANDA_PILOT_COPY_OUT_EXTEND" in self.config.environ and transfer.lfn.endswith("log.tgz")

    def _public_url(self, transfer: Transfer) -> str:
        """Return the URL of an object for a browser."""
        return transfer.url

    def destination_url(self, place: FilePlace, storage: StorageData, endpoint: str, prefix: str) -> Optional[str]:
        """``endpoint/path/<queue>/<dataset>/<lfn>``; '#{pandaid}' in the dataset is the job's id."""
        if not self._own_path(storage):
            return None
        dataset = place.dataset.replace("#{pandaid}", self.config.job_id)
        parts = [part.strip("/") for part in (prefix, self.config.queue, dataset, place.lfn)]
        return "/".join([endpoint.rstrip("/"), *(part for part in parts if part)])

    # --- stage-in ----------------------------------------------------------------------------------------------------

    def copy_in(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        """Fetch an object and compare it with the catalogue."""
        try:
            with placed(transfer.local) as part:
                if transfer.url.startswith("file://"):  # --input-dir
                    kinds = wanted_checksum(transfer)
                    size, local = copy_with_checksum(transfer.url[len("file://"):], part, kinds, token, progress)
                    check_size(transfer, size, transfer.url)
                    return self._result(transfer, size, local, verified=check_checksum(transfer, local))
                args = {**self._place_of(transfer), "local": str(part), "size": transfer.size}
                facts = self._call("download", args, transfer, token, progress)
                size, sums, verified = self._verify(transfer, part, facts, token, progress)
        except OSError as exc:
            raise failure_of(exc, transfer, transfer.local) from exc
        return self._result(transfer, size, sums, verified=verified)

    def _verify(
        self, transfer: Transfer, part: Path, facts: Mapping[str, Any], token: CancelToken, progress: Progress
    ) -> tuple[int, Mapping[str, str], bool]:
        """What was summed on its way to the disk is not read again."""
        if wanted_checksum(transfer) == ("md5",):
            return verify_local(transfer, part, token, progress)
        size = int(facts["size"])
        check_size(transfer, size, shown(transfer.url))
        if os.stat(part).st_size != size:
            raise TransferFailure(f"{transfer.lfn}: {part} has not the {size} B that {self.name} has fetched")
        sums = {"adler32": str(facts["adler32"])}
        verified = check_checksum(transfer, sums)
        return size, sums if verified else {}, verified

    # --- stage-out ---------------------------------------------------------------------------------------------------

    def copy_out(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        """Store one file."""
        kind = self.config.checksum_type
        # the note on the object and the check while it is sent are adler32, whatever the server is told
        kinds = tuple(dict.fromkeys((kind, "adler32")))
        size, sums = transfer.size, {name: transfer.checksum.get(name, "") for name in kinds}
        try:
            if not all(sums.values()) or os.stat(transfer.local).st_size != size:
                size, found = file_checksums(transfer.local, kinds, token, progress)
                check_checksum(transfer, found)
                sums = found
            if self._loose_logs(transfer):
                return self._store_loose(transfer, size, {kind: sums[kind]}, token, progress)
            args = {
                **self._place_of(transfer), "local": str(transfer.local), "size": size, "adler32": sums["adler32"],
                "overwrite": transfer.overwrite,
            }  # fmt: skip
            facts = self._call("upload", args, transfer, token, progress)
        except OSError as exc:
            raise failure_of(exc, transfer, transfer.local) from exc
        return self._result(transfer, size, {kind: sums[kind]}, existed=bool(facts.get("existed")))

    def _store_loose(
        self, transfer: Transfer, size: int, sums: Mapping[str, str], token: CancelToken, progress: Progress
    ) -> TransferResult:
        """Store the files that people want to read in a browser, beside where the archive would be."""
        directory = transfer.url.rpartition("/")[0]
        log_url = ""
        for path in self._loose_files(transfer):
            url = f"{directory}/{path.name}"
            length, found = file_checksums(path, ("adler32",), token, progress)
            one = replace(transfer, lfn=path.name, local=path, url=url, size=length, overwrite=True)
            args = {**self._place_of(one), "local": str(path), "size": length, "adler32": found["adler32"],
                    "overwrite": True, "content_type": content_type(path.name)}  # fmt: skip
            self._call("upload", args, one, token, progress)
            logger.info("%s stored as %s", path.name, shown(url))
            if path.name == "pilotlog.txt":
                log_url = self._public_url(one)
        return replace(self._result(transfer, size, sums), log_url=log_url)

    def _loose_files(self, transfer: Transfer) -> Iterator[Path]:
        """Regular files only: the payload decides what lies in its directory."""
        names: set[str] = set()
        for directory in (self.config.workdir, transfer.local.parent):
            for pattern in LOOSE_LOGS:
                for path in sorted(directory.glob(pattern)):
                    if path.name not in names and stat.S_ISREG(path.lstat().st_mode):
                        names.add(path.name)
                        yield path

    # --- the helper --------------------------------------------------------------------------------------------------

    def _result(
        self, transfer: Transfer, size: int, sums: Mapping[str, str], *, verified: bool = True, existed: bool = False
    ) -> TransferResult:
        return TransferResult(
            size, sums, shown(transfer.url), transfer.endpoint, verified=verified, existed=existed,
            protocol=transfer.url.partition(":")[0],
        )  # fmt: skip

    def _call(
        self, op: str, args: Mapping[str, Any], transfer: Transfer, token: CancelToken, progress: Progress
    ) -> dict[str, Any]:
        try:
            return self.config.helpers.call(
                self.worker, op, args, env=self.config.environ, token=token, on_event=byte_events(progress)
            )
        except HelperFailure as exc:
            raise self.failure(transfer, exc.text, exc.facts) from exc

    def failure(self, transfer: Transfer, text: str, facts: Optional[Mapping[str, Any]] = None) -> TransferFailure:
        """Make the error for what the library said."""
        facts = facts or {}
        inward = transfer.direction is Direction.IN
        url = shown(transfer.url)
        one, other = (url, transfer.local) if inward else (transfer.local, url)
        about = f"{transfer.lfn}: {self.name} {one} -> {other}"
        if facts.get("mismatch"):
            return TransferFailure(f"{about}: {text}", code=1171 if inward else 1172, state="AD_MISMATCH")
        return transfer_failure(transfer.direction, text, about=about, number=int(facts.get("errno") or 0))


def content_type(name: str) -> str:
    """Return the type of a log file, empty = unknown."""
    import mimetypes

    return "text/plain" if name in TEXTS else mimetypes.guess_type(name)[0] or ""
