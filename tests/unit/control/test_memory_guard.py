"""Which resource type counts, when the server is asked, what the payload's control group is told."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pilot.control.watch.memoryguard import MemoryGuard
from pilot.info.job import Job
from pilot.info.queuedata import QueueData
from pilot.monitoring.checks import Blind
from pilot.payload.cgroup import PayloadGroup
from pilot.store.viewrows import Limit


class Context(SimpleNamespace):
    """What the guard needs of a pilot's context."""

    def __init__(self, *, option: str = "", mode: str = "PULL", server: Any = None, **queue: Any) -> None:
        self.limits: list[Limit] = []
        super().__init__(
            options=SimpleNamespace(resource_type=option, harvester_submitmode=mode), server=server,
            resource_types=None, info=SimpleNamespace(queue_for=lambda job: QueueData("Q", **queue)),
            store=SimpleNamespace(set_limit=lambda job_id, limit: self.limits.append(limit)))


def guard(ctx: Any, resourcetype: str = "", **fields: Any) -> MemoryGuard:
    return MemoryGuard(ctx, Job("77", resourcetype=resourcetype, **fields))


def test_the_job_comes_before_the_option() -> None:
    assert guard(Context(option="MCORE"), "SCORE_HIMEM").facts.resource_type == "SCORE_HIMEM"
    found = guard(Context(option="MCORE"), corecount=4).bound()
    assert found is not None and found.origin.startswith("MCORE (built-in) 2000 MB/core x 4")


def test_stored_once_with_its_origin(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    ctx: Any = Context()
    one = guard(ctx, "SCORE")
    assert one.bound() == one.bound()
    assert ctx.limits == [Limit("memory", 4000 << 20, "bytes", "SCORE (built-in) 2000 MB/core x 1 x grace 2")]
    assert caplog.text.count("memory limit 4096000 kB") == 1


def test_no_limit_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    ctx: Any = Context()
    one = guard(ctx, "GPU_VHIMEM")
    assert one.bound() is None and one.bound() is None and ctx.limits == []
    assert caplog.text.count("no memory limit") == 1


@pytest.mark.parametrize(("mode", "megabytes"), [("PULL", 4000), ("push", 3500)])
def test_rounding_on_pull_queues_only(mode: str, megabytes: int) -> None:
    found = guard(Context(mode=mode), "GPU_VHIMEM", minramcount=3500).bound()
    assert found is not None and found.kb == 2 * megabytes * 1024


def test_a_young_payload_asks_nobody() -> None:
    gate, asked = threading.Event(), threading.Event()

    def types() -> list[dict[str, object]]:
        asked.set()
        assert gate.wait(30)
        return [{"resource_name": "SCORE", "maxrampercore": 10}]

    ctx: Any = Context(server=SimpleNamespace(resource_types=types))
    one = guard(ctx, "SCORE")
    assert one.limit_kb(time.monotonic(), None) == 0 and ctx.resource_types is None
    assert one.limit_kb(time.monotonic() - 60, None) == 0 and asked.wait(30)
    with pytest.raises(Blind, match="on their way"):
        one.bound()
    gate.set()
    assert ctx.resource_types.wait(30)
    assert one.limit_kb(time.monotonic(), None) == 0, "as long as nobody needs it"
    assert one.limit_kb(time.monotonic() - 60, None) == 20 * 1024


def test_the_kernel_is_told_once_per_group(tmp_path: Path) -> None:
    one = guard(Context(), "SCORE")
    old = time.monotonic() - 60
    for number in range(2):  # two turns
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "memory.max").write_text("max\n")
        group = PayloadGroup(directory)
        assert one.limit_kb(old, group) == 4096000
        assert (directory / "memory.max").read_text() == f"{4000 << 20}\n"
        (directory / "memory.max").write_text("other")
        one.limit_kb(old, group)
        assert (directory / "memory.max").read_text() == "other"
    bare = tmp_path / "bare"
    bare.mkdir()
    assert one.limit_kb(old, PayloadGroup(bare)) == 4096000 and list(bare.iterdir()) == []
