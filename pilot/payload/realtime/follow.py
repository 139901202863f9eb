"""New lines of a growing file: it may appear late, be rotated or truncated, or hold anything but lines of text."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable, Optional

from pilot.payload.textfiles import open_regular, printable
from pilot.util.redact import MASK, redact
from pilot.util.safepath import is_inside

LINE_LIMIT = 16 << 10
"""Bytes of a line; the rest of a longer one is left out."""
CHUNK = 32 << 10
LAG_LIMIT = 64 << 20
"""Unread bytes: with more of them the reader goes on near the end."""
_KEY_LINES = 200
"""Lines after the beginning of a key without its end: what follows is shown again."""


class Follower:
    """Reads what was appended since the last look; one stat per look while nothing changes."""

    def __init__(self, find: Callable[[], Optional[Path]], root: Optional[Path] = None) -> None:
        self._find = find
        self._root = root
        self._path: Optional[Path] = None
        self._handle = -1
        self._identity = (0, 0)
        self._offset = 0
        self._size = 0
        self._next: Optional[int] = None
        """Descriptor of the file that has taken the place of the one that is read to its end first."""
        self._carry = b""
        self._cut = False
        """The line that is being read was too long: what comes until its end is left out."""
        self._key_lines = 0
        self.lost = 0
        """Bytes that were never read: truncated away before, or skipped because there were too many."""

    @property
    def unread(self) -> int:
        """Bytes that the last look has seen and that were not read."""
        return max(0, self._size - self._offset) if self._handle >= 0 else 0

    def look(self) -> None:
        """See how the file has changed; never blocks, never raises."""
        if self._next is not None:
            return  # the old one first
        if self._handle < 0:
            self._path = self._find()
            if self._path is not None:
                self._open()
            return
        assert self._path is not None
        try:
            there = os.stat(self._path, follow_symlinks=False)
        except OSError:  # removed: what was written to it can still be read
            self._size = _size_of(self._handle)
            return
        if (there.st_dev, there.st_ino) != self._identity:
            self._size = _size_of(self._handle)
            self._next = self._opened(self._path)
        else:
            if there.st_size < self._offset:
                self.lost += self.unread
                self._offset, self._carry, self._cut = 0, b"", False  # truncated: its new content from the beginning
            self._size = there.st_size
        self._limit_lag()

    def lines(self, *, at_end: bool = False) -> list[str]:
        """Return up to 32 kB of complete lines, printable and without secrets; with ``at_end`` the last piece, too."""
        if self._handle < 0:
            return []
        try:
            block = os.pread(self._handle, CHUNK, self._offset)
        except OSError:
            block = b""
        self._offset += len(block)
        # nothing there although the look has seen more: it was truncated meanwhile, or cannot be read
        self._size = max(self._size, self._offset) if block else self._offset
        found = self._split(block) if block else []
        if not block and self._next is not None:
            found += self._rest()
            self._close()
            self._take(self._next)
            self._next = None
        elif not block and at_end:
            found += self._rest()
        return [self._clean(line) for line in found if line.strip()]

    def close(self) -> None:
        """Close the file."""
        self._close()
        if self._next is not None:
            os.close(self._next)
            self._next = None

    def _open(self) -> None:
        assert self._path is not None
        handle = self._opened(self._path)
        if handle is not None:
            self._take(handle)
            self._limit_lag()

    def _opened(self, path: Path) -> Optional[int]:
        """Open it: no link, no FIFO; what is open then, whatever the path meant a moment ago, lies below the root."""
        handle = open_regular(path)
        if handle is not None and self._root is not None and not is_inside(
                self._root, Path(os.readlink(f"/proc/self/fd/{handle}"))):
            os.close(handle)
            return None
        return handle

    def _take(self, handle: int) -> None:
        there = os.fstat(handle)
        self._handle, self._offset, self._size = handle, 0, there.st_size
        self._identity = there.st_dev, there.st_ino

    def _close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _limit_lag(self) -> None:
        if self._size - self._offset > LAG_LIMIT:
            skipped = self._size - self._offset - LAG_LIMIT // 2
            self.lost += skipped
            self._offset += skipped
            self._carry, self._cut = b"", True  # in the middle of a line

    def _split(self, block: bytes) -> list[bytes]:
        pieces = (self._carry + block).split(b"\n")
        self._carry = pieces.pop()
        if self._cut and pieces:
            pieces.pop(0)
            self._cut = False
        if len(self._carry) > LINE_LIMIT:
            if not self._cut:
                pieces.append(self._carry)
            self._carry, self._cut = b"", True
        elif self._cut:
            self._carry = b""
        return pieces

    def _rest(self) -> list[bytes]:
        rest, self._carry = self._carry, b""
        return [rest] if rest and not self._cut else []

    def _clean(self, line: bytes) -> str:
        text = printable(line[:LINE_LIMIT])
        if len(line) > LINE_LIMIT:
            text += f" ... [cut after {LINE_LIMIT} bytes]"
        if "-----BEGIN " in text:
            self._key_lines = 0 if "-----END " in text else _KEY_LINES
            return redact(text)
        if self._key_lines:
            self._key_lines = 0 if "-----END " in text else self._key_lines - 1
            return MASK
        return redact(text)


def _size_of(handle: int) -> int:
    try:
        return os.fstat(handle).st_size
    except OSError:
        return 0
