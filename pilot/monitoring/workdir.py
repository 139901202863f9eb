"""What a job's directory holds: sizes and the newest sign of life, from as few looks at files as possible."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple


class WorkdirView(NamedTuple):
    """The job's directory at one moment."""

    taken: float = 0.0
    """Monotonic s at which the figures were true."""
    size: int = 0
    """Bytes of all regular files, links not followed."""
    files: int = 0
    """How many there are."""
    newest: float = 0.0
    """Epoch s: latest modification of a file that counts as a sign of life of the payload; 0 = there is none."""
    newest_path: str = ""
    """That file, relative to the job's directory."""


class WorkdirTracker:
    """Follows one job's directory; used by one thread."""

    def __init__(self, workdir: Path) -> None:
        self._workdir = workdir

    def look(self) -> WorkdirView:
        """Return what is there now."""
        size = files = 0
        for place, _, names in os.walk(self._workdir):
            for name in names:
                try:
                    size += os.lstat(os.path.join(place, name)).st_size
                    files += 1
                except OSError:
                    continue
        return WorkdirView(time.monotonic(), size, files)
