"""Fixtures for disks with bad days, on real file systems.

With the right to mount they are small tmpfs file systems. Without it a limit on the size of files stands in for the
full disk (writing then fails half-way just as well), and a directory without write permission for the read-only one.
"""

from __future__ import annotations

import os
import resource
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import pytest

SMALL = 2 << 20
"""Bytes of the small disk."""


def _mount(directory: Path, options: str) -> bool:
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)]
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def _unmount(directory: Path) -> None:
    subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory that takes about 2 MiB (without the right to mount: within ``limited``)."""
    directory = tmp_path / "small_disk"
    if _mount(directory, f"size={SMALL}"):
        yield directory
        _unmount(directory)
    else:
        yield directory


@contextmanager
def limited(directory: Path) -> Iterator[None]:
    """Make the small disk small, where only a limit on the size of files can do that."""
    if os.path.ismount(directory):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on another file system than ``tmp_path``."""
    directory = tmp_path / "other_disk"
    if _mount(directory, "size=64m"):
        yield directory
        _unmount(directory)
        return
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:  # noqa: S108 - another file system, that is the point
        assert os.stat(name).st_dev != os.stat(tmp_path).st_dev, "this machine has a single file system"
        yield Path(name)


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory that cannot be written, not by root either."""
    directory = tmp_path / "read_only_disk"
    if _mount(directory, "ro,size=1m"):
        yield directory
        _unmount(directory)
        return
    directory.chmod(0o555)
    yield directory
    directory.chmod(0o755)
