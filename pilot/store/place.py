"""Where a PilotDB lies: kind of file system, boot of the machine, and the lock that tells whether its owner lives."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from pathlib import Path
from typing import Optional

logger = logging.getLogger(__name__)

_LOOK = 0.02
"""s."""


def file_system_type(path: Path) -> str:
    """Return the type of the file system that holds ``path`` (``ext4``, ``nfs4``, ...), '' when unknown."""
    best, kind = "", ""
    target = os.path.realpath(path)
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                fields = line.split(" ")
                mount = fields[1].replace("\\040", " ")
                inside = target == mount or target.startswith(mount.rstrip("/") + "/")
                if inside and len(mount) >= len(best):
                    best, kind = mount, fields[2]
    except (OSError, IndexError):
        return ""
    return kind


def boot_id() -> str:
    """Return the kernel's random id of this boot ('' where there is none): process ids mean nothing after a reboot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


class OwnerLock:
    """``flock`` on the lock file beside a database; held by the living owner."""

    def __init__(self, database: Path) -> None:
        self.path = database.with_name(f"{database.name}.lock")
        self._descriptor: Optional[int] = None

    def acquire(self) -> bool:
        """Take the lock; False when another living process has it. An unwritable directory counts as ours."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            logger.warning("no lock file %s (%s): another pilot in this directory would not be noticed", self.path, exc)
            return True
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_LOOK)  # somebody who only looks whether an owner lives has it for some microseconds
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError as exc:
            logger.warning("no locks on the file system of %s (%s)", self.path, exc)
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Give the lock back; the file stays."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def owner_lives(database: Path) -> bool:
    """Return whether a living pilot holds the lock of a database; neither takes it for longer nor makes its file."""
    try:
        descriptor = os.open(database.with_name(f"{database.name}.lock"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False
