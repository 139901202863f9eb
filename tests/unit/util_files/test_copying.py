"""Copies of real files: every byte, the right sums, nothing half-written."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import zlib
from pathlib import Path

import pytest

from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.checksum import UnknownChecksumType
from pilot.util.copying import PIPELINE_FROM, copy_file, copy_with_checksum, part_name, placed
from tests.disks import limited

MIB = 1 << 20
SIZES = [0, 1, 4095, 4096, 4097, MIB - 1, MIB, MIB + 1, PIPELINE_FROM - 1, PIPELINE_FROM, PIPELINE_FROM + 7]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("chunk", [4096, 300_001, 1 << 20])
def test_a_summing_copy_is_complete_and_its_sums_are_right(tmp_path: Path, size: int, chunk: int) -> None:
    data = random.Random(size).randbytes(size)  # noqa: S311
    (tmp_path / "a").write_bytes(data)
    told: list[int] = []
    total, sums = copy_with_checksum(tmp_path / "a", tmp_path / "b", ("adler32", "md5"), None, told.append, chunk=chunk)
    assert (tmp_path / "b").read_bytes() == data
    assert total == sum(told) == size
    assert sums == {"adler32": f"{zlib.adler32(data):08x}", "md5": hashlib.md5(data).hexdigest()}  # noqa: S324


@pytest.mark.parametrize("size", SIZES)
def test_a_kernel_copy_is_complete(tmp_path: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)  # noqa: S311
    (tmp_path / "a").write_bytes(data)
    told: list[int] = []
    assert copy_file(tmp_path / "a", tmp_path / "b", None, told.append) == size == sum(told)
    assert (tmp_path / "b").read_bytes() == data


def test_a_copy_between_file_systems_is_complete(tmp_path: Path, other_disk: Path) -> None:
    data = random.Random(1).randbytes(3_000_000)  # noqa: S311
    (tmp_path / "a").write_bytes(data)
    assert copy_file(tmp_path / "a", other_disk / "b") == len(data)
    assert (other_disk / "b").read_bytes() == data
    assert copy_file(other_disk / "b", tmp_path / "c") == len(data)
    assert (tmp_path / "c").read_bytes() == data


def test_a_file_whose_size_the_kernel_does_not_know_is_read(tmp_path: Path) -> None:
    assert copy_file("/proc/self/status", tmp_path / "b") > 0
    assert (tmp_path / "b").read_text().startswith("Name:")


def test_no_algorithm_means_a_kernel_copy(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"data")
    assert copy_with_checksum(tmp_path / "a", tmp_path / "b", ()) == (4, {})


def test_permissions_come_along_and_a_read_only_source_can_be_copied(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"data")
    (tmp_path / "a").chmod(0o544)
    copy_with_checksum(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o544


@pytest.mark.parametrize("size", [10, PIPELINE_FROM + 1])
def test_a_link_at_the_target_is_not_followed(tmp_path: Path, size: int) -> None:
    (tmp_path / "a").write_bytes(bytes(size))
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "b").symlink_to("precious")
    with pytest.raises(OSError) as caught:
        copy_with_checksum(tmp_path / "a", tmp_path / "b")
    assert caught.value.errno == errno.ELOOP
    assert (tmp_path / "precious").read_text() == "precious"


def test_pipes_and_directories_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in (tmp_path / "pipe", tmp_path):
        with pytest.raises(OSError) as caught:
            copy_file(name, tmp_path / "b")
        assert caught.value.filename == str(name)


@pytest.mark.parametrize("copy", [copy_file, copy_with_checksum])
def test_a_full_disk_names_the_target(tmp_path: Path, small_disk: Path, copy: object) -> None:
    (tmp_path / "a").write_bytes(bytes(PIPELINE_FROM + 1))
    with limited(small_disk), pytest.raises(OSError) as caught:
        copy(tmp_path / "a", small_disk / "b")  # type: ignore[operator]
    assert caught.value.errno in (errno.ENOSPC, errno.EFBIG)
    assert caught.value.filename == str(small_disk / "b")


@pytest.mark.parametrize("copy", [copy_file, copy_with_checksum])
def test_a_cancel_in_mid_copy_ends_it_at_the_next_block(tmp_path: Path, copy: object) -> None:
    with open(tmp_path / "a", "wb") as out:
        out.truncate(256 << 20)
    token = CancelToken()
    told: list[int] = []

    def progress(count: int) -> None:
        told.append(count)
        token.cancel(1144, "killed")

    with pytest.raises(CancelledError):
        copy(tmp_path / "a", tmp_path / "b", token=token, progress=progress)  # type: ignore[operator]
    assert len(told) == 1


def test_an_unknown_checksum_type_is_told_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"data")
    with pytest.raises(UnknownChecksumType):
        copy_with_checksum(tmp_path / "a", tmp_path / "b", ("crc32",))
    assert not (tmp_path / "b").exists()


def test_placed_shows_the_file_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "x"
    with placed(target) as part:
        part.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    with pytest.raises(ValueError), placed(target) as part:
        part.write_text("half")
        raise ValueError
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["x"]


def test_placed_replaces_what_an_earlier_process_left_behind(tmp_path: Path) -> None:
    part_name(tmp_path / "x").symlink_to("/etc/hostname")
    with placed(tmp_path / "x") as part:
        part.write_text("ours")
    assert (tmp_path / "x").read_text() == "ours"


def test_the_part_of_the_longest_name_fits(tmp_path: Path) -> None:
    target = tmp_path / ("x" * 255)
    with placed(target) as part:
        part.write_text("ours")
    assert target.read_text() == "ours"
