"""Machine and job features: what a site says about a slot in the directories $MACHINEFEATURES and $JOBFEATURES.

One file per key, its content is the value (HEPiX, HSF-TN-2016-02); both may be URLs instead of paths.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import Optional

from pilot.util.checksum import open_regular

MACHINE, JOB = "MACHINEFEATURES", "JOBFEATURES"
_LIMIT = 100
"""Bytes of a value that are read."""
_PATIENCE = 5.0
"""s that a server may take for a value."""
_URL = re.compile(r"https?://", re.IGNORECASE)


def feature(environ: Mapping[str, str], place: str, key: str, *, urls: bool = True) -> Optional[float]:
    """Return the number of ``key`` in the directory that ``environ[place]`` names.

    None when there is no such directory, file, or no finite number that is not negative in it. ``urls`` False: only
    paths are looked at, for callers that must not wait for a server.
    """
    where = environ.get(place, "")
    if where.startswith("/"):
        text = _read(os.path.join(where, key))
    elif urls and _URL.match(where):
        text = _download(f"{where.rstrip('/')}/{key}")
    else:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and 0 <= number < 1e18 else None


def _read(path: str) -> str:
    """Return the first bytes of a regular file, also behind a link: the directory is the site's; '' for all else."""
    try:
        with open(open_regular(path), "rb") as stream:
            return stream.read(_LIMIT).decode("ascii", "replace").strip()
    except OSError:
        return ""


def _download(url: str) -> str:
    from pilot.util.fetch import FetchError, fetch

    try:
        return fetch(url, timeout=_PATIENCE, max_bytes=_LIMIT).decode("ascii", "replace").strip()
    except FetchError:
        return ""
