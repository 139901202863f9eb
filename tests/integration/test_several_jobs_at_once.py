"""Several jobs in one file: all of them are ours from then on, and each one gets its report whatever happens."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any, Dict, List

import pytest
from harness import QUEUE, Farm, Pilot


def take_jobs(farm: Farm, count: int) -> List[Dict[str, Any]]:
    """Take jobs from the server as Harvester does."""
    question = json.dumps({"site_name": QUEUE, "prod_source_label": "managed", "n_jobs": count}).encode()
    request = urllib.request.Request(f"{farm.server.url}/api/v1/pilot/acquire_jobs", data=question,
                                     headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        jobs: List[Dict[str, Any]] = json.load(answer)["data"]["jobs"]
    assert len(jobs) == count
    return jobs


def start_with_file(farm: Farm, jobs: List[Dict[str, Any]], *options: str, **how: Any) -> Pilot:
    """Start a pilot that finds the jobs in ``pandaJobData.out``."""
    launch: Path = farm.directory / "launch"
    launch.mkdir()
    (launch / "pandaJobData.out").write_text(json.dumps({str(job["PandaID"]): job for job in jobs}))
    return farm.start_pilot(*options, directory=launch, **how)


def test_jobs_of_one_file_run_one_after_the_other(farm: Farm) -> None:
    ids = [farm.submit_job(f"echo {number}") for number in range(3)]
    pilot = start_with_file(farm, take_jobs(farm, 3))
    assert pilot.wait() == 0
    assert [farm.final(job)["state"] for job in ids] == ["finished"] * 3


@pytest.mark.parametrize("name", ["SIGTERM", "SIGXCPU"])
def test_a_signal_ends_the_jobs_that_still_wait_with_a_report(farm: Farm, name: str) -> None:
    gate = farm.gate("payload")
    ids = [farm.submit_job(gate.shell()), farm.submit_job("touch $PILOT_HOME/ran"), farm.submit_job()]
    pilot = start_with_file(farm, take_jobs(farm, 3))
    gate.reached()
    pilot.send(name)
    assert pilot.wait() > 128
    code = {"SIGTERM": 1201, "SIGXCPU": 1204}[name]
    assert [(farm.final(job)["state"], farm.final(job)["pilotErrorCode"]) for job in ids] == [("failed", code)] * 3
    assert not (pilot.directory / "ran").exists()


def test_a_failed_stagein_does_not_take_the_waiting_jobs_with_it(farm: Farm) -> None:
    ids = [farm.submit_job(inputs={"in.dat": b"data"}), farm.submit_job()]
    (farm.inputs / "in.dat").unlink()
    assert start_with_file(farm, take_jobs(farm, 2)).wait() == 0
    assert [farm.final(job)["state"] for job in ids] == ["failed", "finished"]
