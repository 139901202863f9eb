"""The archive stream under adverse conditions."""

from __future__ import annotations

import os
import tarfile
import time
from pathlib import Path
from typing import Iterator

import pytest

from pilot.util.archive import NOTES, ArchiveResult, ArchiveTimeout, Member, Rules, walk, write_archive
from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.checksum import file_checksums
from tests.disks import limited


def content(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def test_size_and_checksum_are_those_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(os.urandom(1_000_000))
    result = ArchiveResult()
    write_archive(tmp_path / "x.tgz", "top", [Member(tmp_path / "a", "a")], result, algorithms=("adler32", "md5"))
    assert (result.size, result.checksum) == file_checksums(tmp_path / "x.tgz", ("adler32", "md5"))
    assert result.files == 1


def test_a_file_that_vanishes_is_noted(tmp_path: Path) -> None:
    (tmp_path / "stays").write_text("x")
    members = [Member(tmp_path / "gone", "gone"), Member(tmp_path / "stays", "stays")]
    write_archive(tmp_path / "x.tgz", "top", members, ArchiveResult())
    assert content(tmp_path / "x.tgz") == {"top/stays": b"x", f"top/{NOTES}": b"gone: No such file or directory\n"}


def test_a_file_that_shrinks_while_it_is_read_ends_in_zeros(tmp_path: Path) -> None:
    from pilot.util import archive

    (tmp_path / "a").write_bytes(b"abc")
    descriptor = os.open(tmp_path / "a", os.O_RDONLY)
    try:
        source = archive._ExactReader(descriptor, b"", 10)
        assert source.read(4) + source.read(100) == b"abc" + bytes(7)
        assert source.read(1) == b""
        assert source.missing == 7
    finally:
        os.close(descriptor)


def test_a_directory_that_vanishes_during_the_walk_is_noted(tmp_path: Path) -> None:
    (tmp_path / "root/sub").mkdir(parents=True)
    (tmp_path / "root/sub/x").write_text("x")
    (tmp_path / "root/first").write_text("1")
    notes: list[str] = []
    names = []
    for member in walk(tmp_path / "root", Rules(), notes.append):
        names.append(member.name)
        (tmp_path / "root/sub/x").unlink()
        (tmp_path / "root/sub").rmdir()
    assert names == ["first"]
    assert notes == ["sub: No such file or directory"]


def test_deep_trees_do_not_exhaust_the_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "root"
    path.mkdir()
    monkeypatch.chdir(path)
    depth = 1500  # deeper than PATH_MAX allows to name
    for _ in range(depth):
        os.mkdir("deep")
        os.chdir("deep")
    notes: list[str] = []
    try:
        assert list(walk(path, Rules(), notes.append)) == []
    finally:
        for _ in range(depth):  # pytest's own cleaning would not survive it
            os.chdir("..")
            os.rmdir("deep")
    assert len(notes) == 1 and "File name too long" in notes[0]


def test_other_file_systems_below_the_root_stay_out(tmp_path: Path, other_disk: Path) -> None:
    if other_disk.parent != tmp_path:  # no right to mount: then there is none below the root either
        assert list(walk(tmp_path, Rules(), print)) == []
        return
    (other_disk / "x").write_text("x")
    notes: list[str] = []
    assert list(walk(tmp_path, Rules(), notes.append)) == []
    assert notes == ["other_disk: another file system"]


def test_a_full_disk_leaves_no_half_archive(tmp_path: Path, small_disk: Path) -> None:
    (tmp_path / "a").write_bytes(os.urandom(4 << 20))
    with limited(small_disk), pytest.raises(OSError) as caught:
        write_archive(small_disk / "x.tgz", "top", [Member(tmp_path / "a", "a")], ArchiveResult())
    assert str(caught.value.filename).startswith(str(small_disk))
    assert os.listdir(small_disk) == []


def test_the_deadline_ends_the_archive(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    with pytest.raises(ArchiveTimeout) as caught:
        write_archive(
            tmp_path / "x.tgz", "top", [Member(tmp_path / "a", "a")], ArchiveResult(), deadline=time.monotonic() - 1
        )
    assert caught.value.code == 1376
    assert os.listdir(tmp_path) == ["a"]


def test_a_cancel_ends_the_archive(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    token = CancelToken()

    def members() -> Iterator[Member]:
        yield Member(tmp_path / "a", "a")
        token.cancel(1144, "killed")
        yield Member(tmp_path / "a", "b")

    with pytest.raises(CancelledError):
        write_archive(tmp_path / "x.tgz", "top", members(), ArchiveResult(), token=token)
    assert os.listdir(tmp_path) == ["a"]


def test_a_name_twice_is_archived_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    write_archive(tmp_path / "x.tgz", "t", [Member(tmp_path / "a", "a"), Member(tmp_path / "a", "a")], ArchiveResult())
    assert content(tmp_path / "x.tgz") == {"t/a": b"x"}
