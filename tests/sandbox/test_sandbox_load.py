"""200 pilots at once: every one gets its own job, every update is stored."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from sandbox import Sandbox

PILOTS = 200
HEARTBEATS = 5


async def pilot(session: aiohttp.ClientSession, url: str, start: asyncio.Event) -> int:
    await start.wait()

    async def call(path: str, **params: Any) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        async with session.post(f"{url}/api/v1/pilot/{path}", data=json.dumps(params), headers=headers) as reply:
            assert reply.status == 200
            return json.loads(await reply.text())["data"]

    job = (await call("acquire_jobs", site_name="TEST_QUEUE"))["jobs"][0]
    key = {"job_id": job["PandaID"], "attempt_nr": 1}
    for count in range(HEARTBEATS):
        assert (await call("update_job", job_status="running", n_events=count, **key))["StatusCode"] == 0
    report = json.dumps({job["logFile"]: {"guid": job["logGUID"], "fsize": 1, "adler32": "00000001"}})
    assert (await call("update_job", job_status="finished", job_output_report=report, **key))["command"] == "NULL"
    return int(job["PandaID"])


async def all_pilots(url: str) -> list[int]:
    start = asyncio.Event()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        running = [asyncio.create_task(pilot(session, url, start)) for _ in range(PILOTS)]
        start.set()
        return list(await asyncio.gather(*running))


@pytest.mark.parametrize("database", [":memory:", "file"])
def test_200_pilots_at_once(tmp_path: Any, database: str) -> None:
    with Sandbox(tmp_path / "s.db" if database == "file" else database, adder_delay=0) as box:
        submitted = {box.submit({}) for _ in range(PILOTS)}
        done = asyncio.run(all_pilots(box.url))
        assert len(done) == PILOTS and set(done) == submitted
        box.wait(lambda: box.counters() == {"finished": PILOTS})
        assert all(len(box.job(job)["updates"]) == HEARTBEATS + 1 for job in done)
        assert len(box.requests) == PILOTS * (HEARTBEATS + 2)
