"""A look at a payload's memory: whose figures count for the limit, whose are reported, what a look that hangs costs."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pilot.control import memorymonitor
from pilot.control.company import Company
from pilot.control.memorymonitor import MEMORY_MONITOR, MemoryMonitor
from pilot.info.job import Job
from pilot.info.memory import BY_MONITOR, SNAPSHOT
from pilot.info.payloadtask import UtilityCommand
from pilot.monitoring.sampler import BY_GROUP, BY_PSS
from pilot.util.procfs import read_process
from tests.groups import machine

PRMON = {"Max": {"rss": 3000, "pss": 2500, "vmem": 9000, "swap": 12, "rchar": 1, "wchar": 2, "read_bytes": 3,
                 "write_bytes": 4},
         "Avg": {"rss": 2000, "pss": 1700, "vmem": 8000, "swap": 3, "rchar": 1, "wchar": 2, "read_bytes": 3,
                 "write_bytes": 4}}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(memorymonitor.time, "monotonic", lambda: now[0])
    return now


def made(directory: Path, *, external: bool) -> MemoryMonitor:
    job = Job("77", workdir=directory)
    ctx: Any = SimpleNamespace(home=directory, settings=SimpleNamespace(
        pilot=SimpleNamespace(utility_after_payload_started="MemoryMonitor")))
    plan: Any = SimpleNamespace(task=SimpleNamespace(job=job), environ_outside={"PATH": "/nowhere"})
    child: Any = SimpleNamespace(pid=os.getpid(), group=None)
    monitor = MemoryMonitor(ctx, plan, child, lambda utility: True)  # type: ignore[arg-type,return-value]
    monitor.start(os.getpid(), [UtilityCommand(MEMORY_MONITOR, "prmon")] if external else [])
    return monitor


def look(monitor: MemoryMonitor) -> None:
    own = read_process(os.getpid())
    assert own is not None
    monitor.look([own], 0)


def test_prmon_counts_where_it_runs(tmp_path: Path, clock: list[float]) -> None:
    monitor = made(tmp_path, external=True)
    look(monitor)
    assert monitor.checked is not None and monitor.checked.source == BY_PSS, "it has written nothing yet"
    (tmp_path / SNAPSHOT).write_text(json.dumps(PRMON))
    look(monitor)
    use = monitor.use()
    assert monitor.checked is not None and use is not None
    assert (monitor.checked.source, monitor.checked.max_pss, use.max_pss) == (BY_MONITOR, 2500, 2500)


def test_a_silent_prmon_counts_no_more(tmp_path: Path, clock: list[float]) -> None:
    monitor = made(tmp_path, external=True)
    (tmp_path / SNAPSHOT).write_text(json.dumps(PRMON))
    look(monitor)
    clock[0] = 290.0
    look(monitor)
    assert monitor.checked is not None and monitor.checked.source == BY_MONITOR
    clock[0] = 310.0
    look(monitor)
    assert monitor.checked is not None and monitor.checked.source == BY_PSS
    (tmp_path / SNAPSHOT).write_text(json.dumps({**PRMON, "Max": {**PRMON["Max"], "pss": 2600}}))
    look(monitor)
    assert monitor.checked is not None and monitor.checked.max_pss == 2600


def test_a_summary_without_pss_switches_no_check_off(tmp_path: Path, clock: list[float]) -> None:
    """A key that the summary lacks: reported as -1, but the limit is kept (a defect of existing pilots)."""
    monitor = made(tmp_path, external=True)
    broken = {"Max": {"rss": 3000}, "Avg": PRMON["Avg"]}
    (tmp_path / SNAPSHOT).write_text(json.dumps(broken))
    look(monitor)
    use = monitor.use()
    assert use is not None and use.max_pss == -1
    assert monitor.checked is not None and monitor.checked.known and monitor.checked.source == BY_PSS


@pytest.mark.parametrize("content", ["", "{", "[]", '{"Max": 5, "Avg": {}}', "\0" * 100])
def test_rubbish_from_a_monitor_is_none(tmp_path: Path, content: str) -> None:
    monitor = made(tmp_path, external=True)
    (tmp_path / SNAPSHOT).write_text(content)
    look(monitor)
    assert monitor.checked is not None and monitor.checked.source == BY_PSS


def test_control_group_stands_for_pss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = machine(tmp_path / "root", "0::/slot/controller\n", {
        f"proc/{os.getpid()}/cgroup": "0::/slot/payload-1\n", "sys/fs/cgroup/cgroup.procs": "",
        "sys/fs/cgroup/cgroup.controllers": "", "sys/fs/cgroup/slot/payload-1/memory.stat":
            f"anon {100 << 20}\nfile_mapped {20 << 20}\n"})
    real = memorymonitor.memory_group
    monkeypatch.setattr(memorymonitor, "memory_group", lambda pid: real(pid, root))
    monitor = made(tmp_path, external=False)
    look(monitor)
    assert monitor.checked is not None
    assert (monitor.checked.max_pss, monitor.checked.source) == (120 << 10, BY_GROUP)


def test_a_look_that_hangs_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The monitor's thread asks, and gets 'not now'; the payload's end waits for a bounded time only."""
    hangs, goes_on = threading.Event(), threading.Event()

    def dead_mount(*_: object) -> None:
        hangs.set()
        assert goes_on.wait(60)

    monkeypatch.setattr(MemoryMonitor, "look", dead_mount)
    job = Job("77", workdir=tmp_path)
    ctx: Any = SimpleNamespace(home=tmp_path, settings=SimpleNamespace(
        pilot=SimpleNamespace(utility_after_payload_started="")))
    plan: Any = SimpleNamespace(task=SimpleNamespace(job=job))
    company = Company(ctx, plan, SimpleNamespace(pid=1, group=None, started=0.0))  # type: ignore[arg-type]
    guard: Any = SimpleNamespace(limit_kb=lambda started, group: 0)
    came_back = threading.Event()
    assert company.look_at_memory([], guard, came_back.set) and hangs.wait(60)
    assert not company.look_at_memory([], guard, came_back.set)
    assert company.memory() is None and not company.memory_hangs and not came_back.is_set()
    company._lane.patience = 0.0
    assert company.memory_hangs
    goes_on.set()
    assert came_back.wait(60)
