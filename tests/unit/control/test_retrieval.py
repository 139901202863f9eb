"""How often a pilot may ask for a job: options -v and -x, timefloor, Harvester and push rules."""

from __future__ import annotations

import pytest

from pilot.control.retrieval import RetrievalLimits


def limits(requests: int = 2, failures: int = 5, *, harvester: bool = False, push: bool = False,
           timefloor: float = 0.0) -> RetrievalLimits:
    return RetrievalLimits.from_options(requests, failures, harvester=harvester, push=push, timefloor=timefloor)


def empty_answer(counter: RetrievalLimits) -> None:
    counter.requested()
    counter.failed()


@pytest.mark.parametrize("requests", [1, 2, 7])
def test_v_allows_exactly_that_many_requests(requests: int) -> None:
    counter = limits(requests, failures=100)
    for _ in range(requests):
        assert counter.refusal(0) is None
        empty_answer(counter)
    assert f"-v {requests}" in str(counter.refusal(0))


def test_x_ends_at_the_nth_failure_and_says_so() -> None:
    counter = limits(requests=100, failures=3)
    for _ in range(3):
        assert counter.refusal(0) is None
        empty_answer(counter)
    assert "getjob failures" in str(counter.refusal(0)) and "-x 3" in str(counter.refusal(0))


def test_a_job_resets_requests_but_not_failures() -> None:
    counter = limits(requests=2, failures=3, timefloor=100)
    empty_answer(counter)
    counter.requested()
    counter.got_job()
    assert counter.refusal(1) is None
    empty_answer(counter)
    empty_answer(counter)
    assert "failures" in str(counter.refusal(1))


def test_without_timefloor_there_is_one_job_per_pilot() -> None:
    counter = limits()
    counter.got_job()
    assert "timefloor is 0" in str(counter.refusal(0))


def test_timefloor_limits_the_time_for_further_jobs_only() -> None:
    counter = limits(timefloor=60)
    assert counter.refusal(1000) is None, "the first job may come at any time"
    counter.got_job()
    assert counter.refusal(59) is None
    assert "timefloor of 60 s" in str(counter.refusal(61))


def test_harvester_mode_allows_sixty_requests_and_push_twelve_failures() -> None:
    assert limits(harvester=True).max_requests == 60
    assert limits(push=True).max_failures == 12
    assert limits(push=True, failures=4).max_failures == 4


def test_hpc_queues_end_with_a_code_of_their_own_after_five_empty_answers() -> None:
    counter = limits(requests=100, failures=100)
    for _ in range(5):
        assert not counter.is_hpc_without_jobs("hpc")
        empty_answer(counter)
    assert counter.is_hpc_without_jobs("HPC") and counter.is_hpc_without_jobs("hpc_special")
    assert not counter.is_hpc_without_jobs("GRID")
