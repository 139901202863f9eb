"""Following files: they grow, come late, rotate, shrink, vanish, hold anything; secrets stay inside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pilot.payload.realtime import follow
from pilot.payload.realtime.follow import LINE_LIMIT, Follower


def read(follower: Follower, *, at_end: bool = False) -> list[str]:
    """One look, then everything that is there."""
    follower.look()
    found: list[str] = []
    while True:
        lines = follower.lines(at_end=at_end)
        if not lines and not follower.unread:
            return found
        found += lines


def append(path: Path, data: bytes) -> None:
    with open(path, "ab") as stream:
        stream.write(data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "payload.stdout"


def test_a_file_that_comes_late_and_grows(path: Path) -> None:
    follower = Follower(lambda: path)
    assert read(follower) == []
    append(path, b"one\ntwo\nhalf")
    assert read(follower) == ["one", "two"]
    assert read(follower) == []
    append(path, b" a line\n\n")
    assert read(follower) == ["half a line"]
    append(path, b"rest")
    assert read(follower) == []
    assert read(follower, at_end=True) == ["rest"]
    follower.close()


def test_nothing_new_costs_one_stat(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(path, b"one\n")
    follower = Follower(lambda: path)
    read(follower)
    calls: list[str] = []
    real, real_open = os.stat, os.fstat
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", lambda *args, **how: calls.append("stat") or real(*args, **how))
        patch.setattr(os, "fstat", lambda *args: calls.append("fstat") or real_open(*args))
        follower.look()
    assert calls == ["stat"]


def test_rotation_loses_nothing(path: Path) -> None:
    append(path, b"one\n")
    follower = Follower(lambda: path)
    assert read(follower) == ["one"]
    append(path, b"two\nlast words")
    path.rename(path.with_suffix(".1"))
    append(path, b"three\n")
    assert read(follower) == ["two", "last words", "three"]
    assert follower.lost == 0


def test_truncation_starts_again_and_counts_what_was_not_read(path: Path) -> None:
    append(path, b"one\ntwo\n")
    follower = Follower(lambda: path)
    assert read(follower) == ["one", "two"]
    os.truncate(path, 0)
    append(path, b"new\n")
    assert read(follower) == ["new"]


def test_a_removed_file_is_read_to_its_end(path: Path) -> None:
    append(path, b"one\n")
    follower = Follower(lambda: path)
    follower.look()
    append(path, b"two\n")
    path.unlink()
    assert read(follower) == ["one", "two"]
    assert read(follower) == []
    append(path, b"another file\n")
    assert read(follower) == ["another file"]


def test_a_huge_line_is_cut_and_the_next_one_is_whole(path: Path) -> None:
    append(path, b"x" * 3_000_000 + b"\nnext\n")
    lines = read(Follower(lambda: path))
    assert len(lines) == 2 and lines[1] == "next"
    assert lines[0].startswith("x" * LINE_LIMIT) and lines[0].endswith("[cut after 16384 bytes]")


def test_an_endless_line_never_fills_the_memory(path: Path) -> None:
    follower = Follower(lambda: path)
    total: list[str] = []
    for _ in range(20):
        append(path, b"y" * 100_000)
        total += read(follower)
    assert len(total) == 1 and len(follower._carry) <= LINE_LIMIT
    append(path, b"\nend\n")
    assert read(follower) == ["end"]


def test_binary_and_broken_text_become_printable(path: Path) -> None:
    append(path, b"\xff\xfe\x00 caf\xc3\xa9 \x1b[31mred\x1b[0m\n")
    assert read(Follower(lambda: path)) == ["??? caf\u00e9 red"]


def test_secrets_are_masked_private_keys_over_several_lines_too(path: Path) -> None:
    follower = Follower(lambda: path)
    append(path, b"PASSWORD=abcdefgh\n-----BEGIN PRIVATE KEY-----\nMIIEabc\n")
    first = read(follower)
    append(path, b"def==\n-----END PRIVATE KEY-----\nplain\n")
    lines = first + read(follower)
    assert lines[0] == "PASSWORD=********" and lines[-1] == "plain"
    assert not any("MIIE" in line or "def==" in line for line in lines)


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_what_is_no_file_is_left_alone(path: Path, kind: str) -> None:
    if kind == "link":
        path.with_name("target").write_text("secret\n")
        path.symlink_to(path.with_name("target"))
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert read(Follower(lambda: path), at_end=True) == []


def test_a_reader_that_lags_goes_on_near_the_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "LAG_LIMIT", 10_000)
    follower = Follower(lambda: path)
    append(path, b"first\n")
    assert read(follower) == ["first"]
    append(path, b"".join(b"line %06d\n" % number for number in range(100_000)))
    lines = read(follower)
    assert lines[-1] == "line 099999" and lines[0].startswith("line ") and len(lines[0]) == 11
    assert follower.lost > 1_000_000
    assert follower.lost + sum(len(line) + 1 for line in lines) >= 1_200_000 - 12
