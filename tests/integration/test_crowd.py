"""Many pilots at once against one server on a small machine: every job is reported, by one pilot, once."""

from __future__ import annotations

import collections

import psutil
import pytest
from harness import Farm

PILOTS = 200
AT_ONCE = min(PILOTS, psutil.virtual_memory().available // (40 << 20))
"""Processes at a time: all, where 40 MB of memory are left for each."""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_hundred_pilots(farm: Farm) -> None:
    marks = farm.directory / "marks"
    marks.mkdir()
    jobs = [farm.submit_job(f"mktemp {marks}/$PANDAID.XXXXXX", log=False) for _ in range(PILOTS)]
    # half of them meet bad answers, too
    farm.server.faults.add("update_job", "http_503", times=PILOTS // 4)
    farm.server.faults.add("acquire_jobs", "http_503", times=PILOTS // 4)
    waiting = list(range(PILOTS))
    running = collections.deque(farm.start_pilot() for _ in waiting[:AT_ONCE])
    del waiting[:AT_ONCE]
    ended = []
    while running:
        pilot = running.popleft()
        ended.append((pilot.wait(240), pilot))
        if waiting:
            waiting.pop()
            running.append(farm.start_pilot())
    assert [pilot.output[-3000:] for code, pilot in ended if code != 0] == []
    assert {farm.final(job)["state"] for job in jobs} == {"finished"}
    assert {farm.server.job(job)["finals"] for job in jobs} == {1}
    ran = collections.Counter(path.name.split(".")[0] for path in marks.iterdir())
    assert ran == {str(job): 1 for job in jobs}
    assert len(farm.server.run_adder()) == PILOTS
