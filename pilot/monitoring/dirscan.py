"""One pass over the files of a directory tree: sums per directory, the largest and the latest files.

Links are never followed, other file systems never entered, and neither are they asked: those mounted below are known
from the kernel's list. Each directory is opened by its name in its parent, so a directory that becomes a link in the
meantime is not followed either. Memory does not grow with the number of files.
"""

from __future__ import annotations

import heapq
import os
import stat
import time
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple, Tuple

REMEMBERED = 64
"""Of the largest files and of the latest ones, each."""
WATCHED_FROM = 1 << 20
"""Bytes from which a file is worth being watched by its name."""
_WATCHED = 256
_DEPTH = 100
"""Directories that are open at a time (two descriptors each); deeper ones are opened by their paths."""
_RACY = 2.0
"""s: a directory that has changed so shortly before it is read may change again without a new time."""
_LINKS = 100_000
"""Files with several names that are remembered, so that they count once."""
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class FileFact(NamedTuple):
    """One file. ``blocks``: bytes on disk, fewer than ``size`` in a file with holes."""

    size: int
    blocks: int
    mtime: float
    directory: str


class DirFact:
    """What stands directly in one directory: sums over its regular files."""

    __slots__ = ("blocks", "entries", "files", "mtime_ns", "size")

    def __init__(self, mtime_ns: int = 0) -> None:
        self.mtime_ns = mtime_ns
        self.size = self.blocks = self.files = self.entries = 0


_Level = Tuple[str, int, Any, DirFact, Iterator[Tuple[str, str]]]
"""An open directory: path, descriptor, its scandir, its sums, and the directories in it that are still to come."""


