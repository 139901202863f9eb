"""What a job's directory holds: sizes and the newest sign of life, from as few looks at files as possible."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Callable, NamedTuple, Optional


class WorkdirView(NamedTuple):
    """The job's directory at one moment."""

    taken: float = 0.0
    """Monotonic s at which the figures were true."""
    size: int = 0
    """Bytes of all regular files, links not followed."""
    files: int = 0
    """How many there are."""
    newest: float = 0.0
    """Epoch s: latest modification of a file that counts as a sign of life of the payload; 0 = there is none. It only
    grows: also of a file that is gone since. A time in the future is that of the first look at the file."""
    newest_path: str = ""
    """That file, relative to the job's directory, printable."""
    walked: float = 0.0
    """Monotonic s of the last full walk: until then every file was looked at."""


class WorkdirTracker:
    """Follows one job's directory; used by one thread.

    Args:
        workdir: the directory.
        counts: tells from a path relative to it whether changes of that file are a sign of life of the payload.
        limit: bytes that it may hold, None without a limit: the nearer it is, the fresher the figures are.
    """

    def __init__(self, workdir: Path, *, counts: Callable[[str], bool] = lambda path: True,
                 limit: Optional[int] = None) -> None:
        self._workdir, self._counts, self._limit = workdir, counts, limit
        self._newest, self._newest_path = 0.0, ""

    def look(self) -> WorkdirView:
        """Return what is there now; files that change seldom may be known from the last full walk."""
        return self.walk()

    def walk(self) -> WorkdirView:
        """Look at every file: for a check that is about to end a job."""
        size = files = 0
        now = time.time()
        for place, _, names in os.walk(self._workdir):
            for name in names:
                path = os.path.join(place, name)
                try:
                    status = os.lstat(path)
                except OSError:
                    continue
                size += status.st_size
                files += 1
                relative = os.path.relpath(path, self._workdir)
                if self._newest < status.st_mtime <= now and self._counts(relative):
                    self._newest, self._newest_path = status.st_mtime, relative
        taken = time.monotonic()
        return WorkdirView(taken, size, files, self._newest, self._newest_path, taken)
