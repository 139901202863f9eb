"""File systems that are mounted below a directory, found without touching them: the server of one may have died."""

from __future__ import annotations

import os
import re
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_ESCAPE = re.compile(rb"\\([0-7]{3})")


def mounts_below(directory: str | os.PathLike[str], table: Path = _MOUNTS) -> frozenset[str]:
    """Return the mount points below ``directory``, relative to it; also files that something is mounted over.

    A look-up in such a place asks the server of that file system and may never come back. What cannot be found out is
    no mount point.

    Args:
        directory: need not exist.
        table: stands for /proc/self/mountinfo in tests.
    """
    try:
        text = table.read_bytes()
        root = os.fsencode(os.path.realpath(directory)).rstrip(b"/") + b"/"
    except OSError:
        return frozenset()
    if b"\\" not in text and b" " + root not in text and b"\\" not in root and b" " not in root:
        return frozenset()  # the usual case, without a look at each line
    found = set()
    for line in text.splitlines():
        fields = line.split(b" ", 5)
        if len(fields) < 6:
            continue
        place = _ESCAPE.sub(lambda match: bytes([int(match.group(1), 8) & 255]), fields[4])
        if place.startswith(root):
            found.add(os.fsdecode(place[len(root):]))
    return frozenset(found)
