"""Whatever a payload leaves behind is removed, or said in a few words."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Callable

from pilot.util.removal import remove_tree

NOBODY = 65534


def as_plain_user(work: Callable[[Path], bool]) -> bool:
    """Run ``work`` in a child process without root's rights, in a directory of its own; its answer."""
    pid = os.fork()
    if pid == 0:
        answer = 2
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            with tempfile.TemporaryDirectory() as directory:
                answer = 0 if work(Path(directory)) else 1
        finally:
            os._exit(answer)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def deep_tree(root: Path, levels: int) -> None:
    here = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("a_long_name_of_a_directory", dir_fd=here)
        deeper = os.open("a_long_name_of_a_directory", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, 0o400, dir_fd=here))
    os.close(here)


def test_a_tree_deeper_than_recursion_and_path_length_is_removed(tmp_path: Path) -> None:
    root = tmp_path / "job"
    root.mkdir()
    deep_tree(root, sys.getrecursionlimit() * 3)
    assert remove_tree(root) == ""
    assert not root.exists()


def test_closed_directories_are_opened_and_removed() -> None:
    def work(directory: Path) -> bool:
        root = directory / "job"
        (root / "closed" / "deeper").mkdir(parents=True)
        (root / "read-only").mkdir()
        for place in ("closed", "closed/deeper", "read-only", "."):
            (root / place / "file").write_text("x")
        for place, mode in (("closed/deeper", 0), ("closed", 0), ("read-only", 0o555), (".", 0)):
            (root / place).chmod(mode)
        return remove_tree(root) == "" and not root.exists()

    assert as_plain_user(work)


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    keep = tmp_path / "keep"
    keep.mkdir()
    (keep / "file").write_text("x")
    root = tmp_path / "job"
    root.mkdir()
    (root / "link").symlink_to(keep)
    assert remove_tree(root) == ""
    root.symlink_to(keep)
    assert remove_tree(root) == ""
    os.mkfifo(root)
    assert remove_tree(root) == ""
    assert not os.path.lexists(root) and (keep / "file").exists()


def test_what_stays_is_said_in_one_short_line() -> None:
    def work(directory: Path) -> bool:
        return len(remove_tree(Path("/proc/self/fdinfo"))) < 1000 and remove_tree(Path("/proc/self/fdinfo")) != ""

    assert as_plain_user(work)
