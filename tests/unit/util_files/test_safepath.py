"""Names of strangers never leave their directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilot.util.safepath import UnsafePath, check_name, inside, is_inside

BAD = ["", ".", "..", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "/", "x\0y", "x\ny", "x\ry", "é" * 128]


@pytest.mark.parametrize("name", [*BAD, "x" * 256])
def test_bad_paths_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsafePath) as caught:
        inside(tmp_path, name)
    assert caught.value.code == 1371


@pytest.mark.parametrize("name", ["a", "-rf", "...", "a..b", "with blank", "é" * 127, "x" * 255, "$(reboot)", "a/b/c"])
def test_odd_but_harmless_paths_pass(tmp_path: Path, name: str) -> None:
    assert inside(tmp_path, name) == tmp_path / name


def test_a_single_name_has_no_slash() -> None:
    with pytest.raises(UnsafePath):
        check_name("a/b")


def test_a_directory_on_the_way_that_is_a_link_out_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base"
    (base / "real").mkdir(parents=True)
    (base / "out").symlink_to(tmp_path)
    (base / "in").symlink_to("real")
    with pytest.raises(UnsafePath):
        inside(base, "out/x")
    assert inside(base, "in/x") == base / "in/x"


def test_links_are_followed_to_tell_inside_from_outside(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "up").symlink_to("../outside")
    (base / "loop").symlink_to("loop")
    (base / "ok").symlink_to("file")
    assert not is_inside(base, base / "up")
    assert not is_inside(base, base / "loop")
    assert is_inside(base, base / "ok")
    assert is_inside(base, base)
    assert not is_inside(base, tmp_path / "basement")
    assert is_inside("/", "/etc")
