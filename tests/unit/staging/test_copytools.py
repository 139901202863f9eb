"""The registry of copytools, and how errors of the system become codes."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest

from pilot.common.exception import PilotException
from pilot.copytool.base import (
    CopyTool,
    Direction,
    Features,
    ToolConfig,
    Transfer,
    TransferResult,
    check_checksum,
    check_size,
    failure_of,
)
from pilot.copytool.mv import MoveTool, path_of_url
from pilot.copytool.registry import canonical_name, known_names, load_tool
from pilot.util.cancel import CancelToken
from pilot.util.checksum import Progress


class Plugin(CopyTool):
    """A tool of somebody else."""

    name = "plugin"

    @property
    def features(self) -> Features:
        return Features()

    def copy_in(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        return TransferResult(0)

    def copy_out(self, transfer: Transfer, token: CancelToken, progress: Progress) -> TransferResult:
        return TransferResult(0)


class NoTool:
    def __init__(self, _config: ToolConfig) -> None:
        return


def test_names_that_work_without_plug_ins() -> None:
    assert set(known_names()) == {
        "cp", "debug", "gfal", "gfalcopy", "gs", "ln", "local", "lsm", "mv", "objectstore", "rucio", "s3", "xrdcp",
    }
    assert canonical_name("gfalcopy") == "gfal"
    assert canonical_name("mv") == "mv"


@pytest.mark.parametrize(
    ("name", "options", "kinds"),
    [
        ("mv", {}, ("symlink", "mv")),
        ("local", {}, ("symlink", "mv")),
        ("ln", {}, ("symlink", "mv")),
        ("cp", {}, ("cp", "cp")),
        ("cp", {"setup": "", "copy_out": "mv"}, ("cp", "mv")),
        ("mv", {"copy_in": "mv", "copy_out": "cp"}, ("mv", "cp")),
    ],
)
def test_names_and_queue_settings_choose_the_kind_of_copy(
    name: str, options: dict[str, object], kinds: tuple[str, str]
) -> None:
    tool = load_tool(name, ToolConfig(options=options))
    assert isinstance(tool, MoveTool)
    assert (tool.kind_in, tool.kind_out) == kinds


@pytest.mark.parametrize("name", ["dccp", "lcgcp", "lcg-cp", "lcg-cr", "storm", "FAX", "BNLdCache"])
def test_dead_tools_name_their_successor(name: str) -> None:
    with pytest.raises(PilotException) as caught:
        load_tool(name, ToolConfig(), queue="QUEUE")
    assert caught.value.code == 1323
    assert f"{name!r} of queue QUEUE is no longer supported: use" in caught.value.detail


def test_an_unknown_tool_lists_the_known_ones() -> None:
    with pytest.raises(PilotException) as caught:
        load_tool("teleport", ToolConfig())
    assert caught.value.code == 1323
    assert "cp, debug, gfal, gfalcopy" in caught.value.detail


def test_the_settings_bring_tools_of_others() -> None:
    tool = load_tool("teleport", ToolConfig(), {"teleport": f"{__name__}:Plugin"})
    assert type(tool).__name__ == "Plugin"


def test_entry_points_bring_tools_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[panda_pilot.copytool]\nteleport = other_tool:Tool\n")
    source = "from pilot.copytool.mv import MoveTool\nclass Tool(MoveTool):\n    name = 'o'\n"
    (tmp_path / "other_tool.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_tool("teleport", ToolConfig()).name == "o"
    sys.modules.pop("other_tool")


@pytest.mark.parametrize("target", ["no_such_module:X", f"{__name__}:Missing", f"{__name__}:NoTool"])
def test_a_plug_in_that_cannot_be_loaded_is_1342(target: str) -> None:
    with pytest.raises(PilotException) as caught:
        load_tool("teleport", ToolConfig(), {"teleport": target})
    assert caught.value.code == 1342
    assert target in caught.value.detail


def order(direction: Direction, **fields: object) -> Transfer:
    return Transfer(direction, "x.root", Path("/work/x.root"), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("number", "inward", "outward"),
    [
        (errno.ENOSPC, 1098, 1333),
        (errno.EDQUOT, 1098, 1333),
        (errno.EFBIG, 1098, 1333),
        (errno.ENOENT, 1331, 1103),
        (errno.ELOOP, 1331, 1103),
        (errno.EEXIST, 1221, 1221),
        (errno.ETIMEDOUT, 1151, 1152),
        (errno.EIO, 1366, 1366),
        (errno.EACCES, 1099, 1137),
        (errno.EROFS, 1099, 1137),
    ],
)
def test_errors_of_the_system_become_codes(number: int, inward: int, outward: int) -> None:
    for direction, code in ((Direction.IN, inward), (Direction.OUT, outward)):
        failure = failure_of(OSError(number, "text", "/store/x.root"), order(direction), Path("/target"))
        assert failure.code == code
        assert "/store/x.root" in failure.detail


def test_an_input_output_error_of_the_target_is_no_unreadable_source() -> None:
    failure = failure_of(OSError(errno.EIO, "text", "/target"), order(Direction.OUT), Path("/target"))
    assert failure.code == 1137


def test_a_full_disk_names_the_free_bytes(tmp_path: Path) -> None:
    failure = failure_of(OSError(errno.ENOSPC, "No space", str(tmp_path / "x")), order(Direction.IN), tmp_path / "x")
    assert "free: " in failure.detail and failure.detail.endswith(" B)")


@pytest.mark.parametrize(
    ("direction", "kind", "code"),
    [
        (Direction.IN, "adler32", 1171),
        (Direction.IN, "md5", 1145),
        (Direction.OUT, "adler32", 1172),
        (Direction.OUT, "md5", 1141),
    ],
)
def test_a_wrong_checksum_has_the_code_of_its_kind_and_direction(direction: Direction, kind: str, code: int) -> None:
    with pytest.raises(PilotException) as caught:
        check_checksum(order(direction, checksum={kind: "aa"}), {kind: "bb"})
    assert caught.value.code == code


def test_nothing_to_compare_is_no_error() -> None:
    assert check_checksum(order(Direction.IN), {"adler32": "aa"}) is False
    assert check_checksum(order(Direction.IN, checksum={"adler32": "AA"}), {"adler32": "aa"}) is True
    check_size(order(Direction.IN), 5, "x")


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file://localhost/a/b", "/a/b"),
        ("file:///a/b", "/a/b"),
        ("file:/a/b", "/a/b"),
        ("file:////a/b", "/a/b"),
        ("file://localhost//a/b", "/a/b"),
    ],
)
def test_file_urls_are_paths(url: str, path: str) -> None:
    assert path_of_url(url) == Path(path)


@pytest.mark.parametrize("url", ["", "root://se//a", "file://elsewhere/a", "file:///a/../b", "file:relative"])
def test_other_urls_are_a_wrong_configuration(url: str) -> None:
    with pytest.raises(PilotException) as caught:
        path_of_url(url)
    assert caught.value.code == 1341
