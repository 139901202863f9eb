"""The server is away, slow, or talks nonsense: no job is lost, no report is lost, and nothing is run twice."""

from __future__ import annotations

from typing import Any, Mapping

import pytest
from harness import QUEUE, QUEUE_DOCUMENT, Farm
from looks import ended_well

FAST = {"server.connect_timeout": 2, "server.read_timeout": 1}
"""Time-outs (s) for servers that hang."""

DIALECTS = {
    "v1": ("--server-api", "v1"),
    "legacy": ("--server-api", "legacy"),
    "form": ("--server-api", "legacy", "--set", "server.legacy_encoding=form"),
}
UNPROCESSED = ["http_500", "http_502", "http_503", "reset", "close_before_answer", "garbage", "not_utf8", "html", "empty",
               "status_10", "hang"]
"""The server has not seen the request: the job stays where it was."""
PROCESSED = ["truncate", "processed_then_reset", "processed_then_close"]
"""The server has acted, and the answer is lost."""
ODD = ["wrong_type", "strings", "delay", "drip"]
"""Answers that look odd, but are good ones."""


def in_state(*states: str) -> Any:
    """A condition for faults: the update tells one of these states."""

    def fits(params: Mapping[str, Any]) -> bool:
        return any(params.get(key) in states for key in ("state", "job_status"))

    return fits


def pause_of(kind: str) -> float:
    return {"hang": 30.0, "delay": 0.2, "drip": 0.001}.get(kind, 0.05)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("kind", UNPROCESSED + PROCESSED + ODD + ["status_30"])
def test_bad_answers_at_each_call_cost_nothing(farm: Farm, dialect: str, kind: str) -> None:
    faults = farm.server.faults
    marks = farm.directory / "marks"
    marks.mkdir()
    jobs = [farm.submit_job(f"mktemp {marks}/XXXXXX", log=False) for _ in range(2 if kind in PROCESSED else 1)]
    planned = [faults.add("update_job", kind, seconds=pause_of(kind), when=in_state("running")),
               faults.add("update_job", kind, times=2, seconds=pause_of(kind), when=in_state("finished"))]
    if kind != "status_30":  # which is no answer to getJob
        planned.append(faults.add("acquire_jobs", kind, seconds=pause_of(kind)))
    ended_well(farm.run_pilot(*DIALECTS[dialect], settings=FAST))
    done = [job for job in jobs if farm.server.job(job)["final"]]
    assert len(done) == 1
    assert farm.final(done[0])["state"] == "finished"
    assert len(list(marks.iterdir())) == 1, "one payload ran, once"
    farm.server.run_adder()
    assert farm.state(done[0]) == "finished"
    assert farm.server.workers_killed == 0
    for fault in planned[1:]:  # a heartbeat may be overtaken by its successor
        assert fault.hits >= 1
