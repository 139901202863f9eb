"""Has the kernel killed for lack of memory? Counters of our control group, and the kernel's own words where readable.

The counter is exact and costs two small reads: one at the start of a payload, one at its end. dmesg is forbidden on
most nodes and names processes of strangers too, so it is a hint only (incident e).
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple, Optional

ROOT = Path("/")
"""Stands for the root directory; tests show the files of other machines by another one."""

_KMSG_RECORDS = 5000
_KMSG_SIZE = 8192
_COUNT = re.compile(rb"^oom_kill (\d+)$", re.MULTILINE)
_KILLED = re.compile(r"Killed process (\d+)\b")


class OomCount(NamedTuple):
    """Processes that the kernel has killed for lack of memory in a control group since it was made, and the file that
    says so."""

    kills: int
    file: Path


class OomKills(NamedTuple):
    """The same counter at a payload's start and end, and the file with it."""

    before: int
    after: int
    file: str

    @property
    def new(self) -> int:
        """Kills between the two looks."""
        return max(0, self.after - self.before)


def oom_count(root: Optional[Path] = None) -> Optional[OomCount]:
    """Return the counter of this process' control group, or of the nearest one above that has one; None without any.

    Version 2 (``memory.events``) counts the kills in the groups below, too; version 1 (``memory.oom_control``) counts
    those of the group itself.
    """
    root = root or ROOT
    for line in _read(root / "proc/self/cgroup").decode("utf-8", "replace").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            found = _nearest(root / "sys/fs/cgroup/memory", path, "memory.oom_control")
        elif number == "0":
            found = (_nearest(root / "sys/fs/cgroup", path, "memory.events")
                     or _nearest(root / "sys/fs/cgroup/unified", path, "memory.events"))
        else:
            continue
        if found is not None:
            return found
    return None


def oom_kills_since(before: Optional[OomCount]) -> Optional[OomKills]:
    """Return what has happened since ``before``; None when it is not known."""
    if before is None:
        return None
    now = _count_of(before.file)
    return OomKills(before.kills, now, str(before.file)) if now is not None else None


def kernel_words(pids: Collection[int], device: Optional[Path] = None) -> str:
    """Return the kernel's line about killing one of ``pids``, '' when there is none or its log may not be read.

    Reading takes a few ms at most and never blocks.
    """
    if not pids:
        return ""
    try:
        handle = os.open(device or ROOT / "dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return ""
    found = ""
    try:
        for _ in range(_KMSG_RECORDS):
            try:
                record = os.read(handle, _KMSG_SIZE)
            except OSError as error:
                if error.errno == errno.EPIPE:  # this record was overwritten meanwhile
                    continue
                break
            if not record:
                break
            for line in record.decode("utf-8", "replace").splitlines():
                match = _KILLED.search(line)
                if match and int(match.group(1)) in pids:
                    found = line.partition(";")[2] or line
    finally:
        os.close(handle)
    return " ".join(found.split())


def _nearest(top: Path, path: str, name: str) -> Optional[OomCount]:
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for depth in range(len(parts), -1, -1):
        file = top.joinpath(*parts[:depth], name)
        count = _count_of(file)
        if count is not None:
            return OomCount(count, file)
    return None


def _count_of(file: Path) -> Optional[int]:
    match = _COUNT.search(_read(file))
    return int(match.group(1)) if match else None


def _read(file: Path) -> bytes:
    try:
        with open(file, "rb", buffering=0) as stream:
            return stream.read(65536) or b""
    except OSError:
        return b""
