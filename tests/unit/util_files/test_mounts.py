"""Mount points below a directory are known without a look at them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilot.util.mounts import mounts_below

LINE = "36 35 98:0 / {} rw,noatime - ext3 /dev/root rw\n"


def table(tmp_path: Path, *places: str) -> Path:
    path = tmp_path / "mountinfo"
    path.write_text("".join(LINE.format(place) for place in ("/", "/proc", *places)))
    return path


@pytest.mark.parametrize(("places", "found"), [
    ((), set()),
    (("/work/job/a", "/work/job/b/c", "/work/jobs", "/work"), {"a", "b/c"}),
    (("/work/job",), set()),
    (("/work/job/with\\040blank\\012and\\134more",), {"with blank\nand\\more"}),
])
def test_places(tmp_path: Path, places: tuple[str, ...], found: set[str]) -> None:
    assert mounts_below("/work/job", table(tmp_path, *places)) == found


def test_a_directory_with_blanks(tmp_path: Path) -> None:
    assert mounts_below("/work/my job", table(tmp_path, "/work/my\\040job/a")) == {"a"}


def test_no_table_no_mounts(tmp_path: Path) -> None:
    assert mounts_below("/work", tmp_path / "none") == frozenset()
    (tmp_path / "broken").write_bytes(b"\n1 2 3\n\xff \xfe /work/a\n")
    assert mounts_below("/work", tmp_path / "broken") == frozenset()
