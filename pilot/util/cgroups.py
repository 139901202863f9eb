"""Control groups as /proc and the file system of the kernel show them: where a process is, what its group has used.

Files of cgroupfs come out of the kernel: reading them never hangs, whatever a payload or a dead mount does.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple, Optional, Union

_V2_MOUNTS = ("sys/fs/cgroup", "sys/fs/cgroup/unified")
"""Where version 2 is mounted; the second one on nodes that have both versions."""
_SIZE = 1 << 20
_NUMBER = re.compile(rb"^(\w+) (\d+)$", re.MULTILINE)


class Group(NamedTuple):
    """A control group that accounts for memory, or could; ``version`` 1 or 2."""

    directory: Path
    version: int


def parse_membership(text: str) -> dict[str, str]:
    """Return controller -> path of /proc/<pid>/cgroup; version 2 has the empty controller."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            found[""] = path
        else:
            found.update((name, path) for name in controllers.split(","))
    return found


def membership(pid: Union[int, str] = "self", root: Path = Path("/")) -> dict[str, str]:
    """Return the groups of a process, see ``parse_membership``; empty when they cannot be read."""
    return parse_membership(read(root / f"proc/{pid}/cgroup").decode("utf-8", "replace"))


def v2_directory(path: str, root: Path = Path("/")) -> Optional[Path]:
    """Return the directory of a version 2 group, None when it is not visible here."""
    parts = [part for part in path.split("/") if part]
    if ".." in parts:  # outside of our name space
        return None
    for mount in _V2_MOUNTS:
        top = root / mount
        if (top / "cgroup.procs").exists() and (top / "cgroup.controllers").exists():
            directory = top.joinpath(*parts)
            return directory if directory.is_dir() else None
    return None


def memory_group(pid: int, root: Path = Path("/")) -> Optional[Group]:
    """Return the group that accounts for the memory of ``pid`` and does not hold the pilot, too; None without one."""
    theirs, ours = membership(pid, root), membership("self", root)
    path = theirs.get("", "")
    if path and path != ours.get("", "") and not _above(path, ours.get("", "")):
        directory = v2_directory(path, root)
        if directory is not None and (directory / "memory.stat").exists():
            return Group(directory, 2)
    path = theirs.get("memory", "")
    if path and path != ours.get("memory", "") and not _above(path, ours.get("memory", "")):
        parts = [part for part in path.split("/") if part not in ("", "..")]
        directory = (root / "sys/fs/cgroup/memory").joinpath(*parts)
        if (directory / "memory.stat").exists():
            return Group(directory, 1)
    return None


def _above(path: str, other: str) -> bool:
    """True when ``other`` lies below ``path``: its account holds the pilot's memory, too."""
    return other.startswith(path.rstrip("/") + "/")


def memory_in_use(group: Group) -> Optional[int]:
    """Return bytes that the processes of a group hold, mapped files included; None when unknown.

    Not ``memory.current``: the page cache of every file that was read or written is part of that.
    """
    stat = numbers(group.directory / "memory.stat")
    names = ("anon", "file_mapped") if group.version == 2 else ("total_rss", "total_mapped_file")
    if group.version == 1 and names[0] not in stat:
        names = ("rss", "mapped_file")
    return sum(stat[name] for name in names) if all(name in stat for name in names) else None


def cpu_seconds(directory: Path) -> Optional[float]:
    """Return the CPU time of a version 2 group since it was made, ended processes included; None when unknown."""
    used = numbers(directory / "cpu.stat").get("usage_usec")
    return used / 1e6 if used is not None else None


def numbers(file: Path) -> dict[str, int]:
    """Return the lines ``name number`` of a file."""
    return {name.decode(): int(value) for name, value in _NUMBER.findall(read(file))}


def number(file: Path) -> Optional[int]:
    """Return the one number in a file; None for ``max``, another word, or a file that cannot be read."""
    text = read(file).strip()
    return int(text) if text.isdigit() else None


def read(file: Path) -> bytes:
    """Return the content of a file of /proc or cgroupfs, empty when it cannot be read."""
    try:
        with open(file, "rb", buffering=0) as stream:
            return stream.read(_SIZE) or b""
    except OSError:
        return b""