class Scan:
    """Collects; may be used for several subtrees one after the other.

    Args:
        root: descriptor of the job's directory.
        skip: relative paths that are not touched (mount points).
        watched: which files are remembered whatever their size and time.
        life: called with path and mtime (epoch s) of a file that is newer than ``newest``; returns the new ``newest``.
        newest: epoch s.
        owners: inode of each file with several names -> the one under which it counts; kept from scan to scan.
    """

    def __init__(self, root: int, skip: frozenset[str], watched: Callable[[str], bool],
                 life: Callable[[str, float], float], newest: float, owners: dict[int, str]) -> None:
        self._root, self._skip, self._watched_name = root, skip, watched
        self._life, self._newest, self._owners = life, newest, owners
        self._device = os.fstat(root).st_dev
        self._largest: list[tuple[int, str, FileFact]] = []
        self._latest: list[tuple[float, str, FileFact]] = []
        self._watched: list[tuple[int, str, FileFact]] = []
        self._deep: list[str] = []
        self.unreadable: list[str] = []
        """The first directories that could not be read, with the reason."""
        self.unread = 0

    # --- going down ---------------------------------------------------------------------------------------------------

    def tree(self, top: str) -> Iterator[tuple[str, DirFact]]:
        """Yield path and sums of ``top`` ('' = the root) and of every directory below it, each when it is complete."""
        self._deep.append(top)
        while self._deep:
            path = self._deep.pop()
            handle = self._open(path or ".", self._root, path)
            if handle is not None:
                yield from self._descend(path, handle)

    def one(self, path: str) -> tuple[DirFact, list[str]]:
        """Return the sums of one directory, and the paths of the directories in it.

        Raises:
            OSError: it cannot be read.
        """
        handle = os.open(path or ".", _FLAGS, dir_fd=self._root)
        below: list[str] = []
        try:
            fact = self._fact(handle)
            with os.scandir(handle) as entries:
                below.extend(prefix for _, prefix in self._files(entries, path, fact))
        finally:
            os.close(handle)
        return fact, below

    def _descend(self, top: str, handle: int) -> Iterator[tuple[str, DirFact]]:
        """Go through a tree with its directories open from top to bottom."""
        stack: list[_Level] = [self._enter(top, handle)]
        try:
            while stack:
                path, handle, entries, fact, walk = stack[-1]
                for name, below in walk:
                    if len(stack) >= _DEPTH:
                        self._deep.append(below)
                        continue
                    deeper = self._open(name, handle, below)
                    if deeper is not None:
                        stack.append(self._enter(below, deeper))
                        break
                else:
                    stack.pop()
                    entries.close()
                    os.close(handle)
                    yield path, fact
        finally:
            for _, handle, entries, _, _ in stack:
                entries.close()
                os.close(handle)

    def _enter(self, path: str, handle: int) -> _Level:
        fact = self._fact(handle)
        entries = os.scandir(handle)
        return path, handle, entries, fact, self._files(entries, path, fact)

    def _open(self, name: str, parent: int, path: str) -> int | None:
        """Return a descriptor, None for what cannot be read or is another file system."""
        try:
            handle = os.open(name, _FLAGS, dir_fd=parent)
        except FileNotFoundError:
            return None  # gone in the meantime
        except OSError as exc:
            self._cannot(path, exc)
            return None
        if os.fstat(handle).st_dev != self._device:
            os.close(handle)
            return None
        return handle

    def _cannot(self, path: str, exc: OSError) -> None:
        self.unread += 1
        if len(self.unreadable) < 5:
            self.unreadable.append(f"{shown(path or '.')}: {exc.strerror}")

    @staticmethod
    def _fact(handle: int) -> DirFact:
        """Taken before the entries are read; a time that tells nothing about later changes becomes 0."""
        changed = os.fstat(handle).st_mtime_ns
        return DirFact(0 if abs(time.time() - changed / 1e9) < _RACY else changed)

    # --- files --------------------------------------------------------------------------------------------------------

    def _files(self, entries: Iterator[os.DirEntry[str]], path: str, fact: DirFact) -> Iterator[tuple[str, str]]:
        """Add up the files of a directory; yield name and path of each directory in it."""
        prefix = f"{path}/" if path else ""
        skip, device = self._skip, self._device
        while True:
            try:
                entry = next(entries)
            except StopIteration:
                return
            except OSError as exc:  # in the middle of a directory: what has been read counts
                self._cannot(path, exc)
                return
            fact.entries += 1
            if skip and prefix + entry.name in skip:
                continue
            try:
                if entry.is_symlink():
                    continue
                if entry.is_dir(follow_symlinks=False):
                    yield entry.name, prefix + entry.name
                    continue
                info = entry.stat(follow_symlinks=False)
            except OSError:
                continue  # gone in the meantime
            if stat.S_ISREG(info.st_mode) and info.st_dev == device:
                self._file(info, prefix, entry.name, path, fact)

    def _file(self, info: os.stat_result, prefix: str, name: str, path: str, fact: DirFact) -> None:
        size, blocks, mtime = info.st_size, info.st_blocks * 512, info.st_mtime
        if mtime > self._newest:
            self._newest = self._life(prefix + name, mtime)
        if info.st_nlink > 1:
            owner = self._owners.get(info.st_ino)
            if owner is None and len(self._owners) < _LINKS:
                owner = self._owners[info.st_ino] = prefix + name
            if owner is not None and owner != prefix + name:
                return  # counted under its other name
        fact.size += size
        fact.blocks += blocks
        fact.files += 1
        if len(self._largest) < REMEMBERED or size > self._largest[0][0]:
            self._remember(self._largest, REMEMBERED, size, prefix + name, FileFact(size, blocks, mtime, path))
        if len(self._latest) < REMEMBERED or mtime > self._latest[0][0]:
            self._remember(self._latest, REMEMBERED, mtime, prefix + name, FileFact(size, blocks, mtime, path))
        if size >= WATCHED_FROM and self._watched_name(prefix + name):
            self._remember(self._watched, _WATCHED, size, prefix + name, FileFact(size, blocks, mtime, path))

    @staticmethod
    def _remember(heap: list[Any], limit: int, key: float, path: str, fact: FileFact) -> None:
        if len(heap) < limit:
            heapq.heappush(heap, (key, path, fact))
        else:
            heapq.heappushpop(heap, (key, path, fact))

    def remembered(self) -> dict[str, FileFact]:
        """The largest files, the latest ones and the watched ones, by path."""
        return {path: fact for heap in (self._largest, self._latest, self._watched) for _, path, fact in heap}


def shown(path: str) -> str:
    """Return a path for people and data bases: names that are not UTF-8, control characters and endless ones too."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    text = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
    return text if len(text) <= 200 else f"{text[:100]}...{text[-97:]}"
