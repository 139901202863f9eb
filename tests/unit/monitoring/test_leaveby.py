"""The one leave-by time: which end decides, how much is kept before it, when no job is taken any more."""

from __future__ import annotations

import time
from typing import Optional

import pytest

from pilot.monitoring.leaveby import NEVER, End, LeaveBy, earliest, from_epoch, margin_of

DAY = 86400.0
INF = float("inf")


def test_without_any_end_nobody_leaves() -> None:
    leave = LeaveBy()
    assert leave.now == NEVER == earliest({}, 0.0, 600)
    assert (leave.refusal(1e9), leave.remaining(1e9), leave.now.at) == (None, None, INF)


@pytest.mark.parametrize(("end", "need", "margin"), [
    (End(DAY, "", DAY), 0, 600), (End(DAY, "", DAY), 3000, 3000), (End(DAY, "", DAY), 1e6, DAY / 4),
    (End(10, "", 10), 0, 1), (End(10, "", 10), 100, 2.5), (End(100, "", 3600), 0, 360),
    (End(1080, ""), 0, 600), (End(1080, ""), 3000, 600), (End(20000, ""), 3000, 3000), (End(5, ""), 0, 600),
])
def test_what_is_kept_before_an_end(end: End, need: float, margin: float) -> None:
    assert margin_of(end, 0.0, 600, need) == margin


def test_the_earliest_decides_and_is_named() -> None:
    ends = {"slot": End(DAY, "the queue's maxtime is 86400 s", DAY), "lease": End(7200, "option -L is 7200 s", 7200)}
    found = earliest(ends, 0.0, 600)
    assert (found.at, found.end, found.length) == (6600, 7200, 7200)
    assert found.text == "option -L is 7200 s, less 600 s for the way out"
    # an end that was announced keeps the whole margin, and may come before one that is earlier
    ends["shutdown"] = End(7000, "shutdowntime announces 7000")
    assert earliest(ends, 0.0, 600).at == 6400
    ends = {"short": End(1000, "short", 1000), "shutdown": End(1100, "announced")}
    assert earliest(ends, 0.0, 600).text.startswith("announced")


def test_what_the_outputs_need_is_said() -> None:
    leave = LeaveBy(0.0, 600, 1800)
    assert leave.set("slot", End(DAY, "the queue's maxtime is 86400 s", DAY))
    assert not leave.set_need("1", 500, "small")
    assert leave.set_need("1", 3000, "20.0 GB at 10.0 MB/s, as inputs came")
    assert leave.now.at == DAY - 3000
    assert leave.now.text.endswith("less 3000 s for the way out (20.0 GB at 10.0 MB/s, as inputs came)")
    assert leave.set_need("2", 1000) and leave.now.at == DAY - 4000, "two jobs leave one after the other"
    assert leave.set_need("1", 0) and leave.set_need("2", 0) and leave.now.at == DAY - 600


def test_an_end_that_is_taken_back_is_forgotten() -> None:
    leave = LeaveBy(0.0, 600, 1800)
    leave.set("slot", End(DAY, "slot", DAY))
    assert leave.set("shutdowntime", End(5000, "announced"))
    assert not leave.set("shutdowntime", End(5000.4, "announced")), "the clock's jitter is no news"
    assert leave.set("shutdowntime", None)
    assert leave.now.at == DAY - 600
    assert set(leave.ends) == {"slot"}


@pytest.mark.parametrize(("end", "now", "words"), [
    (End(DAY, "maxtime", DAY), 0, None), (End(DAY, "maxtime", DAY), DAY - 2401, None),
    (End(DAY, "maxtime", DAY), DAY - 2399, "1799 s are left, too few for another job (1800 s"),
    (End(DAY, "maxtime", DAY), DAY - 600, "the time limit of this pilot is reached (maxtime"),
    # incident k: a shutdown in 18 minutes
    (End(1080, "$MACHINEFEATURES/shutdowntime announces 1080"), 0, "480 s are left, too few for another job"),
    (End(10, "option -l", 10), 1, None), (End(10, "option -l", 10), 8.5, "0 s are left"),
])
def test_no_job_is_taken_that_cannot_end(end: End, now: float, words: Optional[str]) -> None:
    leave = LeaveBy(0.0, 600, 1800)
    leave.set("end", end)
    found = leave.refusal(now)
    if words is None:
        assert found is None
    else:
        assert found is not None
        assert words in found and end.text in found


def test_the_server_is_told_what_is_left_of_a_slot_that_is_not_new() -> None:
    leave = LeaveBy(0.0, 600, 1800)
    leave.set("slot", End(DAY, "maxtime", DAY))
    assert leave.remaining(0.0) is None, "jobs made for the whole maxtime go to new slots"
    assert leave.remaining(DAY / 2) == DAY / 2 - 600
    leave.set("shutdowntime", End(20000, "announced"))
    assert leave.remaining(0.0) == 19400


def test_the_jobs_own_end() -> None:
    leave = LeaveBy(0.0, 600, 1800)
    leave.set("slot", End(DAY, "maxtime", DAY))
    assert leave.of_job(None) == leave.now
    found = leave.of_job(End(4000, "the job's maxWalltime allows 3000 s", 3000))
    assert (found.at, found.end) == (3700, 4000)
    assert leave.of_job(End(2 * DAY, "later", DAY)).end == DAY


@pytest.mark.parametrize(("epoch", "at"), [
    (1100.0, 600.0), (1000.5, 500.5), (999.0, 499.0), (600.0, 100.0),
    (500.0, None), (0.0, None), (-5.0, None), (1000.0 + 11 * 365 * DAY, None), (1e17, None),
])
def test_epochs_become_monotonic_and_nonsense_nothing(epoch: float, at: Optional[float]) -> None:
    """The pilot started at monotonic 50; now it is 500, by the wall clock 1000."""
    assert from_epoch(epoch, 50.0, now=500.0, wall=1000.0) == at


def test_a_clock_set_back_an_hour_moves_what_others_say_and_nothing_else() -> None:
    said = 10_000.0
    before = from_epoch(said, 0.0, now=500.0, wall=5000.0)
    after = from_epoch(said, 0.0, now=560.0, wall=5060.0 - 3600.0)
    assert (before, after) == (5500.0, 5500.0 + 3600.0)
    leave = LeaveBy(time.monotonic() - 10, 600, 1800)
    leave.set("slot", End(time.monotonic() + DAY, "maxtime", DAY))
    assert leave.refusal() is None
