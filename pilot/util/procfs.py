"""One pass over /proc: who is whose child, in which session, and how much CPU time it has used.

Everything that looks at processes (the supervisor, the samplers, the checks) shares this pass; psutil is not used
because it would open three files per process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Optional

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

_STAT_LIMIT = 1024
"""Bytes read of a stat file: it is one line of about 300 bytes."""


class ProcInfo(NamedTuple):
    """One process as /proc/<pid>/stat shows it (proc(5)); times in clock ticks, ``rss`` in pages, ``vsize`` in bytes.

    ``cutime`` and ``cstime`` are the times of children that have ended *and were waited for* by this process.
    ``start`` (ticks after boot) together with ``pid`` names a process for good: pids are used again, the pair is not.
    """

    pid: int
    comm: str
    state: str
    ppid: int
    pgrp: int
    session: int
    utime: int
    stime: int
    cutime: int
    cstime: int
    threads: int
    start: int
    rss: int
    vsize: int = 0

    @property
    def key(self) -> tuple[int, int]:
        """(pid, start): the identity of the process."""
        return self.pid, self.start

    @property
    def alive(self) -> bool:
        """False for a zombie; a process whose first thread has ended while others run on is alive."""
        return self.state not in "ZX" or (self.state == "Z" and self.threads > 1)

    @property
    def ticks(self) -> int:
        """CPU time in ticks: its own and that of the children that it has waited for."""
        return self.utime + self.stime + self.cutime + self.cstime


def parse_stat(raw: bytes) -> ProcInfo:
    """Return the process of one stat line; the name may hold blanks and brackets, so the last ``)`` ends it.

    Raises:
        ValueError, IndexError: when this is no stat line.
    """
    left = raw.index(b"(")
    right = raw.rindex(b")")
    field = raw[right + 2 :].split(b" ", 22)
    return ProcInfo(
        int(raw[:left]),
        raw[left + 1 : right].decode("utf-8", "replace"),
        field[0].decode("ascii"),
        int(field[1]),
        int(field[2]),
        int(field[3]),
        int(field[11]),
        int(field[12]),
        int(field[13]),
        int(field[14]),
        int(field[17]),
        int(field[19]),
        int(field[21]),
        int(field[20]),
    )


def read_process(pid: int) -> Optional[ProcInfo]:
    """Return one process, or None when it is gone (or /proc cannot be read)."""
    try:
        handle = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except OSError:
        return None
    try:
        return parse_stat(os.read(handle, _STAT_LIMIT))
    except (OSError, ValueError, IndexError):
        return None
    finally:
        os.close(handle)


def same_process(info: ProcInfo) -> bool:
    """True while ``info`` still names the same process (guard against a pid that was given to somebody else)."""
    now = read_process(info.pid)
    return now is not None and now.start == info.start


def read_environ(pid: int, name: str) -> Optional[str]:
    """Return the value of ``name`` in the environment that the process was started with, None when unknown."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as stream:
            content = stream.read()
    except OSError:
        return None
    wanted = name.encode() + b"="
    for item in content.split(b"\0"):
        if item.startswith(wanted):
            return item[len(wanted) :].decode("utf-8", "replace")
    return None


class ProcTable:
    """All processes of the node (of the pid name space) at one moment."""

    def __init__(self, processes: Iterable[ProcInfo]) -> None:
        self._by_pid = {info.pid: info for info in processes}
        self._children: Optional[dict[int, list[ProcInfo]]] = None

    def __len__(self) -> int:
        return len(self._by_pid)

    def __iter__(self) -> Iterator[ProcInfo]:
        return iter(self._by_pid.values())

    def get(self, pid: int) -> Optional[ProcInfo]:
        """Return the process ``pid`` or None."""
        return self._by_pid.get(pid)

    def children(self, pid: int) -> list[ProcInfo]:
        """Return the direct children of ``pid``."""
        if self._children is None:
            self._children = {}
            for info in self._by_pid.values():
                self._children.setdefault(info.ppid, []).append(info)
        return self._children.get(pid, [])

    def tree(self, root_pid: int, also_orphans_of: Iterable[int] = ()) -> list[ProcInfo]:
        """Return ``root_pid`` and its descendants, parents before children, each once.

        Args:
            root_pid: top of the tree; nothing is returned for a pid that does not exist.
            also_orphans_of: further roots whose trees belong to it, e.g. processes re-parented to the pilot.
        """
        found: dict[int, ProcInfo] = {}
        waiting = [info for info in map(self._by_pid.get, (root_pid, *also_orphans_of)) if info is not None]
        while waiting:
            following: list[ProcInfo] = []
            for info in waiting:
                if info.pid not in found:
                    found[info.pid] = info
                    following.extend(self.children(info.pid))
            waiting = following
        return list(found.values())

    def cpu_seconds(self, pids: Iterable[int]) -> float:
        """Return the CPU time (s) of ``pids`` and of the ended children that they have waited for.

        Nothing is counted twice: the time of a child is in its own line while it exists, and in its parent's
        ``cutime``/``cstime`` afterwards.
        """
        infos = (self._by_pid.get(pid) for pid in set(pids))
        return sum(info.ticks for info in infos if info is not None) / TICKS_PER_SECOND


def scan() -> ProcTable:
    """Return the table of all processes; one that ends during the pass is left out; without /proc it is empty."""
    processes: list[ProcInfo] = []
    try:
        root = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return ProcTable(())
    try:
        for name in os.listdir(root):
            if not name[0].isdigit():
                continue
            try:
                handle = os.open(name + "/stat", os.O_RDONLY, dir_fd=root)
            except OSError:
                continue
            try:
                processes.append(parse_stat(os.read(handle, _STAT_LIMIT)))
            except (OSError, ValueError, IndexError):
                continue
            finally:
                os.close(handle)
    except OSError:
        return ProcTable(processes)
    finally:
        os.close(root)
    return ProcTable(processes)
