"""Space on local disk: what is left for the job, and how much a directory holds."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Optional

from pilot.util.mounts import mounts_below

logger = logging.getLogger(__name__)

_MIB = 1024 * 1024


class DirectorySize(NamedTuple):
    """Sum of the sizes of all regular files below a directory (bytes, links not followed), and their number."""

    bytes: int
    files: int


def directory_size(path: str | os.PathLike[str]) -> DirectorySize:
    """Return the size of everything below ``path``; what disappears or cannot be read meanwhile counts as nothing,
    and neither does what is mounted there (it is not touched)."""
    total = files = 0
    top = os.path.join(os.fspath(path), "")
    mounts = {top + name for name in mounts_below(path)}
    waiting = [os.fspath(path)]
    while waiting:
        try:
            entries = os.scandir(waiting.pop())
        except OSError:
            continue
        with entries:
            for entry in entries:
                try:
                    if mounts and entry.path in mounts:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        total += entry.stat(follow_symlinks=False).st_size
                        files += 1
                except OSError:
                    continue
    return DirectorySize(total, files)


def size_of(directory: str | os.PathLike[str], names: Iterable[str]) -> int:
    """Return the sum of the sizes (bytes) of those ``names`` that are regular files in ``directory``, links not
    followed."""
    total = 0
    for name in names:
        try:
            status = os.lstat(os.path.join(directory, os.path.basename(name)))
        except (OSError, ValueError):
            continue
        total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


def pod_storage_limit(environ: Mapping[str, str]) -> Optional[int]:
    """Return a Kubernetes pod's limit of ephemeral storage in bytes, None when there is none.

    Source: ``storageLimitMiB``; it counts only when ``storageRequestMiB`` is set as well (control-and-monitoring.md
    7.1).
    """
    if "storageRequestMiB" not in environ:
        return None
    text = environ.get("storageLimitMiB", "")
    try:
        limit = float(text)
    except ValueError:
        if text:
            logger.warning("ignoring storageLimitMiB=%s: not a number", text)
        return None
    return int(limit * _MIB) if 0 < limit < float("inf") else None


def free_space(
    path: str | os.PathLike[str], environ: Mapping[str, str], used: Optional[int] = None
) -> Optional[int]:
    """Return the bytes that may still be written below ``path``, None when that cannot be found out (never a reason to
    fail).

    What the file system leaves to this user (project quotas included) counts; in a pod with a storage limit no more
    than the limit minus what is used, since the pod is evicted at its limit however empty the node's disk is.

    Args:
        path: directory of the job.
        environ: environment with the pod's limits.
        used: bytes that the pod has used; default is what stands below ``path``.
    """
    try:
        status = os.statvfs(path)
    except OSError as error:
        logger.warning("cannot measure free space in %s: %s", os.fspath(path), error.strerror)
        return None
    free = status.f_bavail * status.f_frsize
    limit = pod_storage_limit(environ)
    if limit is not None:
        free = min(free, max(0, limit - (directory_size(path).bytes if used is None else used)))
    return free
