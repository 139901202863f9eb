"""Removes a directory tree that a stranger has made: closed directories, any depth, and few words about what stays."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import Any

from pilot.util.mounts import mounts_below

_SHOWN = 5
"""What stays is named up to this number."""


def remove_tree(path: Path) -> str:
    """Remove ``path`` and everything below it; links are removed, never followed, other file systems are left alone.

    Returns:
        What could not be removed, one line; '' when all is gone.
    """
    if path.is_symlink() or not path.is_dir():
        return _unlinked(path)
    problems: list[str] = []
    mounts = mounts_below(path)
    if mounts:
        _around(path, mounts, problems)
    else:
        _quick(path)
        if not os.path.lexists(path):
            return ""
        _thorough(path, problems)
    if not problems:
        return ""
    more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return "; ".join(problems[:_SHOWN]) + more


def _unlinked(path: Path) -> str:
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:
        return f"{path.name}: {exc.strerror}"
    return ""


def _around(root: Path, mounts: frozenset[str], problems: list[str]) -> None:
    """Remove all but mount points and the way to them: those are not touched, the server of one may have died."""
    waiting, emptied = [""], []
    while waiting:
        directory = waiting.pop()
        emptied.append(directory)
        try:
            _open_up(os.path.join(root, directory))
            entries = list(os.scandir(os.path.join(root, directory)))
        except OSError as exc:
            problems.append(f"{ascii(directory)[1:-1][:80]}: {exc.strerror}")
            continue
        for entry in entries:
            relative = os.path.join(directory, entry.name)
            if relative in mounts:
                problems.append(f"{ascii(relative)[1:-1][:80]}: another file system")
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(relative)
            else:
                _unlink(entry, problems)
    for directory in reversed(emptied):
        if not any(f"{place}/".startswith(f"{directory}/" if directory else "") for place in mounts):
            try:
                os.rmdir(os.path.join(root, directory))
            except OSError as exc:
                problems.append(f"{ascii(directory)[1:-1][:80]}: {exc.strerror}")


def _unlink(entry: os.DirEntry[str], problems: list[str]) -> None:
    try:
        os.unlink(entry.path)
    except OSError as exc:
        problems.append(f"{ascii(entry.name)[1:-1][:80]}: {exc.strerror}")


def _quick(path: Path) -> None:
    """Remove what goes without ado; the library goes down recursively and gives up far below the usual depths."""

    def next_one(_function: Any, _path: str, _info: Any) -> None:
        """What stays is for the thorough way."""

    try:
        shutil.rmtree(path, onerror=next_one)
    except (RecursionError, OSError):
        return


def _thorough(root: Path, problems: list[str]) -> None:
    """Remove level by level: every directory is first moved to the top and opened, so no path becomes too long."""
    device = os.lstat(root).st_dev
    waiting, number = [str(root)], 0
    emptied: list[str] = []
    while waiting:
        directory = waiting.pop()
        emptied.append(directory)
        try:
            _open_up(directory)
            entries = list(os.scandir(directory))
        except OSError as exc:
            problems.append(f"{os.path.basename(directory)}: {exc.strerror}")
            continue
        for entry in entries:
            try:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                elif entry.stat(follow_symlinks=False).st_dev != device:
                    problems.append(f"{entry.name}: another file system")
                elif directory == str(root):
                    waiting.append(entry.path)
                else:
                    number += 1
                    place = os.path.join(root, f".removal-{os.getpid()}-{number}")
                    _open_up(entry.path)  # a directory that cannot be written to cannot be moved either
                    os.rename(entry.path, place)
                    waiting.append(place)
            except OSError as exc:
                problems.append(f"{ascii(entry.name)[1:-1][:80]}: {exc.strerror}")
    for directory in reversed(emptied):
        try:
            os.rmdir(directory)
        except OSError as exc:
            if not problems:
                problems.append(f"{os.path.basename(directory)}: {exc.strerror}")


def _open_up(directory: str) -> None:
    """Give the owner all rights on a directory."""
    if os.lstat(directory).st_mode & stat.S_IRWXU != stat.S_IRWXU:
        os.chmod(directory, stat.S_IRWXU)
