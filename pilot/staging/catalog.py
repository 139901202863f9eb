"""PoolFileCatalog.xml: tells the payload where its inputs are.

Keyed by LFN: two inputs with the same GUID stay two files, and a signed URL does not hide its LFN.
"""

from __future__ import annotations

from pathlib import Path
from typing import Iterable

from pilot.common.exception import BadXML, FileHandlingFailure, NoLocalSpace
from pilot.info.filespec import FileSpec
from pilot.util.copying import placed

CATALOG = "PoolFileCatalog.xml"

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

    Raises:
        BadXML: 1247, no such file or no XML.
    """
    from xml.etree import ElementTree

    try:
        root = ElementTree.parse(path).getroot()  # noqa: S314 - our own file
    except (OSError, ElementTree.ParseError) as exc:
        raise BadXML(f"cannot read {path}: {exc}") from exc
    result = {}
    for entry in root.iter("File"):
        for pfn in entry.iter("pfn"):
            name = pfn.get("name", "")
            result[name.split("?", 1)[0].rsplit("/", 1)[-1]] = (name, entry.get("ID", ""))
    return result
