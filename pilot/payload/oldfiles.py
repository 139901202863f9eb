"""The files in which releases without a job report say what they did: metadata.xml, AthSummary*, AthenaSummary*."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from pilot.payload.textfiles import matching_lines, open_regular
from pilot.util.safexml import UnsafeXML, walk_xml

METADATA_XML_LIMIT = 4 * 1024 * 1024
"""Bytes of the longest metadata.xml that is read; one output takes about 1 kB."""

_SUMMARIES = ("AthSummary", "AthenaSummary")
_EVENTS = re.compile(rb"Events\s+(Read|Written)\s*:\s*([0-9]{1,12})\b")


@dataclass(frozen=True)
class MetadataXML:
    """metadata.xml: its text, GUID by LFN, and the sum of its ``events``."""

    text: str
    guids: Mapping[str, str]
    nevents: int


def read_metadata_xml(path: Path) -> Optional[MetadataXML]:
    """Return what metadata.xml says, None when there is no such file (a link is none).

    Raises:
        UnsafeXML: it cannot be read: badly formed, too long, or with entities.
    """
    handle = open_regular(path)
    if handle is None:
        return None
    try:
        with os.fdopen(handle, "rb") as stream:
            raw = stream.read(METADATA_XML_LIMIT + 1)
    except OSError as exc:
        raise UnsafeXML(f"{path.name}: {exc.strerror}") from None
    if len(raw) > METADATA_XML_LIMIT:
        raise UnsafeXML(f"{path.name} is longer than {METADATA_XML_LIMIT} bytes")
    guids: dict[str, str] = {}
    guid, events = "", 0

    def start(name: str, attributes: Mapping[str, str]) -> None:
        nonlocal guid, events
        if name == "File":
            guid = attributes.get("ID", "").strip()
        elif name == "lfn" and attributes.get("name"):
            guids[attributes["name"]] = guid
        elif name == "metadata" and attributes.get("att_name") == "events":
            value = attributes.get("att_value", "").strip()
            if len(value) < 13 and value.isdecimal():
                events += int(value)

    try:
        walk_xml(raw, start)
    except UnsafeXML as exc:
        raise UnsafeXML(f"{path.name}: {exc}") from None
    return MetadataXML(raw.decode("utf-8", "replace"), guids, events)


def events_of_summary(workdir: Path) -> tuple[int, int]:
    """Return (events read, events written) of the oldest AthSummary*/AthenaSummary* file; 0 for what is not said."""
    try:
        with os.scandir(workdir) as entries:
            files = [(entry.stat(follow_symlinks=False).st_mtime_ns, entry.name) for entry in entries
                     if entry.name.startswith(_SUMMARIES) and entry.is_file(follow_symlinks=False)]
    except OSError:
        return 0, 0
    if not files:
        return 0, 0
    found: dict[bytes, int] = {}
    for line in matching_lines(workdir / min(files)[1], (b"Events Read", b"Events Written")):
        for word, number in _EVENTS.findall(line):
            found.setdefault(word, int(number))
    return found.get(b"Read", 0), found.get(b"Written", 0)
