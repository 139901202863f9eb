"""Steps with deadlines, threads that are left behind, and the two threads that are no components."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, List, Sequence

import pytest

from pilot.control.component import Component
from pilot.control.data import coming_on
from pilot.control.lifecycle import JobState, Stage
from pilot.control.road import Road, Track
from pilot.control.watch.watchdog import stacks
from pilot.info.job import Job
from pilot.panda.outbox import Outbox
from pilot.payload.process import Supervisor
from pilot.settings import load_settings
from pilot.staging.context import StagingContext
from pilot.store.pilotdb import PilotDB

PATIENCE = 30.0


class Part(Component):
    """Does what its messages say."""

    name = "part"

    def __init__(self, ctx: Any) -> None:
        super().__init__(ctx)
        self.errors: List[BaseException] = []

    def handle(self, message: Callable[[Part], None]) -> None:
        message(self)


@pytest.fixture
def ctx() -> Any:
    context = SimpleNamespace(settings=load_settings(None, {}), store=PilotDB(None))
    context.road = Road(context)  # type: ignore[arg-type]
    return context


def test_a_step_has_the_time_that_it_was_given(ctx: Any) -> None:
    part = Part(ctx)
    part.message = object()
    part.say("a step")
    began = part._step_began
    assert not part.overdue(began + 1799) and part.overdue(began + 1801)
    part.say("a long one", 7200)
    assert not part.overdue(part._step_began + 7199) and part.overdue(part._step_began + 7201)
    assert "'a long one' takes" in part.doing and "7200 s" in part.doing
    part.postpone(1000)
    assert not part.overdue(part._step_began + 8199)
    part.say("one without limit", float("inf"))
    assert not part.overdue(1e12)
    part.say("a step")
    part.message = None
    assert not part.overdue(1e12)  # it waits for work


def test_progress_of_transfers_begins_a_step_anew(ctx: Any) -> None:
    part = Part(ctx)
    part.message = object()
    part.say("files", 100)
    told: List[object] = []

    def record(attempt: object) -> None:
        told.append(attempt)

    def show(direction: str, copies: Sequence[object]) -> None:
        told.append(direction)

    context = StagingContext(
        settings=ctx.settings, options=None, queue=None, pilot_home=Path(), launch_dir=Path(),  # type: ignore[arg-type]
        record=record, show=show)
    wrapped = coming_on(part, context)
    for call in (lambda: wrapped.record("attempt"), lambda: wrapped.show("in", [])):  # type: ignore[arg-type]
        part._step_ends = 0.0
        call()
        assert not part.overdue(part._step_began + 99) and part.overdue(part._step_began + 101)
    assert told == ["attempt", "in"]


def test_a_thread_that_is_left_behind_says_nothing_any_more_and_another_one_works_on(ctx: Any) -> None:
    part = Part(ctx)
    stuck, go, ended, done = (threading.Event() for _ in range(4))

    def hang(_part: Part) -> None:
        stuck.set()
        go.wait(PATIENCE)
        try:
            _part.say("I am back")
        finally:
            ended.set()

    part.start()
    old = part._thread
    part.post(hang)
    assert stuck.wait(PATIENCE)
    part.renew()
    part.post(lambda _part: done.set())
    assert done.wait(PATIENCE)
    go.set()
    assert ended.wait(PATIENCE)
    old.join(PATIENCE)
    assert not old.is_alive() and part.lives
    assert "I am back" not in str(ctx.store.statuses())
    part.stop()
    part.join(PATIENCE)
    assert part.lives  # it was told to end


def test_a_thread_that_was_quick_after_all_gives_the_next_message_back(ctx: Any) -> None:
    part = Part(ctx)
    done: List[str] = []
    over = threading.Event()

    def work(_part: Part) -> None:
        done.append("done" if threading.current_thread() is _part._thread else "by the wrong thread")
        over.set()

    part.start()
    old = part._thread
    part.renew()  # while the old one waits for a message
    while old.is_alive():
        over.clear()
        part.post(work)
        assert over.wait(PATIENCE)
        old.join(0.01)
    assert set(done) == {"done"}
    part.stop()
    part.join(PATIENCE)


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.DONE])
def test_a_job_is_taken_over_in_the_stages_of_the_stuck_component_only(ctx: Any, stage: Stage) -> None:
    from pilot.control.watch.watchdog import _STAGES

    for stages in _STAGES.values():
        posted: List[object] = []
        catcher = SimpleNamespace(post=posted.append)
        road = Road(ctx)
        road.job_component = road.stagein = road.stageout = road.payload = road.monitor = catcher  # type: ignore
        ctx.reporter = SimpleNamespace(post=lambda *_a, _to=posted, **_k: _to.append("report"))
        job = Job(jobid="1")
        road._tracks["1"] = Track(job, JobState(stage=stage))
        road.take_over(job, stages, 1317, "stuck")
        assert bool(posted) is (stage in stages) is job.cancel.cancelled
        assert posted.count("report") == (stage is Stage.REPORTING and stage in stages)


def test_a_thread_that_an_unexpected_exception_ends_is_seen(ctx: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _arguments: None)
    part = Part(ctx)

    def die(_part: Part) -> None:
        raise KeyboardInterrupt

    part.start()
    part.post(die)
    part._thread.join(PATIENCE)
    assert not part.lives and part.message is die


def test_all_stacks_are_shown_with_names_and_without_reading_sources(monkeypatch: Any) -> None:
    import linecache

    monkeypatch.setattr(linecache, "getlines", lambda *_: pytest.fail("a file was read"))
    hold = threading.Event()
    thread = threading.Thread(target=hold.wait, name="a-thread-that-waits", daemon=True)
    thread.start()
    text = stacks()
    hold.set()
    assert "a-thread-that-waits:" in text and "threading.py" in text
    assert "test_all_stacks_are_shown" in text


# --- no components ----------------------------------------------------------------------------------------------------


class Server:
    """Hangs in its first call, or raises something that nobody expects."""

    def __init__(self, problem: str) -> None:
        self.problem, self.calls = problem, 0
        self.reached, self.go, self.heard = threading.Event(), threading.Event(), threading.Event()

    def update_jobs(self, messages: Sequence[Any]) -> Any:
        from pilot.panda.answers import UpdateAnswer, Verdict

        self.calls += 1
        if self.calls == 1:
            self.reached.set()
            if self.problem == "dies":
                raise SystemExit
            self.go.wait(PATIENCE)
        self.heard.set()
        return [UpdateAnswer(Verdict.DELIVERED)] * len(messages)


@pytest.mark.parametrize("problem", ["dies", "hangs"])
def test_a_sender_that_hangs_or_has_died_is_replaced(problem: str, monkeypatch: Any) -> None:
    settings = load_settings(None, {"PANDA_PILOT_SERVER__CONNECT_TIMEOUT": "0.1", "PANDA_PILOT_SERVER__READ_TIMEOUT":
                                    "0.1", "PANDA_PILOT_MONITOR__CALL_TIME": "1"})
    monkeypatch.setattr(threading, "excepthook", lambda _arguments: None)
    server = Server(problem)
    outbox = Outbox(PilotDB(None), server, settings, lambda _job, _commands: None)  # type: ignore[arg-type]
    assert outbox.trouble() == ""
    outbox.start()
    outbox.post("1", {"state": "running", "jobId": 1}, final=False)
    assert server.reached.wait(PATIENCE)
    if problem == "dies":
        outbox._thread.join(PATIENCE)
        assert outbox.trouble() == "has died"
    else:
        outbox._busy_since = -1e9
        assert outbox.trouble() == "is stuck"
    outbox.revive()
    outbox.post("2", {"state": "finished", "jobId": 2}, final=True)
    assert outbox.drain(PATIENCE) == 0 and server.heard.is_set() and outbox.trouble() == ""
    server.go.set()
    outbox.close()


def test_a_reaper_that_has_died_is_replaced(tmp_path: Path, monkeypatch: Any) -> None:
    import pilot.payload.process as module

    class Broken(Exception):
        pass

    supervisor = Supervisor()
    supervisor.start()
    monkeypatch.setattr(threading, "excepthook", lambda _arguments: None)
    real = module.os.waitid

    def fail(*_arguments: Any) -> Any:
        raise Broken

    monkeypatch.setattr(module.os, "waitid", fail)
    child = supervisor.spawn(["sleep", "0.1"], cwd=tmp_path, env={"PATH": "/usr/bin:/bin"})
    thread = supervisor._thread
    assert thread is not None
    thread.join(PATIENCE)
    assert supervisor.trouble() == "has died"
    monkeypatch.setattr(module.os, "waitid", real)
    supervisor.revive()
    status = child.wait(PATIENCE)
    assert status is not None and status.code == 0 and supervisor.trouble() == ""
    supervisor.close()
