"""Several jobs in one pilot: when another one is fetched, when not, and what overlaps."""

from __future__ import annotations

from typing import List

import pytest
from harness import Farm


def requests_for_jobs(farm: Farm) -> List[dict[str, object]]:
    """Parameters of all requests for a job, oldest first."""
    return [request.params for request in farm.server.requests if request.operation == "acquire_jobs"]


def test_without_timefloor_there_is_one_job(farm: Farm) -> None:
    first, second = farm.submit_job(), farm.submit_job()
    pilot = farm.run_pilot()
    assert pilot.process.returncode == 0
    assert [farm.final(first)["state"], farm.state(second)] == ["finished", "activated"]
    assert len(requests_for_jobs(farm)) == 1
    assert "timefloor is 0: one job per pilot" in pilot.log


def test_with_timefloor_jobs_follow_each_other_until_none_comes(farm: Farm) -> None:
    farm.set_queue(timefloor=3600)
    jobs = [farm.submit_job("exit 1" if number == 2 else "echo result > out.dat", outputs=["out.dat"][:number % 2])
            for number in range(5)]
    pilot = farm.run_pilot("-v", "3", "-x", "2")
    assert pilot.process.returncode == 0
    assert [farm.final(job)["state"] for job in jobs] == ["finished", "finished", "failed", "finished", "finished"]
    assert len(requests_for_jobs(farm)) == 5 + 2
    assert "reached maximum number of getjob failures: 2 (-x 2)" in pilot.log
    # each job starts anew: nothing of its forerunner is left in the environment or on disk
    assert list(pilot.directory.glob("PanDA_Pilot-*")) == []


def test_the_number_of_requests_is_counted_from_the_last_job(farm: Farm) -> None:
    farm.set_queue(timefloor=3600)
    jobs = [farm.submit_job() for _ in range(3)]
    pilot = farm.run_pilot("-v", "2", "-x", "100")
    assert pilot.process.returncode == 0
    assert [farm.final(job)["state"] for job in jobs] == ["finished"] * 3
    assert len(requests_for_jobs(farm)) == 3 + 2
    assert "getjob requests: 2 since the last job (-v 2)" in pilot.log


def test_no_job_ends_the_pilot_quickly_with_the_limit_in_the_log(farm: Farm) -> None:
    pilot = farm.run_pilot("-x", "1", settings={"server.getjob_wait": 3600, "server.getjob_wait_max": 3600})
    assert pilot.process.returncode == 0
    assert len(requests_for_jobs(farm)) == 1
    assert "no further job: reached maximum number of getjob failures: 1 (-x 1)" in pilot.log


def test_the_lifetime_ends_the_waiting(farm: Farm) -> None:
    farm.set_queue(maxtime=0)
    pilot = farm.run_pilot("-x", "1000000", "-v", "1000000", "-l", "2",
                           settings={"server.getjob_wait": 3600, "server.getjob_wait_max": 3600})
    assert pilot.process.returncode == 0
    assert "option -l is 2 s" in pilot.log


def test_the_lifetime_ends_the_payload_with_its_code(farm: Farm) -> None:
    farm.set_queue(maxtime=0, timefloor=3600)
    gate = farm.gate("payload")
    job, after = farm.submit_job(gate.shell()), farm.submit_job()
    pilot = farm.start_pilot("-l", "10")
    gate.reached()
    assert pilot.wait() == 0
    final = farm.final(job)
    assert (final["state"], final["pilotErrorCode"]) == ("failed", 1213)
    assert "option -l is 10 s" in final["pilotErrorDiag"]
    assert farm.state(after) == "activated"


def test_the_queues_maxtime_wins_over_the_lifetime(farm: Farm) -> None:
    farm.set_queue(maxtime=10)
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    pilot = farm.start_pilot("-l", "300000")
    gate.reached()
    assert pilot.wait() == 0
    assert farm.final(job)["pilotErrorCode"] == 1213
    assert "the queue's maxtime is 10 s" in farm.final(job)["pilotErrorDiag"]


@pytest.mark.parametrize("option", ["True", "False"])
def test_the_next_job_may_be_one_of_the_same_task(farm: Farm, option: str) -> None:
    farm.set_queue(timefloor=3600)
    farm.submit_job(taskID=42)
    other, same = farm.submit_job(taskID=43, currentPriority=900), farm.submit_job(taskID=42, currentPriority=900)
    farm.run_pilot("--allow-same-user", option, "-x", "1")
    tasks = [params.get("task_id", params.get("taskID")) for params in requests_for_jobs(farm)]
    if option == "True":
        assert [str(task) for task in tasks[1:]] == ["42", "42"]
        assert (farm.state(other), farm.state(same)) == ("activated", "holding")
    else:
        assert set(tasks) <= {None, "", 0}
        assert (farm.state(other), farm.state(same)) == ("holding", "holding")


def test_without_pipelining_nothing_overlaps(farm: Farm) -> None:
    farm.set_queue(timefloor=3600)
    out = farm.gate("copyout")
    first, second = farm.submit_job("echo result > first.dat", outputs=["first.dat"]), farm.submit_job()
    pilot = farm.start_gated("-x", "1")
    out.reached()
    assert farm.state(second) == "activated"
    out.open()
    assert pilot.wait() == 0
    granted = [request.time for request in farm.server.requests if request.operation == "acquire_jobs"][1]
    report = next(request.time for request in farm.server.requests
                  if request.params.get("job_id", request.params.get("jobId")) in (first, str(first))
                  and request.params.get("job_status") == "finished")
    assert report <= granted + 1.0
    assert [farm.final(job)["state"] for job in (first, second)] == ["finished", "finished"]


def test_an_experiment_may_be_named_by_its_class(farm: Farm) -> None:
    job = farm.submit_job()
    pilot = farm.run_pilot("--pilot-user", "gated:GatedExperiment")
    assert pilot.process.returncode == 0
    assert farm.final(job)["state"] == "finished"
