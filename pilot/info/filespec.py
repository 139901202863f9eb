"""One file of a job: input, output or log."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Optional

FileType = Literal["input", "output", "log"]
FileStatus = Literal["transferred", "remote_io", "no_transfer", "failed"]


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
    may_be_missing: bool = False
    """True for an output named in ``allowNoOutput``."""
    pattern: str = ""
    """Regular expression of an output that was defined as ``regex|<pattern>``; empty for every ordinary file."""

    def require_transfer(self) -> bool:
        """True while the file still has to be moved."""
        return self.status not in ("remote_io", "transferred", "no_transfer")
