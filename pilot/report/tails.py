"""The ends of a job's log files: bounded, secrets masked, readable whatever a payload has written."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Optional

from pilot.report.text import block
from pilot.store.pilotdb import JobRow

_BYTES = 24_000
"""Read of each file."""
_LINE = 500
"""Characters of a line that are shown."""
_END_OF_KEY = re.compile(r"-----END [A-Z0-9 ]+-----")


class Tail(NamedTuple):
    """The end of one file."""

    name: str
    size: int
    """Bytes of the whole file."""
    lines: Sequence[str]
    """Harmless."""
    cut: bool
    """There is more before them."""


def job_logs(home: Path, row: JobRow, pilot_log: str, payload_logs: Sequence[str], own_log: Optional[Path] = None
             ) -> list[Tail]:
    """Return the ends of the pilot's log and of the payload's output, as far as they are (still) there.

    Args:
        home: the pilot's main work directory.
        row: the job.
        pilot_log: name of the pilot's log there; a job before the last one has its own, ``<stem>-<id>``.
        payload_logs: names of the payload's stdout and stderr in the job's directory.
        own_log: the log of this job, when that is known.
    """
    log = home / pilot_log
    kept = log.with_name(f"{log.stem}-{re.sub(r'[^A-Za-z0-9_.-]', '_', row.job_id)[:64]}{log.suffix}")
    places = [own_log or (kept if kept.is_file() else log)]
    if row.workdir:
        places += [Path(row.workdir) / name for name in payload_logs]
    tails = [tail_of(place, pilots_own=place == places[0]) for place in places]
    return [found for found in tails if found is not None]


def tail_of(path: Path, *, pilots_own: bool = False) -> Optional[Tail]:
    """Return the end of a regular file, None when it cannot be read; never follows a link or waits for a pipe.

    The pilot's own log is shown in the classic format, whichever it has (``--log-format``).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with open(descriptor, "rb", buffering=0) as stream:
        try:
            info = os.fstat(descriptor)
            if not stat.S_ISREG(info.st_mode):
                return None
            stream.seek(max(0, info.st_size - _BYTES))
            data = stream.read(_BYTES) or b""
        except OSError:
            return None
    cut = info.st_size > _BYTES
    return Tail(path.name, info.st_size, _lines(data, cut=cut, pilots_own=pilots_own), cut)


def _lines(data: bytes, *, cut: bool, pilots_own: bool) -> list[str]:
    text = data.decode("utf-8", "replace")
    if cut:
        first, newline, rest = text.partition("\n")
        text = rest if newline else first[_LINE:]  # half a line may hold half a secret
        key = _END_OF_KEY.search(text)
        if key is not None and "-----BEGIN" not in text[:key.start()]:
            text = text[key.end():]
    if pilots_own and ("\n{" in text or text.startswith("{")):
        from pilot.util.jsonlog import classic_line

        text = "\n".join(map(classic_line, text.split("\n")))
    lines = block(text.rstrip("\n")) if text.strip() else []
    return [line if len(line) <= _LINE else f"{line[:_LINE]} ... ({len(line)} characters)" for line in lines]
