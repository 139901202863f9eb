"""What one process holds and has moved, as only the kernel's dearer files tell it: PSS, swap, I/O.

The kernel walks the page tables for ``smaps_rollup``, some 5 ms per GB, and waits for the process' memory lock: behind
a process that is stuck on a dead mount this can hang. So it is never read in the monitor's thread.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple, Optional

from pilot.info.memory import IO

_FILE_LIMIT = 8192
_SIZES = (b"Rss", b"Pss", b"Swap", b"Pss_Anon", b"Pss_File", b"Pss_Shmem")


class Details(NamedTuple):
    """kB and bytes of one process. ``rss`` as it was then (kB)."""

    rss: int
    pss: int
    swap: int
    io: tuple[int, ...]
    """In the order of ``pilot.info.memory.IO``."""
    readable: bool = True
    """False: the kernel does not show its memory (another user's, or before Linux 4.14); ``pss`` is unknown."""
    parts: str = ""
    """What the PSS is made of."""


def read_details(pid: int) -> Optional[Details]:
    """Return what a process holds and has moved; None when it is gone."""
    rollup, counters = _read(f"/proc/{pid}/smaps_rollup"), _read(f"/proc/{pid}/io")
    if rollup == b"" or (rollup is None and not os.path.exists(f"/proc/{pid}")):
        return None  # it has just ended
    sizes = _sizes(rollup or b"")
    io = dict.fromkeys(IO, 0)
    for line in (counters or b"").split(b"\n"):
        name, colon, rest = line.partition(b":")
        key = name.decode("ascii", "replace")
        if colon and key in io:
            io[key] = int(rest)
    parts = ", ".join(f"{name[4:].decode().lower()} {sizes[name]} kB" for name in _SIZES[3:] if name in sizes)
    return Details(sizes.get(b"Rss", 0), sizes.get(b"Pss", 0), sizes.get(b"Swap", 0), tuple(io.values()),
                   b"Pss" in sizes, parts)


def _sizes(rollup: bytes) -> dict[bytes, int]:
    sizes: dict[bytes, int] = {}
    for line in rollup.split(b"\n"):
        name, colon, rest = line.partition(b":")
        if colon and name in _SIZES:
            sizes[name] = int(rest.split()[0])
    return sizes


def _read(path: str) -> Optional[bytes]:
    """Return what is in a file of /proc; b"" when the process has ended, None when it may not be read (or there is no
    such file in this kernel)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        return b"" if exc.errno == errno.ESRCH else None
    try:
        return os.read(descriptor, _FILE_LIMIT)
    except OSError as exc:
        return b"" if exc.errno == errno.ESRCH else None
    finally:
        os.close(descriptor)
