"""The debug copytool: the file's name spells the outcome."""

from __future__ import annotations

import os
import threading
import zlib
from pathlib import Path
from typing import Any

import pytest

from pilot.common.exception import PilotException
from pilot.copytool.base import Direction, ToolConfig, Transfer
from pilot.copytool.debug import DebugTool
from pilot.util.cancel import CancelledError, CancelToken
from pilot.util.helper import HelperPool


def tool(**more: Any) -> DebugTool:
    return DebugTool(ToolConfig(environ=dict(os.environ), **more))


def order(tmp_path: Path, lfn: str, direction: Direction = Direction.IN, **more: Any) -> Transfer:
    return Transfer(direction, lfn, tmp_path / lfn, **more)


def bring(transfer: Transfer, **more: Any) -> Any:
    return tool(**more).copy_in(transfer, CancelToken(), lambda _count: None)


def test_an_ordinary_name_is_a_success_with_content_that_depends_on_the_name(tmp_path: Path) -> None:
    first = bring(order(tmp_path, "a.size-70000.root"))
    content = (tmp_path / "a.size-70000.root").read_bytes()
    assert (first.size, len(content)) == (70000, 70000)
    checksum = {"adler32": f"{zlib.adler32(content):08x}"}
    again = bring(order(tmp_path, "a.size-70000.root", checksum=checksum))
    assert (again.verified, dict(again.checksum)) == (True, checksum)


@pytest.mark.parametrize(
    ("lfn", "direction", "code"),
    [
        ("x.fail-1151.root", Direction.IN, 1151),
        ("x.half.root", Direction.IN, 1099),
        ("x.half.root", Direction.OUT, 1137),
        ("x.checksum.root", Direction.IN, 1171),
        ("x.checksum.root", Direction.OUT, 1172),
        ("x.exists.root", Direction.OUT, 1221),
        ("x.try-2.root", Direction.IN, 1099),
        ("x.try-2.fail-1324.root", Direction.OUT, 1324),
    ],
)
def test_the_name_asks_for_trouble(tmp_path: Path, lfn: str, direction: Direction, code: int) -> None:
    if direction is Direction.OUT:
        (tmp_path / lfn).write_bytes(b"content")
    transfer = order(tmp_path, lfn, direction)
    call = tool().copy_in if direction is Direction.IN else tool().copy_out
    with pytest.raises(PilotException) as caught:
        call(transfer, CancelToken(), lambda _count: None)
    assert caught.value.code == code
    assert lfn in caught.value.detail
    assert direction is Direction.OUT or os.listdir(tmp_path) == [], "nothing half-written is left"


def test_a_later_attempt_succeeds_where_the_name_says_so(tmp_path: Path) -> None:
    assert bring(order(tmp_path, "x.try-2.root", attempt=2)).size == 1000


def test_a_wrong_byte_is_seen_by_the_catalogues_checksum(tmp_path: Path) -> None:
    bring(order(tmp_path, "x.root", size=2000))
    with pytest.raises(PilotException) as caught:
        bring(order(tmp_path, "x.checksum.root", size=2000, checksum={"adler32": "00000001"}))
    assert caught.value.code == 1171
    assert not (tmp_path / "x.checksum.root").exists()


@pytest.mark.parametrize("word", ["delay", "stall"])
def test_a_long_wait_ends_when_it_is_broken_off(tmp_path: Path, word: str) -> None:
    token, moved = CancelToken(), threading.Event()
    outcome: list[BaseException] = []

    def run() -> None:
        try:
            tool().copy_in(order(tmp_path, f"x.{word}-86400.root"), token, lambda _count: moved.set())
        except CancelledError as exc:
            outcome.append(exc)

    worker = threading.Thread(target=run)
    worker.start()
    if word == "delay":
        assert moved.wait(30), "bytes move"
    token.cancel(1201, "SIGTERM")
    worker.join(30)
    assert outcome[0].code == 1201  # type: ignore[attr-defined]
    assert word == "delay" or not moved.is_set()


def test_a_crash_of_the_helper_is_a_failure_of_the_file(tmp_path: Path) -> None:
    pool = HelperPool(tmp_path)
    with pool.session(), pytest.raises(PilotException, match="signal 11") as caught:
        bring(order(tmp_path, "x.crash.root"), helpers=pool)
    assert caught.value.code == 1099


def test_a_fault_of_the_tool_is_no_pilot_exception(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        bring(order(tmp_path, "x.bug.root"))
