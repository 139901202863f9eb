"""Beside a copy in a helper process: progress where the library tells none, removal of what a broken upload left."""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from typing import Callable, Iterator, Optional

from pilot.copytool.worker.alarm import CLOCK
from pilot.copytool.worker.main import Call

LOOK = 1.0
"""Seconds between two looks at a copy."""
SUM_BASE, SUM_RATE = 60.0, 20e6
"""Seconds, bytes per second: a server that computes a checksum this fast is not taken for one that hangs."""
TIDY = 0.6
"""Seconds after its cancellation in which an upload may still remove something: less than the pilot waits, so that
the removal never meets the file of the next attempt."""


@contextmanager
def watched(call: Call, position: Callable[[], Optional[int]], size: int) -> Iterator[None]:
    """Tell the pilot how far a copy is, while the block runs.

    Args:
        call: the order.
        position: bytes moved so far, None = cannot be told.
        size: bytes of the file (0 = unknown): when they all have moved, the wait for the server's checksum counts as
            life, for as long as that may take.
    """
    over = threading.Event()

    def look() -> None:
        last, patience = -1, 0.0
        while not over.is_set():
            here = position()
            if here is not None and here != last:
                last, patience = here, time.monotonic() + SUM_BASE + size / SUM_RATE
                call.progress(here)
            elif here is not None and size and here >= size and time.monotonic() <= patience:
                call.progress(here)
            over.wait(LOOK)

    # a thread of its own, as a look may hang with a file system; most copies are over before there is anything to see
    first = CLOCK.after(LOOK, threading.Thread(target=look, daemon=True).start)
    try:
        yield
    finally:
        first.cancel()
        over.set()


def size_of(path: str) -> Optional[int]:
    """Bytes that have arrived in a local file."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def read_position(path: str) -> Optional[int]:
    """Bytes of a local file that a library of this process has read: the position of its open descriptor."""
    try:
        wanted = os.stat(path)
        for name in os.listdir("/proc/self/fd"):
            try:
                found = os.fstat(int(name))
            except OSError:  # closed meanwhile
                continue
            if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                with open(f"/proc/self/fdinfo/{name}", encoding="ascii") as info:
                    return int(info.readline().split()[1])
    except (OSError, ValueError, IndexError):  # a system without /proc tells nothing
        return None
    return None


class Upload:
    """Takes away what an upload of ours leaves when it fails or is broken off.

    ``began`` is what the library told: bytes are on their way, so the file at the destination is ours. Before that it
    is somebody else's, unless it is empty.

    Args:
        call: the order.
        size: B of the local file.
        stat: size of the file at the destination, None when there is none.
        remove: deletes it. Both use a connection of their own (that of the copy may stand still), and may raise.
    """

    def __init__(
        self, call: Call, size: int, stat: Callable[[], Optional[int]], remove: Callable[[], None]
    ) -> None:
        self._call = call
        self._size = size
        self._stat = stat
        self._remove = remove
        self._lock = threading.Lock()
        self._cancelled = 0.0
        self.began = False
        if call.again:
            self._clear()
        call.on_cancel(self._abort)

    def _clear(self) -> None:
        """The helper of the first try died over it: what is shorter than our file is a part of it."""
        try:
            there = self._stat()
            if there is not None and there < self._size:
                self._remove()
        except Exception:  # noqa: BLE001 - the upload itself will say what is wrong
            return

    def _abort(self) -> None:
        self._cancelled = time.monotonic()
        self._tidy()
        threading.Event().wait(TIDY / 2)
        self._tidy()  # the file may have been created just now

    def failed(self) -> bool:
        """Clean up after a failure; True when a partial file may still lie there."""
        self._call.forget(self._abort)
        return not self._tidy()

    def done(self) -> None:
        """The file is stored."""
        self._call.forget(self._abort)

    def _tidy(self) -> bool:
        """True when nothing of ours is left."""
        with self._lock:
            if self._cancelled and time.monotonic() - self._cancelled > TIDY:
                return False
            try:
                there = 0 if self.began else self._stat()
                if there == 0 and (self.began or self._size):
                    self._remove()
            except Exception:  # noqa: BLE001 - whatever the library raises: the failure is on its way already
                return not self.began
            return True
