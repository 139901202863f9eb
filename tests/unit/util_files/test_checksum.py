"""Checksums: known values, one read, a clear error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.checksum import ChecksumFailure, UnknownChecksumType, file_checksums, same_checksum


@pytest.mark.parametrize(
    ("data", "adler32", "md5"),
    [
        (b"", "00000001", "d41d8cd98f00b204e9800998ecf8427e"),
        (b"hello", "062c0215", "5d41402abc4b2a76b9719d911017c592"),
    ],
)
def test_the_check_values_of_the_field(tmp_path: Path, data: bytes, adler32: str, md5: str) -> None:
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "a").chmod(0o444)
    assert file_checksums(tmp_path / "a", ("adler32", "md5")) == (len(data), {"adler32": adler32, "md5": md5})


def test_every_block_counts(tmp_path: Path) -> None:
    import zlib

    data = os.urandom(3_333_333)
    (tmp_path / "a").write_bytes(data)
    told: list[int] = []
    size, sums = file_checksums(tmp_path / "a", progress=told.append)
    assert (size, sums["adler32"]) == (len(data), f"{zlib.adler32(data):08x}")
    assert sum(told) == size and len(told) > 1


@pytest.mark.parametrize("kind", ["missing", "directory", "pipe", "loop"])
def test_what_cannot_be_read_is_a_checksum_failure_with_the_path(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(kind)
    with pytest.raises(ChecksumFailure) as caught:
        file_checksums(path)
    assert caught.value.code == 1366
    assert str(path) in caught.value.detail


def test_unknown_types_are_told(tmp_path: Path) -> None:
    with pytest.raises(UnknownChecksumType) as caught:
        file_checksums(tmp_path / "a", ("crc32c",))
    assert caught.value.code == 1314


def test_a_cancelled_token_ends_the_reading(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(5 << 20))
    token = CancelToken()
    told: list[int] = []

    def progress(count: int) -> None:
        told.append(count)
        token.cancel(1201, "SIGTERM")

    with pytest.raises(CancelledError):
        file_checksums(tmp_path / "a", token=token, progress=progress)
    assert len(told) == 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("062c0215", "62C0215", True), ("00000001", "1", True), ("a", "b", False), ("10", "1", False), (" a ", "A", True)],
)
def test_sums_compare_without_case_and_leading_zeros(one: str, other: str, same: bool) -> None:
    assert same_checksum(one, other) is same
