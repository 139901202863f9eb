"""What a job's directory holds: sizes and the newest sign of life, from as few looks at files as possible.

::

    each look   time of each directory (2,000 at most) ── changed? ──► read it again, if that is cheap
                the largest, the latest, the watched files ──────────► how much have they grown?
    walk        every file: each time where that takes no time, else when the last one is 10 min old, or at once when
                the disk has lost more space since then than the job has left of its limit, or the limit is near

A walk over 100,000 files takes a quarter of a second of CPU, a look between two walks a millisecond or two.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from pathlib import Path
from typing import Callable, NamedTuple, Optional

from pilot.monitoring.dirscan import REMEMBERED, WATCHED_FROM, DirFact, FileFact, Scan, shown
from pilot.util.mounts import mounts_below

logger = logging.getLogger(__name__)

OLDEST = 600.0
"""s: so old may the figures of seldom changed files be."""
_WALKS = 1 / 2000
"""Share of a core for walks while the limit is far: 30 ms per minute. More when they would come less than every
``OLDEST`` s, up to ..."""
_MOST = 1 / 100
"""... this, also near the limit."""
_REREADING = 1 / 6000
"""Share of a core for reading changed directories again between walks: 10 ms per minute."""
_SAVED = 0.1
"""s of that which may be saved up."""
_PER_ENTRY = 3e-6
"""s that reading a directory takes per entry, before it was measured."""
_WALL_SHARE = 0.1
"""A walk that waits for a file server counts at least so much of its time as work."""
NEAR = 0.9
"""Of the limit: from here on every look is a walk."""
_DIRECTORIES = 2000
"""Directories that are looked at between walks: those that have changed last."""
_FILES = 512
_FUTURE = 4096


class WorkdirView(NamedTuple):
    """The job's directory at one moment."""

    taken: float = 0.0
    """Monotonic s at which the figures were true."""
    size: int = 0
    """Bytes of all regular files (holes count, as for ``ls``), links not followed; a file with several names once."""
    files: int = 0
    """How many there are."""
    newest: float = 0.0
    """Epoch s: latest modification of a file that counts as a sign of life of the payload; 0 = there is none. It only
    grows: also of a file that is gone since. A time in the future is that of the first look at the file."""
    newest_path: str = ""
    """That file, relative to the job's directory, printable."""
    walked: float = 0.0
    """Monotonic s of the last full walk: until then every file was looked at."""
    blocks: int = 0
    """Bytes on disk (as for ``du``)."""
    unread: int = 0
    """Directories that the last walk could not read."""


