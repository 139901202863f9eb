"""PoolFileCatalog.xml: tells the payload where its inputs are.

Keyed by LFN: two inputs with the same GUID stay two files, and a signed URL does not hide its LFN.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Iterable, Mapping

from pilot.common.exception import BadXML, FileHandlingFailure, NoLocalSpace
from pilot.info.filespec import FileSpec
from pilot.util.copying import placed
from pilot.util.safexml import walk_xml

CATALOG = "PoolFileCatalog.xml"
_READ_LIMIT = 64 << 20

_HEAD = '<?xml version="1.0" ?>\n<!DOCTYPE POOLFILECATALOG SYSTEM "InMemory">\n<POOLFILECATALOG>\n'
_FILE = (
    '  <File ID="{guid}">\n'
    "    <physical>\n"
    '      <pfn filetype="ROOT_All" name="{name}"/>\n'
    "    </physical>\n"
    "    <logical/>\n"
    "  </File>\n"
)
_TAIL = "</POOLFILECATALOG>\n"
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\t": "&#9;"})


def catalog_text(files: Iterable[FileSpec]) -> str:
    """Return the XML text, files in the given order."""
    rows = (
        _FILE.format(guid=spec.guid.translate(_ESCAPES), name=spec.physical_name.translate(_ESCAPES)) for spec in files
    )
    return _HEAD + "".join(rows) + _TAIL


def write_catalog(files: Iterable[FileSpec], workdir: Path) -> Path:
    """Write the catalogue into ``workdir``, all or nothing.

    Raises:
        NoLocalSpace: 1098, the disk is full.
        FileHandlingFailure: 1303, anything else.
    """
    path = workdir / CATALOG
    try:
        with placed(path) as part:
            part.write_text(catalog_text(files), encoding="utf-8", errors="surrogateescape")
    except OSError as exc:
        import errno

        full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
        raise (NoLocalSpace if full else FileHandlingFailure)(f"cannot write {path}: {exc.strerror or exc}") from exc
    return path


def read_catalog(path: Path) -> dict[str, tuple[str, str]]:
    """Return ``{lfn: (physical name, guid)}``; the LFN is the last path component without a query.

    A payload may have replaced the file: a link is not followed, more than 64 MiB are not read.

    Raises:
        BadXML: 1247, no such file or no XML; the text says what is wrong with it.
    """
    result: dict[str, tuple[str, str]] = {}
    guid = ""

    def start(name: str, attributes: Mapping[str, str]) -> None:
        nonlocal guid
        if name == "File":
            guid = attributes.get("ID", "")
        elif name == "pfn" and attributes.get("name"):
            pfn = attributes["name"]
            result[pfn.split("?", 1)[0].rsplit("/", 1)[-1]] = (pfn, guid)

    try:
        walk_xml(_content(path), start)
    except (OSError, ValueError) as exc:
        reason = exc.strerror or str(exc) if isinstance(exc, OSError) else str(exc)
        raise BadXML(f"cannot read {path}: {reason}") from exc
    return result


def _content(path: Path) -> bytes:
    """Return what is in a regular file; raises OSError, or ValueError when it is too long or none."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with open(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError("no regular file")
        raw = stream.read(_READ_LIMIT + 1)
    if len(raw) > _READ_LIMIT:
        raise ValueError(f"longer than {_READ_LIMIT} bytes")
    return raw
