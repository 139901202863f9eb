"""Memory that a further process may use now: what the node has left, and what the pilot's cgroups leave."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Optional

_UNLIMITED = 1 << 60
"""Bytes; a cgroup of version 1 without a limit shows some number above this."""


class _Files(NamedTuple):
    """Names of a cgroup's files: the limit, what is used, and in its statistics what the kernel can take back."""

    limit: str
    used: str
    reclaimable: str


_V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Files("memory.max", "memory.current", "inactive_file")


def available_memory(root: Path = Path("/")) -> Optional[int]:
    """Return bytes: MemAvailable of the node, or less when a cgroup of this process leaves less; None when unknown.

    Args:
        root: stands for the root directory, so that tests can show the files of other machines.
    """
    found = re.search(r"^MemAvailable:\s*(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    values = [int(found.group(1)) * 1024] if found else []
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            values += _left(root / "sys/fs/cgroup", path, _V2)
        elif "memory" in controllers.split(","):
            values += _left(root / "sys/fs/cgroup/memory", path, _V1)
    return min(values, default=None)


def memory_limit(root: Path = Path("/")) -> Optional[int]:
    """Return bytes: the lowest limit of the cgroups of this process; None without any. ``root``: see above."""
    values = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            values += [limit for _, limit in _limits(root / "sys/fs/cgroup", path, _V2)]
        elif "memory" in controllers.split(","):
            values += [limit for _, limit in _limits(root / "sys/fs/cgroup/memory", path, _V1)]
    return min(values, default=None)


def _limits(top: Path, path: str, files: _Files) -> Iterator[tuple[Path, int]]:
    """Yield each cgroup with a limit, from ``path`` up to the top: inside a container the top itself has it."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for depth in range(len(parts), -1, -1):
        directory = top.joinpath(*parts[:depth])
        limit = _read(directory / files.limit).strip()
        if limit.isdigit() and int(limit) < _UNLIMITED:
            yield directory, int(limit)


def _left(top: Path, path: str, files: _Files) -> list[int]:
    """Return what each cgroup with a limit leaves."""
    found = []
    for directory, limit in _limits(top, path, files):
        used = _read(directory / files.used).strip()
        if not used.isdigit():
            continue
        cache = re.search(rf"^{files.reclaimable} (\d+)$", _read(directory / "memory.stat"), re.MULTILINE)
        found.append(max(0, limit - int(used) + (int(cache.group(1)) if cache else 0)))
    return found


def _read(path: Path) -> str:
    """Return the text of a file, empty when it cannot be read."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