class WorkdirTracker:
    """Follows one job's directory; used by one thread.

    Args:
        workdir: the directory.
        counts: tells from a path relative to it whether changes of that file are a sign of life of the payload.
        limit: bytes that it may hold, None without a limit: the nearer it is, the fresher the figures are.
        watched: tells from a path which files beyond 1 MiB are looked at each time, whatever their size and time.
        leave_out: paths in it that belong to somebody else.
    """

    def __init__(self, workdir: Path, *, counts: Callable[[str], bool] = lambda path: True,
                 limit: Optional[int] = None, watched: Callable[[str], bool] = lambda path: False,
                 leave_out: frozenset[str] = frozenset()) -> None:
        self._workdir, self._counts, self._limit, self._watched = workdir, counts, limit, watched
        self._leave_out = leave_out
        self._newest, self._newest_path = 0.0, ""
        self._future: dict[str, tuple[float, float]] = {}
        """File whose time is in the future -> that time, and epoch s of the first look at it."""
        self._directories: dict[str, DirFact] = {}
        self._rest = DirFact()
        """Sums over the directories that are looked at by walks only."""
        self._files: dict[str, FileFact] = {}
        self._owners: dict[int, str] = {}
        self._walked = self._looked = 0.0
        self._cost = self._per_entry = 0.0
        self._credit = 0.0
        self._used_then = 0
        self._complained = False
        self.view = WorkdirView()
        """The last one."""

    def look(self) -> WorkdirView:
        """Return what is there now; files that change seldom may be known from the last full walk.

        Raises:
            OSError: the directory itself cannot be read.
        """
        now = time.monotonic()
        root = os.open(self._workdir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if self._wants_walk(now, root):
                return self._walk(root)
            self._credit = min(self._credit + (now - self._looked) * _REREADING, _SAVED)
            self._looked = now
            self._look_at_files(root)
            self._look_at_directories(root)
            if self._limit is not None and self._size() > NEAR * self._limit and self._may_walk(now):
                return self._walk(root)
            return self._result(now)
        finally:
            os.close(root)

    def walk(self) -> WorkdirView:
        """Look at every file: for a check that is about to end a job.

        Raises:
            OSError: the directory itself cannot be read.
        """
        root = os.open(self._workdir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return self._walk(root)
        finally:
            os.close(root)

    def files(self) -> list[tuple[str, FileFact]]:
        """Return path and figures of the largest files, the latest and the watched ones, the largest first."""
        return sorted(self._files.items(), key=lambda item: -item[1].size)

    def listing(self, lines: int = 20) -> list[str]:
        """Return lines for people: sums, then the largest directories and files."""
        view = self.view
        text = [f"{shown(str(self._workdir))}: {view.files} files, {view.size} B ({view.blocks} B on disk)"]
        directories = sorted(self._directories.items(), key=lambda item: -item[1].size)
        text += [f"{fact.size:>16} B in {fact.files} files directly in {shown(path or '.')}/"
                 for path, fact in directories[:lines]]
        if len(directories) > lines or self._rest.files:
            text.append(f"{'':>16}   ... and more directories")
        return text + [f"{fact.size:>16} B ({fact.blocks} B on disk) {shown(path)}"
                       for path, fact in self.files()[:lines]]

    # --- when to walk -------------------------------------------------------------------------------------------------

    def _wants_walk(self, now: float, root: int) -> bool:
        if not self._walked:
            return True
        age = now - self._walked
        if age >= min(self._cost / _WALKS, OLDEST):
            return self._may_walk(now)
        if self._limit is None:
            return False
        size = self._size()
        taken = _used(root) - self._used_then
        return (size > NEAR * self._limit or taken > self._limit - size) and self._may_walk(now)

    def _may_walk(self, now: float) -> bool:
        return now - self._walked >= self._cost / _MOST

    # --- looks --------------------------------------------------------------------------------------------------------

    def _scan(self, root: int) -> Scan:
        return Scan(root, mounts_below(self._workdir) | self._leave_out, self._watched, self._life, self._newest,
                    self._owners)

    def _walk(self, root: int) -> WorkdirView:
        began, worked = time.monotonic(), time.thread_time()
        self._owners.clear()
        self._directories, self._rest = {}, DirFact()
        self._used_then = _used(root)
        scan, entries = self._scan(root), 0
        for path, fact in scan.tree(""):
            entries += fact.entries
            self._directories[path] = fact
            if len(self._directories) >= 2 * _DIRECTORIES:
                self._forget_old_directories()
        if len(self._directories) > _DIRECTORIES:
            self._forget_old_directories()
        self._files = scan.remembered()
        now = time.monotonic()
        self._cost = max(time.thread_time() - worked, (now - began) * _WALL_SHARE)
        self._per_entry = self._cost / entries if entries > 1000 else _PER_ENTRY
        self._walked = self._looked = now
        self._credit = _SAVED / 10
        if scan.unread and not self._complained:
            self._complained = True
            logger.warning("%d directories of %s cannot be read, what is in them is not known: %s", scan.unread,
                           shown(str(self._workdir)), "; ".join(scan.unreadable))
        return self._result(began, scan.unread)

    def _forget_old_directories(self) -> None:
        """Keep the sums of all directories, and the directories that have changed last."""
        order = sorted(self._directories, key=lambda path: -(self._directories[path].mtime_ns or 1 << 63))
        for path in order[_DIRECTORIES:]:
            _add(self._rest, self._directories.pop(path))

    def _look_at_files(self, root: int) -> None:
        """See how the remembered files have changed."""
        for path, before in list(self._files.items()):
            sums = self._directories.get(before.directory, self._rest)
            try:
                info = os.stat(path, dir_fd=root, follow_symlinks=False)
                there = stat.S_ISREG(info.st_mode)
            except OSError:
                there = False
            if not there:
                del self._files[path]
                sums.size -= before.size
                sums.blocks -= before.blocks
                sums.files -= 1
                continue
            if (info.st_size, info.st_blocks * 512, info.st_mtime) == before[:3]:
                continue
            after = FileFact(info.st_size, info.st_blocks * 512, info.st_mtime, before.directory)
            self._files[path] = after
            sums.size += after.size - before.size
            sums.blocks += after.blocks - before.blocks
            if after.mtime > self._newest:
                self._life(path, after.mtime)

    def _look_at_directories(self, root: int) -> None:
        """Read those again that have changed, the small ones first, as far as that is cheap."""
        changed, gone = [], set()
        for path, fact in list(self._directories.items()):
            try:
                info = os.stat(path or ".", dir_fd=root, follow_symlinks=False)
            except OSError:
                del self._directories[path]
                gone.add(path)  # and with it what was in it
                continue
            if info.st_mtime_ns != fact.mtime_ns:
                changed.append((fact.entries, path))
        if not changed and not gone:
            return
        began, scan, read = time.thread_time(), self._scan(root), gone
        for entries, path in sorted(changed):
            if entries * self._per_entry > self._credit - (time.thread_time() - began):
                break  # the next walk will see it
            read.add(path)
            self._read_again(scan, path)
        self._credit -= time.thread_time() - began
        known = {path: fact for path, fact in self._files.items() if fact.directory not in read}
        known.update(scan.remembered())
        self._files = known if len(known) <= _FILES else self._most_telling(known)

    def _read_again(self, scan: Scan, path: str) -> None:
        try:
            self._directories[path], below = scan.one(path)
        except OSError:
            return  # unreadable or gone: the next walk will say so
        if self._rest.files or self._rest.entries:
            return  # which of them are new is not known; the next walk will find them
        for place in below:
            if place not in self._directories:
                self._directories.update(scan.tree(place))

    def _most_telling(self, files: dict[str, FileFact]) -> dict[str, FileFact]:
        """Return the largest, the latest and the watched ones."""
        largest = sorted(files, key=lambda path: -files[path].size)[:2 * REMEMBERED]
        latest = sorted(files, key=lambda path: -files[path].mtime)[:2 * REMEMBERED]
        watched = [path for path in files if files[path].size >= WATCHED_FROM and self._watched(path)][:2 * REMEMBERED]
        return {path: files[path] for path in (*largest, *latest, *watched)}

    # --- what is known ------------------------------------------------------------------------------------------------

    def _life(self, path: str, mtime: float) -> float:
        """Take the time of a file that seems newer than all before; returns the newest."""
        wall = time.time()
        if path in self._future and self._future[path][0] == mtime:
            mtime = self._future[path][1]
        elif mtime > wall:
            if len(self._future) >= _FUTURE or not self._counts(path):
                return self._newest
            self._future[path] = (mtime, wall)
            mtime = wall
        if mtime > self._newest and self._counts(path):
            self._newest, self._newest_path = mtime, path
        return self._newest

    def _size(self) -> int:
        return self._rest.size + sum(fact.size for fact in self._directories.values())

    def _result(self, taken: float, unread: Optional[int] = None) -> WorkdirView:
        sums = DirFact()
        _add(sums, self._rest)
        for fact in self._directories.values():
            _add(sums, fact)
        self._newest = min(self._newest, time.time())  # the clock may have been set back
        self.view = WorkdirView(taken, sums.size, sums.files, self._newest, shown(self._newest_path), self._walked,
                                sums.blocks, self.view.unread if unread is None else unread)
        return self.view


def _add(sums: DirFact, more: DirFact) -> None:
    sums.size += more.size
    sums.blocks += more.blocks
    sums.files += more.files
    sums.entries += more.entries


def _used(root: int) -> int:
    """Return the bytes in use on the file system, 0 when it does not say."""
    try:
        status = os.fstatvfs(root)
    except OSError:
        return 0
    return (status.f_blocks - status.f_bfree) * status.f_frsize
