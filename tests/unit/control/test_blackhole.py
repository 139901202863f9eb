"""Black-hole protection: which failures count, what begins a new row, when the pilot ends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, List, Tuple

import pytest

from pilot.common.errors import JobError
from pilot.control.shutdown import StopReason
from pilot.control.watch.blackhole import BlackHole, node_caused
from pilot.info.job import Job


class Pilot:
    """As much of a pilot as the protection sees."""

    def __init__(self, *, goes_on: bool = True, failures: int = 2) -> None:
        self.stops: List[StopReason] = []
        self.notes: List[Tuple[str, str]] = []
        self.ctx: Any = SimpleNamespace(
            exit_error=0, home="/scratch/p", node=SimpleNamespace(host_name="wn7"),
            settings=SimpleNamespace(limits=SimpleNamespace(node_failures=failures)),
            shutdown=SimpleNamespace(stop=self.stops.append),
            store=SimpleNamespace(add_note=lambda job, topic, text: self.notes.append((job, text))))
        self.hole = BlackHole(self.ctx, lambda: goes_on)
        self.jobs = 0

    def end(self, code: int = 0, *, who: str = "", exit_code: Any = None, finished: bool = False) -> None:
        self.jobs += 1
        job = Job(jobid=str(self.jobs))
        job.exit_code = exit_code
        if code:
            job.errors.add(code, "words", who=who)
        self.hole.job_over(job, finished=finished)


@pytest.mark.parametrize(("code", "who", "kind"), [
    (1098, "", "disk"), (1199, "", "disk"), (1110, "", "set-up"), (1186, "", "set-up"), (1306, "", "container"),
    (1325, "", "container"), (1342, "", "stage-in"), (1110, "user", ""), (1110, "release", ""), (1098, "storage", ""),
    (1331, "", ""), (1171, "", ""), (1305, "", ""), (1201, "", ""), (1213, "", ""), (1163, "", ""), (1341, "", ""),
])
def test_what_the_node_has_caused(code: int, who: str, kind: str) -> None:
    job = Job(jobid="1")
    job.errors.add(code, "words", who=who)
    (error,) = job.errors
    assert node_caused(error) == kind


def test_an_error_that_nobody_has_judged_counts_by_its_code() -> None:
    assert node_caused(JobError(1110, "words")) == "set-up"


def test_two_in_a_row_end_the_pilot_with_1332(caplog: pytest.LogCaptureFixture) -> None:
    pilot = Pilot()
    pilot.end(1110)
    assert pilot.stops == []
    pilot.end(1098)
    (reason,) = pilot.stops
    assert (reason.exit_code, pilot.ctx.exit_error) == (1332, 1332)
    assert reason.text == "2 failures in a row that this node has caused: job 1: 1110, job 2: 1098"
    for words in ("job 1 at ", "job 2 at ", "set-up: ", "look at: CVMFS", "look at: space, quota", "/scratch/p", "wn7"):
        assert words in caplog.text
    assert [job for job, _ in pilot.notes] == ["2"]


@pytest.mark.parametrize("between", [
    {"finished": True, "exit_code": 0}, {"code": 1305, "exit_code": 1}, {"code": 1137, "exit_code": 0}])
def test_a_payload_that_has_run_begins_anew(between: Any) -> None:
    pilot = Pilot()
    pilot.end(1110)
    pilot.end(**between)
    pilot.end(1110)
    assert pilot.stops == []
    pilot.end(1110)
    assert len(pilot.stops) == 1


def test_what_says_nothing_of_the_node_neither_counts_nor_begins_anew() -> None:
    pilot = Pilot()
    pilot.end(1110)
    pilot.end(1144)  # killed by the server before its payload
    pilot.end(1360)  # an image that is nowhere
    assert pilot.stops == []
    pilot.end(1110)
    assert len(pilot.stops) == 1


def test_a_pilot_that_would_end_anyhow_ends_as_it_would_have() -> None:
    pilot = Pilot(goes_on=False)
    pilot.end(1110)
    pilot.end(1110)
    assert (pilot.stops, pilot.ctx.exit_error) == ([], 0)
    pilot.hole.stagein_failed(Job(jobid="7"), 1099, "words")
    assert [(reason.text, reason.exit_code) for reason in pilot.stops] == [("the stage-in of job 7 has failed", 0)]


def test_one_failed_stage_in_is_enough() -> None:
    pilot = Pilot(failures=0)
    for _ in range(5):
        pilot.end(1110)
    assert pilot.stops == [], "the setting allows any number"
    pilot.hole.stagein_failed(Job(jobid="7"), 1099, "words")
    assert [(reason.text, reason.exit_code) for reason in pilot.stops] == [("the stage-in of job 7 has failed", 1332)]
    assert pilot.ctx.exit_error == 1332
