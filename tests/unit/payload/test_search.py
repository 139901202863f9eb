"""The one pass over a payload's output: lines, their numbers, both ends of huge files, whatever the file is."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from pilot.payload.search import SearchedOutput

NEEDLES = (b"needle", b"other", b"need")


def found(path: Path, *needles: bytes) -> list[tuple[str, str]]:
    return [tuple(line) for line in SearchedOutput(path, NEEDLES).lines(*(needles or NEEDLES))]


def test_lines_have_their_numbers_and_their_order(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("a\nother one\n  needle two  \n\nneedle and other\nlast needle")
    assert found(path) == [("other one", "out line 2"), ("needle two", "out line 3"),
                           ("needle and other", "out line 5"), ("last needle", "out line 6")]
    assert found(path, b"other") == [("other one", "out line 2"), ("needle and other", "out line 5")]


@pytest.mark.parametrize("seed", range(20))
def test_what_lies_across_blocks_is_found_once(tmp_path: Path, seed: int) -> None:
    choice = random.Random(seed)
    path = tmp_path / "out"
    lines: list[bytes] = []
    expected = []
    for number in range(1, 120):
        noise = b"x" * choice.randrange(150_000)
        lines.append(noise[:choice.randrange(2000)] + b" needle %d" % number if number % 3 else noise)
        if number % 3:
            expected.append((f"needle {number}", f"out line {number}"))
    path.write_bytes(b"\n".join(lines))
    assert path.stat().st_size > 1 << 20
    assert [(text[text.index("needle"):], place) for text, place in found(path, b"needle")] == expected


def test_the_ends_of_a_huge_file_are_searched(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with open(path, "wb") as stream:
        stream.write(b"begin\nneedle 1\n" * 300)
        stream.seek(10 << 30)
        stream.write(b"\nneedle 2\n")
    result = found(path, b"needle")
    assert result[0] == ("needle 1", "out line 2") and len(result) == 101
    assert result[-1] == ("needle 2", f"out byte {(10 << 30) + 1}")


def test_a_line_without_end_is_cut_around_the_text(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"\xff" * 3_000_000 + b"needle" + b"\0" * 3_000_000)
    ((text, place),) = found(path, b"needle")
    assert "needle" in text and len(text) <= 4096 and place == "out line 1"


@pytest.mark.parametrize("kind", ["missing", "fifo", "directory", "link", "empty"])
def test_what_is_no_file_has_no_lines(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "empty":
        path.touch()
    assert SearchedOutput(path, (b"root",)).lines(b"root") == []


def test_a_flood_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"needle\n" * 2_000_000)
    assert len(found(path, b"needle")) == 200
