"""After a limit of the disk was broken: what nobody needs any more makes room for the job's log.

Inputs go, and of a stdout or log file beyond its limit the middle. Only in the job's own directory: names are looked up
there without following links, and a file that has another name elsewhere is not cut.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pilot.monitoring.dirscan import shown

if TYPE_CHECKING:
    from pilot.context import PilotContext
    from pilot.info.job import Job

logger = logging.getLogger(__name__)

DISK_CODES = frozenset({1098, 1104, 1106, 1124})
_HEAD, _TAIL = 1 << 20, 8 << 20
"""Bytes that are kept of a file that is too large, at most."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def make_room(ctx: PilotContext, job: Job) -> None:
    """Make room for the log of a job that has failed by a limit of the disk; nothing for any other job.

    Trouble here is a line in the log. With ``nocleanup`` everything stays.
    """
    if not any(code in job.errors for code in DISK_CODES) or not job.workdir.name or job.keep_workdir:
        return
    from pilot.control.watch.diskchecks import input_names, is_stdout

    limit = ctx.settings.pilot.local_size_limit_stdout * 1024
    try:
        root = os.open(job.workdir, _DIRECTORY)
    except OSError as exc:
        logger.warning("job %s: no room can be made in %s: %s", job.jobid, job.workdir, exc.strerror)
        return
    try:
        removed = [_remove(root, name) for name in input_names(job)]
        count, size = sum(1 for item in removed if item >= 0), sum(item for item in removed if item > 0)
        if count:
            logger.info("job %s: %d input files are removed, %d B, to make room for the log", job.jobid, count, size)
        wanted = is_stdout(ctx, job)
        for place, prefix, name in _files(root):
            if wanted(prefix + name):
                _cut(job.jobid, place, name, prefix + name, limit)
    finally:
        os.close(root)


def _remove(root: int, name: str) -> int:
    """Remove a file or a link; returns the bytes on disk that this frees, -1 when it is not there or stays."""
    try:
        info = os.stat(name, dir_fd=root, follow_symlinks=False)
        if not (stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode)):
            return -1
        os.unlink(name, dir_fd=root)
    except FileNotFoundError:
        return -1
    except OSError as exc:
        logger.warning("input %s stays: %s", shown(name), exc.strerror)
        return -1
    return info.st_blocks * 512 if stat.S_ISREG(info.st_mode) and info.st_nlink == 1 else 0


def _files(root: int) -> Iterator[tuple[int, str, str]]:
    """Yield descriptor of the directory, prefix and name of what may be a stdout or log file: top and ``workDir``."""
    for prefix in ("", "workDir/"):
        try:
            place = os.open(prefix.rstrip("/") or ".", _DIRECTORY, dir_fd=root)  # with a slash a link is followed
        except OSError:
            continue
        try:
            with os.scandir(place) as entries:
                names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
            for name in names:
                yield place, prefix, name
        except OSError as exc:
            logger.warning("%s cannot be looked through: %s", prefix or "the job's directory", exc.strerror)
        finally:
            os.close(place)


def _cut(jobid: str, place: int, name: str, path: str, limit: int) -> None:
    """Keep head and tail of a file that is larger than ``limit`` bytes."""
    try:
        handle = os.open(name, _FILE, dir_fd=place)
    except OSError:
        return
    try:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode) or info.st_size <= limit:
            return
        if info.st_nlink != 1:
            logger.warning("job %s: %s is not cut: it has another name", jobid, shown(path))
            return
        head, tail = min(_HEAD, limit // 4), min(_TAIL, limit // 2)
        last = os.pread(handle, tail, info.st_size - tail)
        gap = f"\n\n... the pilot has left out {info.st_size - head - tail} of {info.st_size} B ...\n\n".encode()
        os.ftruncate(handle, head)
        os.pwrite(handle, gap + last, head)  # 8 MiB at most, into blocks that were just freed
        logger.info("job %s: %s is cut from %d B to its first %d and last %d B", jobid, shown(path), info.st_size,
                    head, tail)
    except OSError as exc:
        logger.warning("job %s: %s cannot be cut: %s", jobid, shown(path), exc.strerror)
    finally:
        os.close(handle)
