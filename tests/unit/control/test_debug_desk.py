"""Commands of debug mode beside the monitor: one at a time, answers for whoever still waits, none for ever."""

from __future__ import annotations

import queue
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Iterator

import pytest

from pilot.control import debugmode
from pilot.control.debugmode import DebugDesk
from pilot.control.messages import DebugAnswered
from pilot.control.monitor import MonitorComponent, Watch
from pilot.info.job import Job
from pilot.payload.debugplace import DebugAnswer, DebugCommandRefused

PATIENCE = 60.0


class Office:
    """A desk whose commands do what a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = SimpleNamespace(pilot=SimpleNamespace(free_space_limit=0))
        self.answers: queue.SimpleQueue[DebugAnswered] = queue.SimpleQueue()
        self.desk = DebugDesk(SimpleNamespace(supervisor=None, environ={}, settings=settings),  # type: ignore[arg-type]
                              self.answers.put)
        self.running: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.go_on = threading.Semaphore(0)
        self.result: Any = DebugAnswer("text")

        def answer(command: str, place: Any) -> DebugAnswer:
            self.running.put(f"{place.workdir.name}: {command}")
            assert self.go_on.acquire(timeout=PATIENCE)
            if isinstance(self.result, Exception):
                raise self.result
            return DebugAnswer(*self.result)

        monkeypatch.setattr("pilot.payload.debug.debug_answer", answer)

    def ask(self, job: str, command: str = "ls") -> bool:
        return self.desk.ask(Job(jobid=job, workdir=Path(f"/work/{job}")), command, None)

    def next(self) -> DebugAnswered:
        return self.answers.get(timeout=PATIENCE)


@pytest.fixture
def office(monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    made = Office(monkeypatch)
    yield made
    made.go_on.release(100)


def test_one_at_a_time_in_the_order_of_asking(office: Office) -> None:
    assert office.ask("1")
    assert office.ask("2", "ps")
    assert not office.ask("1", "du"), "its answer is still to come"
    assert office.running.get(timeout=PATIENCE) == "1: ls"
    assert office.running.empty()
    office.go_on.release()
    assert office.next() == DebugAnswered("1", "ls", "text")
    assert office.running.get(timeout=PATIENCE) == "2: ps"
    office.go_on.release()
    assert office.next() == DebugAnswered("2", "ps", "text")
    assert office.ask("1", "du")
    office.go_on.release()
    assert office.next().command == "du"


def test_nobody_hears_of_a_dropped_command_and_the_next_one_runs(office: Office) -> None:
    assert office.ask("1", "du")
    office.running.get(timeout=PATIENCE)
    office.desk.drop("1")
    assert office.ask("1", "ls")
    assert office.running.get(timeout=PATIENCE) == "1: ls"
    office.go_on.release(2)
    assert office.next() == DebugAnswered("1", "ls", "text")
    office.desk.drop("1")
    office.desk.drop("unknown")


@pytest.mark.parametrize(("problem", "words"), [
    (DebugCommandRefused("not allowed here"), "ls: not allowed here"), (OSError(12, "no memory"), "no memory"),
    (ZeroDivisionError("oops"), "internal error: ZeroDivisionError"),
])
def test_whatever_goes_wrong_is_an_answer(office: Office, problem: Exception, words: str) -> None:
    office.result = problem
    office.ask("1")
    office.go_on.release()
    assert words in office.next().text


def test_commands_that_hang_are_left_behind_but_not_without_limit(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debugmode, "_SPARE", -29.95)
    for _ in range(2):
        assert office.ask("1")
        assert "no answer within" in office.next().text
    assert office.ask("1")
    assert office.next().text == "ls: not done, 2 earlier commands hang in the file system"


def test_a_core_file_is_told(office: Office) -> None:
    office.result = DebugAnswer("text", Path("/work/1/core.5"))
    office.ask("1", "gdb --pid % -ex gcore")
    office.go_on.release()
    assert office.next().core == "/work/1/core.5"


def test_debug_heartbeats_keep_their_period_exactly() -> None:
    ctx = SimpleNamespace(settings=SimpleNamespace(pilot=SimpleNamespace(debug_heartbeat=60, heartbeat=1800)))
    monitor = MonitorComponent(ctx)  # type: ignore[arg-type]
    job = Job(jobid="1")
    watch = Watch(job, job, debug=True)
    monitor._schedule_heartbeat(watch)
    first = watch.due
    for turn in range(1, 5):
        monitor._schedule_heartbeat(watch, follows=True)
        assert watch.due == first + 60 * turn, "not a period after whenever the last one was made"
    watch.due = time.monotonic() - 1000  # the node slept
    monitor._schedule_heartbeat(watch, follows=True)
    assert watch.due > time.monotonic(), "what was missed is not made up for"
    watch.debug = False
    monitor._schedule_heartbeat(watch)
    assert watch.due > time.monotonic() + 1000
