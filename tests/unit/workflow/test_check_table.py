"""The table of --check, and what runs its checks: bounded, and never a traceback."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Dict, Iterator, List

import pytest

from pilot.options import Options
from pilot.panda.credentials import Credentials
from pilot.settings import default_settings
from pilot.workflow.checks import local
from pilot.workflow.checks.base import FAIL, Finding, Scene, fail, ok, size, skip, span, warn
from pilot.workflow.checks.runner import CHECKS, Entry, run_all
from pilot.workflow.checks.table import as_json, table

ROWS = [
    ok("python", "3.11.7 (/usr/bin/python3)"),
    warn("memory", "x" * 30 + " " + "y" * 60, "look at this node's leftovers " * 4),
    fail("a name that is longer than its column", 1098, "no \n space\0 \033[31mleft", "free some"),
    skip("storage", "the queue is not known"),
    ok("empty", ""),
]


def scene(tmp_path: Path, limit: float = 1.0, environ: Dict[str, str] = {}) -> Scene:  # noqa: B006 - never changed
    return Scene(options=Options(), settings=default_settings(), environ=environ, credentials=Credentials(environ={}),
                 server_url="http://127.0.0.1:1", here=tmp_path, limit=limit, root=tmp_path)


def test_the_table_fits_eighty_columns_and_has_every_word() -> None:
    text = table(ROWS)
    assert max(len(line) for line in text.splitlines()) <= 80
    for row in ROWS:
        for word in "".join(char if char.isprintable() else " " for char in row.found + " " + row.cure).split():
            assert word in text
    assert [line[:4] for line in text.splitlines() if line[:4].strip()] == [
        "ok  ", "warn", "FAIL", "-   ", "ok  ", "2 ok"]
    assert text.endswith("2 ok, 1 to look at, 1 FAILED")
    assert "\033" not in text and "\0" not in text
    assert table(ROWS, colours=True).count("\033[0m") == len(ROWS)


def test_json_has_every_row_and_the_exit_code() -> None:
    said = json.loads(as_json(ROWS, 69))
    assert said["exit_code"] == 69
    assert [Finding(**row) for row in said["checks"]] == ROWS


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    module = ModuleType("pilot.workflow.checks.madeup")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    yield module


def test_a_check_that_hangs_is_a_row_and_holds_up_nobody(tmp_path: Path, checks: ModuleType) -> None:
    gate = threading.Event()

    def hangs(_scene: Scene) -> List[Finding]:
        gate.wait(60)
        return []

    checks.hangs = hangs  # type: ignore[attr-defined]
    checks.good = lambda _scene: [ok("good", "yes"), ok("better", "yes")]  # type: ignore[attr-defined]
    entries = [Entry("one", "madeup:hangs", 1377, "restart it"), Entry("two", "madeup:hangs"),
               Entry("3", "madeup:good")]
    try:
        one, two, *rest = run_all(scene(tmp_path, 0.2), entries)
    finally:
        gate.set()
    assert (one.status, one.code, one.cure) == ("FAIL", 1377, "restart it") and "it hangs" in one.found
    assert (two.status, two.code) == ("warn", 0) and two.cure
    assert [row.name for row in rest] == ["good", "better"]


def test_a_check_that_raises_is_a_row(tmp_path: Path, checks: ModuleType) -> None:
    def raises(_scene: Scene) -> Iterator[Finding]:
        yield ok("fine", "so far")
        raise RuntimeError("garbled")

    checks.raises = raises  # type: ignore[attr-defined]
    (row,) = run_all(scene(tmp_path), [Entry("bad", "madeup:raises"),])
    assert (row.name, row.status) == ("bad", "warn") and "RuntimeError: garbled" in row.found


def test_every_check_of_the_list_can_be_loaded_and_has_a_cure_for_its_hanging() -> None:
    import importlib

    for entry in CHECKS:
        module, _, name = entry.function.partition(":")
        assert callable(getattr(importlib.import_module(f"pilot.workflow.checks.{module}"), name))
        assert entry.hang_cure
    assert len({entry.name for entry in CHECKS}) == len(CHECKS)


def files(root: Path, content: Dict[str, str]) -> None:
    for name, text in content.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_slot_that_is_smaller_than_the_queues_jobs_is_told(tmp_path: Path) -> None:
    files(tmp_path, {
        "proc/meminfo": "MemAvailable: 8000000 kB\n", "proc/self/cgroup": "0::/slot\n",
        "sys/fs/cgroup/slot/memory.max": "1073741824\n", "sys/fs/cgroup/slot/memory.current": "0\n"})
    from pilot.info.queuedata import QueueData

    place = scene(tmp_path)
    object.__setattr__(place, "options", Options(queue="Q"))
    place.set_queue(QueueData.from_raw({"nickname": "Q", "maxrss": 2000}))
    (row,) = local.memory(place)
    assert row.status == "warn" and "cgroup limit 1.1 GB" in row.found and "maxrss in CRIC" in row.cure
    place.set_queue(QueueData.from_raw({"nickname": "Q", "maxrss": 500}))
    (row,) = local.memory(place)
    assert row.status == "ok"
    files(tmp_path, {"proc/meminfo": "MemAvailable: 100 kB\n", "sys/fs/cgroup/slot/memory.max": "max\n"})
    (row,) = local.memory(place)
    assert row.status == "warn" and "leftovers" in row.cure


@pytest.mark.parametrize(("mounts", "text"), [
    ("proc /proc proc rw,nosuid,hidepid=2 0 0\n", "hidepid=2"),
    ("proc /proc proc rw,nosuid,hidepid=invisible,gid=5 0 0\n", "hidepid=invisible"),
    ("proc /proc proc rw 0 0\n", "PSS readable"),
])
def test_proc(tmp_path: Path, mounts: str, text: str) -> None:
    files(tmp_path, {"proc/self/stat": "1", "proc/self/mounts": mounts, "proc/self/smaps_rollup": "x"})
    (row,) = local.processes(scene(tmp_path))
    assert row.status == "ok" and text in row.found


def test_no_proc_at_all(tmp_path: Path) -> None:
    (row,) = local.processes(scene(tmp_path))
    assert row.status == FAIL and row.code == 1008


def test_words_for_sizes_and_times() -> None:
    assert [size(value) for value in (5, 1500, 2.5e6, 3e9, 4e15)] == ["5 B", "1.5 kB", "2.5 MB", "3.0 GB", "4000.0 TB"]
    assert [span(value) for value in (5, 600, 9000, 260000, -30)] == ["5 s", "10 min", "2.5 h", "3.0 days", "-30 s"]
