"""The kill file: somebody outside (Raythena) asks for the end of the payload; what that has made is its result.

Source: control and monitoring document 6, 7.14 (code 1363, which is never reported).
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import Optional

from pilot.monitoring.checks import Breach, Ends, FileCheck, FileLook

logger = logging.getLogger(__name__)

KILL_PAYLOAD = 1363


class KillFileCheck(FileCheck):
    """Looks for the file while a payload runs, and removes it, so that it means one payload only.

    Args:
        path: of the file.
        period: s between two looks.
    """

    name = "kill-file"

    def __init__(self, path: Path, period: float) -> None:
        self.path, self.period = path, period
        self._obeyed: set[tuple[int, int, int]] = _OBEYED

    def look(self, look: FileLook) -> Optional[Breach]:
        """See ``FileCheck.look``."""
        if look.elapsed is None:
            return None
        try:
            status = os.lstat(self.path)
        except OSError:
            return None  # the rule: it is not there
        known = (status.st_dev, status.st_ino, status.st_mtime_ns)
        if known in self._obeyed:
            return None
        self._obeyed.add(known)
        if not stat.S_ISREG(status.st_mode):
            logger.warning("%s is no regular file (a link, a directory): it is not taken for an order to end the"
                           " payload", self.path)
            return None
        try:
            os.unlink(self.path)
        except OSError as exc:
            logger.warning("%s cannot be removed (%s): it counts for this payload only", self.path, exc.strerror)
        return Breach(KILL_PAYLOAD, f"the file {self.path} asks for its end", Ends.PAYLOAD)


_OBEYED: set[tuple[int, int, int]] = set()
"""(device, inode, time of change in ns) of those that were obeyed and may still be there; for all jobs."""
