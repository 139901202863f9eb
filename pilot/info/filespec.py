"""One file of a job: input, output or log."""

from __future__ import annotations

import os
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any, Literal, Optional

FileType = Literal["input", "output", "log"]
FileStatus = Literal["transferred", "remote_io", "no_transfer", "failed"]

_TEXTS = ("guid", "scope", "dataset", "ddmendpoint", "storage_token", "accessmode", "surl", "turl", "domain")


@dataclass
class FileSpec:
    """One file; sizes in bytes.

    Source of each field: the job definition (``inFiles``, ``outFiles`` and their parallel lists), queuedata, and what
    happens during the transfer. ``checksum`` has the keys ``adler32`` and ``md5`` only; empty means unknown.
    """

    lfn: str
    filetype: FileType = "input"
    guid: str = ""
    filesize: int = 0
    checksum: dict[str, str] = field(default_factory=dict)
    scope: str = ""
    dataset: str = ""
    ddmendpoint: str = ""
    ddmendpoint_alt: Optional[str] = None
    storage_token: str = ""
    accessmode: str = ""
    allow_lan: bool = True
    allow_wan: bool = False
    direct_access_lan: bool = False
    direct_access_wan: bool = False
    replicas: Optional[list[dict[str, str]]] = None
    protocols: Optional[list[dict[str, object]]] = None
    surl: str = ""
    turl: str = ""
    domain: str = ""
    status: Optional[FileStatus] = None
    status_code: int = 0
    inputddms: list[str] = field(default_factory=list)
    ddm_activity: list[str] = field(default_factory=list)
    workdir: Optional[Path] = None
    protocol_id: Optional[int] = None
    is_tar: bool = False
    checkinputsize: bool = True
    is_altstaged: bool = False
    log_url: str = ""
    """Of a log: where a browser finds the pilot's log, when it was stored as a file of its own."""
    may_be_missing: bool = False
    """True for an output named in ``allowNoOutput``."""
    pattern: str = ""
    """Regular expression of an output that was defined as ``regex|<pattern>``; empty for every ordinary file."""

    @property
    def physical_name(self) -> str:
        """What the payload opens: the TURL of a remote file (environment variables expanded), else the LFN."""
        return os.path.expandvars(self.turl) if self.status == "remote_io" else self.lfn

    type: InitVar[Optional[str]] = None
    """Not kept: what other programs call ``filetype``."""

    def __post_init__(self, type: Optional[str]) -> None:
        """Take what programs outside of the pilot give: None for an unknown text, a path or a checksum as text."""
        for name in _TEXTS:
            if getattr(self, name) is None:
                setattr(self, name, "")
        given: Any = self.workdir
        if isinstance(given, str):
            self.workdir = Path(given) if given else None
        sums: Any = self.checksum
        if not isinstance(sums, dict):
            from pilot.info.jobfilespecs import parse_checksum

            try:
                self.checksum = parse_checksum(sums)
            except ValueError as exc:
                raise ValueError(f"checksum of {self.lfn} {exc}") from exc
        size: Any = self.filesize
        if not isinstance(size, int):
            self.filesize = int(size or 0)

    def require_transfer(self) -> bool:
        """True while the file still has to be moved."""
        return self.status not in ("remote_io", "transferred", "no_transfer")
