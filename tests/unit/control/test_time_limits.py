"""The timers of a job's time limit: what follows when it is reached, and that an end taken back takes them along."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, List, Tuple

import pytest

from pilot.control.lifecycle import Event, JobState, Stage
from pilot.control.timers import Timers
from pilot.control.watch import timelimits
from pilot.control.watch.timelimits import TimeLimits
from pilot.info.job import Job
from pilot.monitoring.leaveby import End, LeaveBy
from pilot.util.cancel import CancelToken

DAY = 86400.0


class Clock:
    """Monotonic time as the test wants it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Pilot:
    """As much of a pilot as the limits see."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        monkeypatch.setattr(timelimits, "time", SimpleNamespace(monotonic=self.clock))
        monkeypatch.setenv("REACHED_MAXTIME", "")
        self.aborts: List[Tuple[Event, int, str]] = []
        self.stops: List[str] = []
        self.limits: List[Any] = []
        self.track = SimpleNamespace(state=JobState(Stage.PAYLOAD), tail=CancelToken())
        self.leave = LeaveBy(0.0, 600, 1800)
        self.leave.set("slot", End(DAY, "the queue's maxtime is 86400 s", DAY))
        ctx: Any = SimpleNamespace(
            leave=self.leave, queue=SimpleNamespace(job_maxwalltime=True, pilot_walltime_grace=1.5),
            settings=SimpleNamespace(shutdown=SimpleNamespace(term_grace=10),
                                     limits=SimpleNamespace(transfer_rate=10_000_000)),
            store=SimpleNamespace(moved=lambda way, least: (0, 0.0), set_limit=lambda job, limit: self.limits.append(
                limit)),
            shutdown=SimpleNamespace(stop=lambda reason: self.stops.append(reason.text)),
            road=SimpleNamespace(track=lambda job: self.track, abort=lambda job, event, code, text: self.aborts.append(
                (event, code, text))))
        self.timers = Timers(self.clock)
        self.times = TimeLimits(ctx, self.timers)
        self.job = Job(jobid="1")

    def at(self, moment: float) -> None:
        self.clock.now = moment
        self.timers.run_due()


@pytest.fixture
def pilot(monkeypatch: pytest.MonkeyPatch) -> Pilot:
    return Pilot(monkeypatch)


def test_a_payload_is_ended_at_the_leave_by_time_and_its_log_has_a_limit_too(pilot: Pilot) -> None:
    pilot.times.entered(pilot.job)
    pilot.times.payload_started(pilot.job, 100.0)
    assert (pilot.limits[-1].name, pilot.limits[-1].value) == ("time", DAY - 700)
    pilot.at(DAY - 601)
    assert pilot.aborts == []
    pilot.at(DAY - 600)
    ((event, code, text),) = pilot.aborts
    assert (event, code) == (Event.LIMIT, 1213)
    assert text == ("the max batch system time limit has been reached: the queue's maxtime is 86400 s, less 600 s for "
                    "the way out")
    assert pilot.stops == [text]
    pilot.at(DAY - 31)
    assert not pilot.track.tail.cancelled
    pilot.at(DAY - 30)
    assert pilot.track.tail.cancelled


def test_outputs_may_leave_until_the_last_call(pilot: Pilot) -> None:
    pilot.track.state = JobState(Stage.STAGEOUT)
    pilot.times.entered(pilot.job)
    pilot.at(DAY - 151)
    assert (pilot.aborts, len(pilot.stops)) == ([], 1)
    pilot.at(DAY - 150)
    assert [code for _, code, _ in pilot.aborts] == [1213]


def test_an_end_that_is_taken_back_takes_its_last_call_along(pilot: Pilot) -> None:
    pilot.track.state = JobState(Stage.STAGEOUT)
    pilot.times.entered(pilot.job)
    pilot.leave.set("shutdowntime", End(1000, "announced"))
    pilot.times.moved()
    pilot.at(500)
    assert len(pilot.stops) == 1
    pilot.leave.set("shutdowntime", None)
    pilot.times.moved()
    pilot.at(2000)
    assert (pilot.aborts, pilot.track.tail.cancelled) == ([], False)


def test_the_log_of_a_failed_job_is_left_alone_until_the_tail_ends(pilot: Pilot) -> None:
    pilot.track.state = JobState(Stage.STAGEOUT, failed=True)
    pilot.times.entered(pilot.job)
    pilot.at(DAY - 100)
    assert pilot.aborts == []


def test_the_jobs_own_limit_counts_from_when_it_goes_on(pilot: Pilot) -> None:
    pilot.job.maxwalltime = 2000
    pilot.times.entered(pilot.job)  # 3000 s with the queue's grace, less a tenth
    pilot.times.waits("1", goes_on=False)
    pilot.at(5000)
    assert pilot.aborts == []
    pilot.times.waits("1", goes_on=True)
    pilot.at(5000 + 2699)
    assert pilot.aborts == []
    pilot.at(5000 + 2700)
    assert "the job's maxWalltime allows 3000 s" in pilot.aborts[0][2]


def test_what_is_written_moves_the_limit_and_a_job_that_is_gone_no_longer_does(pilot: Pilot) -> None:
    pilot.times.entered(pilot.job)
    pilot.times.written(pilot.job, 10**12)
    assert pilot.leave.now.at == DAY - 600, "its payload has not begun"
    pilot.times.payload_started(pilot.job, 100.0)
    pilot.times.written(pilot.job, 40 * 10**9)  # 4000 s at 10 MB/s, half as much again, and the grace
    assert pilot.leave.now.at == DAY - 6010
    assert "40.0 GB at 10.0 MB/s, setting limits.transfer_rate" in pilot.leave.now.text
    pilot.at(DAY - 6010)
    assert len(pilot.aborts) == 1
    pilot.times.gone("1")
    assert pilot.leave.now.at == DAY - 600
