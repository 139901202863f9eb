"""The checks of what a job writes: free space, size of its directory, its outputs, its stdout and log files.

Each text has the figure, the limit and where that comes from. All numbers are bytes.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Callable, Optional

from pilot.monitoring.checks import Blind, Breach, FileCheck, FileLook
from pilot.monitoring.dirscan import shown
from pilot.store.viewrows import Limit

logger = logging.getLogger(__name__)

NO_SPACE, WORKDIR_TOO_LARGE, STDOUT_TOO_LARGE, OUTPUT_TOO_LARGE = 1098, 1104, 1106, 1124


class DiskCheck(FileCheck):
    """What the checks of this module have in common.

    Args:
        limit: with its value in bytes and its origin.
        period: s between two looks.
        tell: takes the limit at the first look (short jobs have none).
    """

    def __init__(self, limit: Limit, period: float, tell: Callable[[Limit], None]) -> None:
        self.limit, self.period = limit, period
        self._tell: Optional[Callable[[Limit], None]] = tell
        self._listing: list[str] = []

    def look(self, look: FileLook) -> Optional[Breach]:
        """Compare with the limit."""
        if self._tell is not None:
            self._tell(self.limit)
            self._tell = None
        breach = self.compare(look)
        if breach is not None and look.tracker is not None:
            self._listing = look.tracker.listing()  # here: the tracker belongs to this thread
        return breach

    def compare(self, look: FileLook) -> Optional[Breach]:
        """Return the breach, None while all is well."""
        raise NotImplementedError

    def evidence(self, breach: Breach) -> None:
        """Write what is large into the log."""
        for line in self._listing:
            logger.info("what is large: %s", line)


class FreeSpace(DiskCheck):
    """1098: the disk is nearly full; ended now, there is still room for the job's log."""

    name = "free space"

    def __init__(self, limit: Limit, period: float, tell: Callable[[Limit], None], place: Path) -> None:
        super().__init__(limit, period, tell)
        self._place = place

    def compare(self, look: FileLook) -> Optional[Breach]:
        """Compare what is free in the main work directory."""
        if look.free is None:
            raise Blind(f"the free space in {self._place} cannot be found out")
        if look.free > self.limit.value:
            return None
        return Breach(NO_SPACE, f"too little space left on local disk to run job: {look.free} B (need > "
                                f"{self.limit.value:.0f} B, {self.limit.origin})")


class WorkdirSize(DiskCheck):
    """1104: the job's directory holds more than the queue allows. Holes in files count: what is compared is what ``ls``
    shows, as in existing pilots; the text says both."""

    name = "work directory size"

    def __init__(self, limit: Limit, period: float, tell: Callable[[Limit], None], workdir: Path) -> None:
        super().__init__(limit, period, tell)
        self._workdir = workdir

    def compare(self, look: FileLook) -> Optional[Breach]:
        """Compare; before a job is ended every file is looked at."""
        view = look.view
        if view.size > self.limit.value and view.taken > view.walked and look.tracker is not None:
            try:
                view = look.tracker.walk()
            except OSError as exc:
                raise Blind(f"{self._workdir}: {exc.strerror}") from exc
        if view.size <= self.limit.value:
            return None
        return Breach(WORKDIR_TOO_LARGE, f"work directory ({self._workdir}) is too large: "
                                         f"{size_words(view.size, view.blocks)} (must be < {self.limit.value:.0f} B, "
                                         f"{self.limit.origin})")


class OutputSizes(DiskCheck):
    """1124: an output is larger than any storage takes. One of 0 bytes is normal while the payload runs."""

    name = "output sizes"

    def __init__(self, limit: Limit, period: float, tell: Callable[[Limit], None], workdir: Path,
                 names: Iterable[str]) -> None:
        super().__init__(limit, period, tell)
        self._workdir, self._names = workdir, tuple(names)

    def compare(self, look: FileLook) -> Optional[Breach]:
        """Look at each output that is there."""
        for name in self._names:
            try:
                info = os.lstat(self._workdir / name)
            except (OSError, ValueError):
                continue  # not there yet
            if stat.S_ISREG(info.st_mode) and info.st_size >= self.limit.value:
                return Breach(OUTPUT_TOO_LARGE, f"output file {shown(name)} is too large: "
                                                f"{size_words(info.st_size, info.st_blocks * 512)} (must be < "
                                                f"{self.limit.value:.0f} B, {self.limit.origin})")
        return None


class StdoutSize(DiskCheck):
    """1106: stdout or a log file of the payload grows without end."""

    name = "stdout size"

    def __init__(self, limit: Limit, period: float, tell: Callable[[Limit], None], workdir: Path, stdout: str,
                 is_stdout: Callable[[str], bool]) -> None:
        super().__init__(limit, period, tell)
        self._stdout, self._is_stdout = workdir / stdout, is_stdout

    def compare(self, look: FileLook) -> Optional[Breach]:
        """Look at stdout itself, and at those log files that are large (the tracker watches them)."""
        found: list[tuple[str, int, int]] = []
        try:
            info = os.lstat(self._stdout)
        except OSError:
            pass  # not there yet
        else:
            if stat.S_ISREG(info.st_mode):
                found.append((self._stdout.name, info.st_size, info.st_blocks * 512))
        if look.tracker is not None:
            found += [(path, fact.size, fact.blocks) for path, fact in look.tracker.files() if self._is_stdout(path)]
        for path, size, blocks in found:
            if size > self.limit.value:
                return Breach(STDOUT_TOO_LARGE, f"{shown(path)} is too large: {size_words(size, blocks)} (must be <= "
                                                f"{self.limit.value:.0f} B, {self.limit.origin})")
        return None


def stdout_names(stdout: str, others: Iterable[str]) -> Callable[[str], bool]:
    """Return what tells whether a path in the job's directory is its stdout or a log file (control-and-monitoring 7.3).

    Args:
        stdout: name of the payload's stdout.
        others: inputs, outputs and the log: files with a purpose of their own, whatever they are called.
    """
    excluded = frozenset(others)

    def is_stdout(path: str) -> bool:
        if path == stdout or (path.startswith("workDir/tmp.stdout.") and path.count("/") == 1):
            return True
        return path.startswith("log.") and "/" not in path and "job.log.tgz" not in path and path not in excluded

    return is_stdout


def size_words(size: int, blocks: int) -> str:
    """Return a size in words; of a file with large holes both figures."""
    return f"{size} B ({blocks} B on disk)" if blocks < size // 2 else f"{size} B"
